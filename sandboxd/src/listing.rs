//! What an operator asks about sandboxes: which there are, and to end one.

use crate::alert::Alert;
use crate::runs::lock;
use crate::serve::Sandboxd;
use crate::serving::Serving;
use crate::state::place;
use proto::bounded::{BoundedStr, BoundedVec};
use proto::ids::SessionKey;
use proto::watch::{Explained, SandboxAnswer, SandboxRow, SandboxVerb};
use std::time::Duration;

/// Rows of an answer.
const ROWS: usize = 64;

impl Sandboxd {
    pub(crate) async fn on_sandbox_verb(&self, verb: &SandboxVerb) -> SandboxAnswer {
        match verb {
            SandboxVerb::List => SandboxAnswer::Rows(BoundedVec::new(self.rows().await).unwrap_or_default()),
            SandboxVerb::Explain(session) => SandboxAnswer::Explained(Box::new(self.explain(session).await)),
            SandboxVerb::Kill(session) => SandboxAnswer::Done(self.kill(session).await),
        }
    }

    /// Containers, and conversations that have a command running in the native backend.
    async fn rows(&self) -> Vec<SandboxRow> {
        let running = self.running.each();
        let count = |session: &SessionKey| {
            u32::try_from(running.iter().filter(|running| *running == session).count()).unwrap_or(u32::MAX)
        };
        let mut rows = Vec::new();
        if let Serving::Docker(docker, _) = self.serving().await.as_ref() {
            for (container, session, age) in docker.watch().list() {
                let session = session.unwrap_or(SessionKey(BoundedStr::default()));
                rows.push(self.row(&session, &container, age, count(&session)));
            }
        }
        for session in &running {
            if !rows.iter().any(|row: &SandboxRow| row.session == *session) {
                rows.push(self.row(session, "", Duration::ZERO, count(session)));
            }
        }
        rows.truncate(ROWS);
        for row in &mut rows {
            row.suspended = self.standing(&row.session).await.suspended;
        }
        rows
    }

    /// What holds for the conversation's next command, from what a command itself is judged by.
    async fn explain(&self, session: &SessionKey) -> Explained {
        let serving = self.serving_for(session).await;
        let standing = self.standing(session).await;
        let place = place(self.settings.scope, session);
        let (container, age, image) = match serving.as_ref() {
            Serving::Docker(docker, _) => {
                let its = docker.watch().list().into_iter().find(|(_, whose, _)| whose.as_ref() == Some(&place));
                let (container, _, age) = its.unwrap_or_default();
                (container, age, docker.image())
            }
            Serving::Native(..) | Serving::Nowhere(_) => (String::new(), Duration::ZERO, ""),
        };
        let running = self.running.each().iter().filter(|running| *running == session).count();
        let mut row = self.row(session, &container, age, u32::try_from(running).unwrap_or(u32::MAX));
        row.suspended = standing.suspended;
        let (backend, detail) = serving.described();
        let tools = self.judge.tools(session, standing.tainted).into_iter().map(BoundedStr::truncated).collect();
        Explained {
            row,
            backend,
            detail: BoundedStr::truncated(&detail),
            image: BoundedStr::truncated(image),
            place,
            agent: self.sight(session, &serving),
            tainted: standing.tainted,
            closed: self.may_pass(session).err(),
            tools: BoundedVec::new(tools).unwrap_or_default(),
        }
    }

    fn row(&self, session: &SessionKey, container: &str, age: Duration, running: u32) -> SandboxRow {
        let alert: &Alert = &self.alert;
        let (class, signals) = alert.score(session);
        SandboxRow {
            session: session.clone(),
            container: BoundedStr::truncated(container),
            running,
            age_s: age.as_secs(),
            class,
            signals: u32::try_from(signals).unwrap_or(u32::MAX),
            // The vault says.
            suspended: false,
            quarantined: lock(&self.quarantined).contains(session),
        }
    }

    /// How many sandboxes were ended.
    async fn kill(&self, session: &SessionKey) -> u32 {
        let running = self.running.each().contains(session);
        let mut ended = u32::from(running);
        if let Serving::Docker(docker, _) = self.serving_for(session).await.as_ref() {
            ended = u32::from(docker.watch().of_session(&place(self.settings.scope, session)).is_some());
            docker.discard(&place(self.settings.scope, session)).await;
        }
        self.alert.end(session);
        ended
    }
}
