//! What was seen so far of each conversation, and what is remembered for the case that more is seen.

use crate::runs::lock;
use crate::watch::table::Table;
use crate::watch::text::{Output, Searcher};
use crate::watch::{Finding, Kernel};
use proto::ids::SessionKey;
use proto::watch::Class;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

/// How long a freeze waits for the evidence: what it ends is gone for good.
const EVIDENCE: Duration = Duration::from_secs(2);
/// Conversations whose last output is remembered, and containers that were struck.
const REMEMBERED: usize = 64;

/// What was seen so far, and by what it is seen.
#[derive(Debug)]
pub(crate) struct Alert {
    pub(crate) table: Mutex<Table>,
    born: Instant,
    pub(crate) findings: mpsc::Sender<Finding>,
    pub(crate) kernel: Arc<Kernel>,
    /// Looks through output where there is no engine, and so no canary.
    pub(crate) plain: Searcher,
    /// The end of what each conversation's last command wrote.
    pub(crate) last: Mutex<BTreeMap<SessionKey, Vec<u8>>>,
    /// Held while evidence is taken.
    pub(crate) evidence: Arc<tokio::sync::Mutex<()>>,
    /// The last containers in which a command was ended by its filter.
    struck: Mutex<VecDeque<String>>,
    /// How often the commands of a conversation were ended.
    ended: Mutex<BTreeMap<SessionKey, u64>>,
    ends: Notify,
}

impl Alert {
    pub(crate) fn new(findings: mpsc::Sender<Finding>, kernel: Arc<Kernel>) -> Self {
        Self {
            table: Mutex::default(),
            born: Instant::now(),
            findings,
            kernel,
            plain: Searcher::new(None),
            last: Mutex::default(),
            evidence: Arc::default(),
            struck: Mutex::default(),
            ended: Mutex::default(),
            ends: Notify::new(),
        }
    }

    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn is_suspended(&self, session: &SessionKey) -> bool {
        lock(&self.table).is_suspended(session)
    }

    /// Gravest class, and signals that still count.
    pub(crate) fn score(&self, session: &SessionKey) -> (Option<Class>, usize) {
        let table = lock(&self.table);
        (table.gravest(session), table.signals(self.now(), session))
    }

    /// What the end of a conversation's last command wrote is kept, for the case that it is evidence.
    pub(crate) fn remember(&self, session: &SessionKey, output: &Output) {
        let mut last = lock(&self.last);
        if last.len() >= REMEMBERED && !last.contains_key(session) {
            last.pop_first();
        }
        last.insert(session.clone(), output.last().to_vec());
    }

    /// A command in this container was ended by its filter; false where that was known.
    pub(crate) fn strike(&self, container: &str) -> bool {
        let mut struck = lock(&self.struck);
        let is_new = !struck.iter().any(|other| other == container);
        if is_new {
            struck.push_back(container.to_owned());
        }
        while struck.len() > REMEMBERED {
            struck.pop_front();
        }
        is_new
    }

    /// True where a command in this container was ended by its filter.
    pub(crate) fn is_struck(&self, container: &str) -> bool {
        lock(&self.struck).iter().any(|other| other == container)
    }

    /// Ends the commands of a conversation.
    pub(crate) fn end(&self, session: &SessionKey) {
        let mut ended = lock(&self.ended);
        let count = ended.entry(session.clone()).or_default();
        *count = count.saturating_add(1);
        drop(ended);
        self.ends.notify_waiters();
    }

    fn count(&self, session: &SessionKey) -> u64 {
        lock(&self.ended).get(session).copied().unwrap_or_default()
    }

    /// Returns when the commands of a conversation are ended, from the first poll on.
    pub(crate) async fn ended(&self, session: &SessionKey) {
        let before = self.count(session);
        loop {
            let notified = self.ends.notified();
            if self.count(session) != before {
                return;
            }
            notified.await;
        }
    }

    /// Returns when no evidence is being taken, or it takes too long.
    pub(crate) async fn kept(&self) {
        let _ = timeout(EVIDENCE, self.evidence.lock()).await;
    }
}
