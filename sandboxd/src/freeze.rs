//! Ending what runs: because Moltbot goes down, or because something looks like an attack.

use crate::serve::{RUNS, Sandboxd};
use crate::serving::Serving;
use proto::bounded::{BoundedStr, BoundedVec};
use proto::control::FromRole;
use proto::ids::SessionKey;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// How long a freeze waits for runs to end: less than broker waits for it.
const FREEZE: Duration = Duration::from_secs(4);

impl Sandboxd {
    pub(crate) async fn on_drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.drain.notify_waiters();
        // Every run hears of it and ends as aborted; its outcome is recorded before this returns.
        let all = u32::try_from(RUNS).unwrap_or(u32::MAX);
        let _ = timeout(Duration::from_secs(4), self.runs.acquire_many(all)).await;
        let _ = self.words.send(FromRole::Drained).await;
    }

    pub(crate) async fn drained(&self) {
        loop {
            let notified = self.drain.notified();
            if self.draining.load(Ordering::Acquire) {
                return;
            }
            notified.await;
        }
    }

    /// Every run hears of the closed gate; with Docker every container is ended besides, idle ones too. Broker hears of it
    /// within the time it waits, whatever the engine does.
    pub(crate) async fn on_freeze(self: Arc<Self>, sessions: Vec<SessionKey>) {
        let begun = Instant::now();
        let work = Arc::clone(&self);
        // A task of its own: what takes longer goes on.
        let work = tokio::spawn(async move { work.end_everything().await });
        let ended = timeout(FREEZE, work).await;
        let detail = match ended.map(Result::unwrap_or_default) {
            Ok(containers) => format!("{} commands and {containers} containers were ended", sessions.len()),
            Err(_) => format!("{} commands are still being ended: the engine is slow", sessions.len()),
        };
        let detail = BoundedStr::truncated(&format!("{detail} in {} ms", begun.elapsed().as_millis()));
        let sessions = BoundedVec::new(sessions).unwrap_or_default();
        let _ = self.words.send(FromRole::Frozen { sessions, detail }).await;
    }

    /// Returns how many containers there were.
    pub(crate) async fn end_everything(&self) -> usize {
        // No look for a backend now: where none was found yet, nothing runs.
        let serving = self.serving.lock().await.as_ref().map(|(_, serving)| Arc::clone(serving));
        let Some(Serving::Docker(docker, _)) = serving.as_deref() else {
            self.gate.emptied().await;
            return 0;
        };
        // What is frozen because of what was seen in it is looked at first.
        self.alert.kept().await;
        let mut ended = docker.freeze().await;
        self.gate.emptied().await;
        // One that was just being made for a command which then heard of the gate.
        // The engine may still name what it is just removing.
        ended.extend(docker.freeze().await);
        ended.len()
    }
}
