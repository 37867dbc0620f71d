//! Which conversations have a command running: what a freeze ends, and whom it puts apart.

use proto::ids::{RunId, SessionKey};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A command that was cut off so shortly before a freeze was part of what led to it: where gateway falls, its commands end
/// before broker says anything.
const JUST_NOW: Duration = Duration::from_secs(5);
/// Commands that were cut off and are remembered.
const REMEMBERED: usize = 16;

/// Runs that are under way, and the last that were cut off.
#[derive(Debug, Default)]
pub struct Runs(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    running: BTreeMap<RunId, SessionKey>,
    cut: VecDeque<(Instant, SessionKey)>,
}

/// A run that is under way, for as long as this lives.
#[derive(Debug)]
pub struct Running<'r>(&'r Runs, RunId);

impl Runs {
    /// A run begins.
    pub fn begin(&self, run: &RunId, session: &SessionKey) -> Running<'_> {
        lock(&self.0).running.insert(run.clone(), session.clone());
        Running(self, run.clone())
    }

    /// The conversation of every run that is under way.
    #[must_use]
    pub fn each(&self) -> Vec<SessionKey> {
        lock(&self.0).running.values().cloned().collect()
    }

    /// Conversations that have one running, or had one that was cut off just now.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionKey> {
        let runs = lock(&self.0);
        let cut = runs.cut.iter().filter(|(at, _)| at.elapsed() < JUST_NOW).map(|(_, session)| session);
        runs.running.values().chain(cut).cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }
}

impl Running<'_> {
    /// It did not end by itself.
    pub fn cut(&self) {
        let mut runs = lock(&self.0.0);
        let session = runs.running.get(&self.1).cloned();
        runs.cut.extend(session.map(|session| (Instant::now(), session)));
        while runs.cut.len() > REMEMBERED {
            runs.cut.pop_front();
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        lock(&self.0.0).running.remove(&self.1);
    }
}

/// A panic ends the process, so no lock is ever found poisoned.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::bounded::BoundedStr;

    fn session(name: &str) -> SessionKey {
        SessionKey(BoundedStr::truncated(name))
    }

    fn run(name: &str) -> RunId {
        RunId(BoundedStr::truncated(name))
    }

    #[test]
    fn session_is_known_while_its_run_lives_and_shortly_after_it_was_cut_off() {
        let runs = Runs::default();
        let (ended, cut) = (runs.begin(&run("1"), &session("ended")), runs.begin(&run("2"), &session("cut")));
        assert_eq!(runs.sessions(), [session("cut"), session("ended")]);
        cut.cut();
        drop((ended, cut));
        assert_eq!(runs.sessions(), [session("cut")], "one that ended by itself is nobody's business");
        lock(&runs.0).cut[0].0 = Instant::now().checked_sub(JUST_NOW).unwrap();
        assert!(runs.sessions().is_empty());
    }
}
