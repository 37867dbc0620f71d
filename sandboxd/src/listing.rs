//! What an operator asks about sandboxes: which there are, and to end one.

use crate::reacting::Alert;
use crate::runs::lock;
use crate::serve::Sandboxd;
use crate::serving::Serving;
use crate::state::place;
use proto::bounded::{BoundedStr, BoundedVec};
use proto::ids::SessionKey;
use proto::watch::{SandboxAnswer, SandboxRow, SandboxVerb};
use std::time::Duration;

/// Rows of an answer.
const ROWS: usize = 64;

impl Sandboxd {
    pub(crate) async fn on_sandbox_verb(&self, verb: &SandboxVerb) -> SandboxAnswer {
        match verb {
            SandboxVerb::List => SandboxAnswer::Rows(BoundedVec::new(self.rows().await).unwrap_or_default()),
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
        rows
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
            suspended: self.is_suspended(session),
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
