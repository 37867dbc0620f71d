//! Commands that were handed over: they run on while nobody waits, and what they wrote is kept up to a cap, the oldest
//! going first. Each belongs to one conversation and is seen by no other.

use crate::job::Handle;
use crate::runs::lock;
use proto::bounded::{BoundedStr, BoundedVec};
use proto::edge::Refusal;
use proto::ids::{RunId, SessionKey};
use proto::sandbox::{ProcessInfo, RunState};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Bytes of its log that are kept, and bytes that wait for a poll.
const KEPT: usize = 200_000;
/// How long one that ended is kept.
const ENDED: Duration = Duration::from_secs(30 * 60);
/// Of one conversation, ended ones among them.
const EACH: usize = 16;
/// Of all.
const ALL: usize = 64;
/// Lines of a log where nobody says how many.
const LINES: usize = 200;

/// One of them.
pub(crate) struct Process {
    pub(crate) run: RunId,
    command: BoundedStr<512>,
    begun: Instant,
    handle: Handle,
    kept: Mutex<Kept>,
    changed: Notify,
    unwanted: AtomicBool,
    kill: Notify,
}

#[derive(Default)]
struct Kept {
    log: VecDeque<u8>,
    lost: u64,
    fresh: VecDeque<(bool, Vec<u8>)>,
    fresh_bytes: usize,
    fresh_lost: u64,
    ended: Option<(Instant, RunState)>,
}

/// What a poll is answered with.
pub(crate) struct Polled {
    pub(crate) pieces: Vec<(bool, Vec<u8>)>,
    pub(crate) state: RunState,
    pub(crate) dropped: u64,
}

/// Part of a log.
pub(crate) struct Excerpt {
    pub(crate) text: Vec<u8>,
    pub(crate) state: RunState,
    pub(crate) first: u32,
    pub(crate) lines: u32,
    pub(crate) dropped: u64,
}

impl Process {
    pub(crate) fn new(run: RunId, command: &str, handle: Handle) -> Self {
        Self {
            run,
            command: BoundedStr::truncated(command),
            begun: Instant::now(),
            handle,
            kept: Mutex::default(),
            changed: Notify::new(),
            unwanted: AtomicBool::new(false),
            kill: Notify::new(),
        }
    }

    /// It wrote this; `unread` where nobody was given it.
    pub(crate) fn wrote(&self, is_error: bool, bytes: &[u8], unread: bool) {
        let mut kept = lock(&self.kept);
        kept.log.extend(bytes);
        let over = kept.log.len().saturating_sub(KEPT);
        kept.log.drain(..over);
        kept.lost = kept.lost.saturating_add(u64::try_from(over).unwrap_or(u64::MAX));
        drop(kept);
        if unread {
            self.wrote_unread(is_error, bytes);
        }
    }

    /// This is in the log already, and nobody was given it.
    pub(crate) fn wrote_unread(&self, is_error: bool, bytes: &[u8]) {
        let mut kept = lock(&self.kept);
        kept.fresh.push_back((is_error, bytes.to_vec()));
        kept.fresh_bytes = kept.fresh_bytes.saturating_add(bytes.len());
        while kept.fresh_bytes > KEPT
            && let Some((_, oldest)) = kept.fresh.pop_front()
        {
            kept.fresh_bytes = kept.fresh_bytes.saturating_sub(oldest.len());
            kept.fresh_lost = kept.fresh_lost.saturating_add(u64::try_from(oldest.len()).unwrap_or(u64::MAX));
        }
        drop(kept);
        self.changed.notify_waiters();
    }

    /// It ended, and that is in the log.
    pub(crate) fn ended(&self, state: RunState) {
        lock(&self.kept).ended = Some((Instant::now(), state));
        self.changed.notify_waiters();
    }

    pub(crate) fn state(&self) -> RunState {
        lock(&self.kept).ended.map_or(RunState::Running, |(_, state)| state)
    }

    /// Has whoever follows it end it.
    pub(crate) fn kill(&self) {
        self.unwanted.store(true, Ordering::Release);
        self.kill.notify_waiters();
    }

    /// Waits until it is to be ended.
    pub(crate) async fn killed(&self) {
        loop {
            let notified = self.kill.notified();
            if self.unwanted.load(Ordering::Acquire) {
                return;
            }
            notified.await;
        }
    }

    /// Waits until it ended.
    pub(crate) async fn over(&self) -> RunState {
        loop {
            let notified = self.changed.notified();
            if let state @ RunState::Ended { .. } = self.state() {
                return state;
            }
            notified.await;
        }
    }

    pub(crate) fn give(&self, bytes: Vec<u8>, eof: bool) -> Result<(), Refusal> {
        self.handle.give(bytes, eof)
    }

    /// What it wrote since the last time; waited for where there is none yet.
    pub(crate) async fn poll(&self, wait: Duration) -> Polled {
        let something = async {
            loop {
                let notified = self.changed.notified();
                {
                    let kept = lock(&self.kept);
                    if !kept.fresh.is_empty() || kept.ended.is_some() {
                        return;
                    }
                }
                notified.await;
            }
        };
        let _ = tokio::time::timeout(wait, something).await;
        let mut kept = lock(&self.kept);
        kept.fresh_bytes = 0;
        Polled {
            pieces: std::mem::take(&mut kept.fresh).into(),
            state: kept.ended.map_or(RunState::Running, |(_, state)| state),
            dropped: std::mem::take(&mut kept.fresh_lost),
        }
    }

    pub(crate) fn log(&self, offset: Option<u32>, limit: Option<u32>) -> Excerpt {
        let kept = lock(&self.kept);
        let bytes: Vec<u8> = kept.log.iter().copied().collect();
        let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
        let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        let limit = limit.map_or(LINES, count);
        let first = offset.map_or_else(|| lines.len().saturating_sub(limit), count).min(lines.len());
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Excerpt {
            text: lines.iter().skip(first).take(limit).copied().flatten().copied().collect(),
            state: kept.ended.map_or(RunState::Running, |(_, state)| state),
            first: number(first),
            lines: number(lines.len()),
            dropped: kept.lost,
        }
    }

    fn is_stale(&self) -> bool {
        lock(&self.kept).ended.is_some_and(|(at, _)| at.elapsed() > ENDED)
    }
}

/// All of them.
#[derive(Default)]
pub(crate) struct Processes(Mutex<BTreeMap<SessionKey, Vec<Arc<Process>>>>);

impl Processes {
    /// Takes one on. Where there are too many, the oldest that ended goes.
    pub(crate) fn add(&self, session: &SessionKey, process: Arc<Process>) {
        let mut all = lock(&self.0);
        tidy(&mut all);
        let own = all.entry(session.clone()).or_default();
        own.push(process);
        if own.len() > EACH
            && let Some(at) = own.iter().position(|process| process.state() != RunState::Running)
        {
            own.remove(at);
        }
        if all.values().map(Vec::len).sum::<usize>() > ALL {
            for own in all.values_mut() {
                if let Some(at) = own.iter().position(|process| process.state() != RunState::Running) {
                    own.remove(at);
                    break;
                }
            }
        }
    }

    /// One of this conversation.
    pub(crate) fn find(&self, session: &SessionKey, run: &RunId) -> Result<Arc<Process>, Refusal> {
        let mut all = lock(&self.0);
        tidy(&mut all);
        let found = all.get(session).and_then(|own| own.iter().find(|process| process.run == *run)).map(Arc::clone);
        found.ok_or_else(|| {
            Refusal::new(
                "process.unknown",
                "this conversation has no such run: it was never handed over, was removed, or ended more than 30 minutes ago",
            )
        })
    }

    pub(crate) fn list(&self, session: &SessionKey) -> BoundedVec<ProcessInfo, 32> {
        let mut all = lock(&self.0);
        tidy(&mut all);
        let own = all.get(session).into_iter().flatten().take(32).map(|process| ProcessInfo {
            run: process.run.clone(),
            command: process.command.clone(),
            state: process.state(),
            age_s: process.begun.elapsed().as_secs(),
        });
        BoundedVec::new(own.collect()).unwrap_or_default()
    }

    pub(crate) fn remove(&self, session: &SessionKey, run: &RunId) {
        if let Some(own) = lock(&self.0).get_mut(session) {
            own.retain(|process| process.run != *run);
        }
    }

    /// Ends everything of a conversation, and forgets it.
    pub(crate) fn forget(&self, session: &SessionKey) {
        for process in lock(&self.0).remove(session).unwrap_or_default() {
            process.kill();
        }
    }
}

fn tidy(all: &mut BTreeMap<SessionKey, Vec<Arc<Process>>>) {
    all.retain(|_, own| {
        own.retain(|process| !process.is_stale());
        !own.is_empty()
    });
}

#[cfg(test)]
#[path = "tests/processes.rs"]
mod tests;
