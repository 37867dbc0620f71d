//! What the gateway knows, and the decisions that need no clock and no socket: how many clients may come in, and which
//! runs are new, running or done. The keys and ids in here were chosen by clients; every table has a bound.

use crate::agents::Agents;
use crate::brief::Kept;
use crate::hub::{Hub, lock};
use crate::model::catalogue::Catalogue;
use crate::sessions::{Store, random, uuid};
use proto::edge::{GatewayEgress, GatewaySandboxd, GatewayVault};
use proto::gate::Gate;
use proto::port::Port;
use proto::topology::role;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::io::Write;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, Semaphore};

/// Connections at most.
pub const MAX_CONNECTIONS: usize = 512;
/// Connections whose client is not known yet, at most.
pub const MAX_PRE_AUTH: usize = 64;
/// Runs at once, of all sessions: with [`MAX_DESCRIBES`] below the window of the edge to sandboxd, so that neither keeps
/// the other out.
pub const MAX_RUNS: usize = 24;
/// Questions after the sandbox at once, for the same reason.
const MAX_DESCRIBES: usize = 4;
/// How long a finished run is remembered, so that a repeated request is not a second run.
const REMEMBER: Duration = Duration::from_secs(300);
const MAX_REMEMBERED: usize = 1000;
/// Lines of log a second.
const MAX_LOG: u32 = 20;

/// Writes a line to the log. A client must not be able to fill the disk by it, so a flood is cut.
pub fn log(line: &str) {
    static SECOND: AtomicU64 = AtomicU64::new(0);
    static LINES: AtomicU32 = AtomicU32::new(0);
    let now = crate::sessions::now_ms() / 1000;
    if SECOND.swap(now, Ordering::Relaxed) != now {
        LINES.store(0, Ordering::Relaxed);
    }
    if LINES.fetch_add(1, Ordering::Relaxed) < MAX_LOG {
        // Where the log is gone there is nobody left to tell.
        let _ = writeln!(std::io::stderr(), "gateway: {}", line.escape_debug());
    }
}

/// What the gateway says of itself.
#[derive(Debug)]
pub struct Identity {
    /// The configuration without secrets.
    pub config: Value,
    /// SHA-256 of that, hexadecimal.
    pub config_hash: String,
    /// Path of the configuration, for display.
    pub config_path: String,
    /// Path of the state directory, for display.
    pub state_dir: String,
    /// Name of the machine, for display.
    pub host: String,
}

impl Identity {
    /// Takes what broker sent.
    ///
    /// # Errors
    /// Where the configuration is no JSON.
    pub fn new(config: &[u8], config_path: &str, state_dir: &str, host: &str) -> Result<Self, serde_json::Error> {
        let hash = Sha256::digest(config).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self {
            config: serde_json::from_slice(config)?,
            config_hash: hash,
            config_path: config_path.to_owned(),
            state_dir: state_dir.to_owned(),
            host: host.to_owned(),
        })
    }
}

/// Stops a run.
#[derive(Debug, Default)]
pub struct Stop {
    asked: std::sync::atomic::AtomicBool,
    changed: Notify,
}

impl Stop {
    /// Asks for the end.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    /// True where somebody asked.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    /// Waits until somebody asked.
    pub async fn asked(&self) {
        while !self.asked.load(Ordering::Acquire) {
            self.changed.notified().await;
        }
    }
}

#[derive(Debug)]
struct Run {
    session: String,
    stop: Arc<Stop>,
    ended: Option<Instant>,
}

/// What a run's id turned out to be.
#[derive(Debug)]
pub enum Begin {
    /// It may start; this stops it.
    New(Arc<Stop>),
    /// It runs already.
    InFlight,
    /// It has run.
    Done,
    /// Too many run.
    Full,
}

/// Runs by their id.
#[derive(Debug, Default)]
pub struct Runs(HashMap<String, Run>);

impl Runs {
    /// Registers run `id` of `session`, unless it is known.
    pub fn begin(&mut self, id: &str, session: &str, now: Instant) -> Begin {
        self.0.retain(|_, run| run.ended.is_none_or(|at| now.saturating_duration_since(at) < REMEMBER));
        match self.0.get(id) {
            Some(Run { ended: None, .. }) => return Begin::InFlight,
            Some(_) => return Begin::Done,
            None => {}
        }
        if self.active().count() >= MAX_RUNS {
            return Begin::Full;
        }
        if self.0.len() >= MAX_REMEMBERED {
            let oldest = self.0.iter().filter_map(|(id, run)| run.ended.map(|at| (at, id.clone()))).min();
            if let Some((_, id)) = oldest {
                self.0.remove(&id);
            }
        }
        let stop = Arc::new(Stop::default());
        self.0.insert(id.to_owned(), Run { session: session.to_owned(), stop: Arc::clone(&stop), ended: None });
        Begin::New(stop)
    }

    /// Notes that run `id` ended.
    pub fn end(&mut self, id: &str, now: Instant) {
        if let Some(run) = self.0.get_mut(id) {
            run.ended = Some(now);
        }
    }

    /// Stops the runs of `session`, or the one of them named `id`; returns which.
    pub fn stop(&self, session: &str, id: Option<&str>) -> Vec<String> {
        let mut stopped: Vec<_> = self
            .active()
            .filter(|(run_id, run)| run.session == session && id.is_none_or(|id| id == *run_id))
            .map(|(id, run)| {
                run.stop.ask();
                id.clone()
            })
            .collect();
        stopped.sort_unstable();
        stopped
    }

    /// Stops every run.
    pub fn stop_all(&self) {
        self.active().for_each(|(_, run)| run.stop.ask());
    }

    fn active(&self) -> impl Iterator<Item = (&String, &Run)> {
        self.0.iter().filter(|(_, run)| run.ended.is_none())
    }
}

/// Everything, shared by all tasks.
pub struct Gateway {
    /// What it says of itself.
    pub identity: Identity,
    /// The models that may be asked.
    pub catalogue: Catalogue,
    /// The agents that there are.
    pub agents: Agents,
    /// What owners wrote down for the agent, as last read.
    pub kept: Kept,
    /// Differs from start to start.
    pub boot_id: String,
    /// Of which marks are made that nobody outside knows.
    secret: [u8; 16],
    /// When it started.
    pub started: Instant,
    /// Closed while nothing is let in.
    pub gate: Gate,
    /// Closed when this gateway ends: what was taken in is still answered.
    pub drain: Gate,
    /// Clients.
    pub hub: Hub,
    /// Conversations.
    pub sessions: Mutex<Store>,
    /// Held while a transcript is opened, so that none is opened twice.
    pub opening: tokio::sync::Mutex<()>,
    /// Runs.
    pub runs: Mutex<Runs>,
    /// Who knows the token.
    pub vault: Port<GatewayVault>,
    /// Who runs commands.
    pub sandbox: Port<GatewaySandboxd>,
    /// Who goes out.
    pub egress: Port<GatewayEgress>,
    /// One permit a question after the sandbox.
    pub describes: Semaphore,
    /// One permit a connection.
    pub connections: Arc<Semaphore>,
    /// One permit a connection whose client is not known yet.
    pub pre_auth: Arc<Semaphore>,
}

impl Gateway {
    /// Nothing going on yet.
    #[must_use]
    pub fn new(identity: Identity, store: Store) -> Arc<Self> {
        Arc::new(Self {
            catalogue: Catalogue::of(&identity.config),
            agents: Agents::of(&identity.config),
            identity,
            kept: Kept::default(),
            boot_id: uuid(),
            secret: random(),
            started: Instant::now(),
            gate: Gate::default(),
            drain: Gate::default(),
            hub: Hub::default(),
            sessions: Mutex::new(store),
            opening: tokio::sync::Mutex::new(()),
            runs: Mutex::default(),
            vault: Port::new(role::Gateway),
            sandbox: Port::new(role::Gateway),
            egress: Port::new(role::Gateway),
            describes: Semaphore::new(MAX_DESCRIBES),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            pre_auth: Arc::new(Semaphore::new(MAX_PRE_AUTH)),
        })
    }

    /// Marks text of others in this conversation; another one after each start.
    #[must_use]
    pub fn fence(&self, session: &str) -> String {
        let digest = Sha256::new().chain_update(self.secret).chain_update(session).finalize();
        digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Milliseconds since the start.
    #[must_use]
    pub fn uptime_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The conversations, locked.
    pub fn sessions(&self) -> std::sync::MutexGuard<'_, Store> {
        lock(&self.sessions)
    }

    /// The runs, locked.
    pub fn runs(&self) -> std::sync::MutexGuard<'_, Runs> {
        lock(&self.runs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_repeated_id_is_no_second_run() {
        let mut runs = Runs::default();
        let start = Instant::now();
        assert!(matches!(runs.begin("a", "s", start), Begin::New(_)));
        assert!(matches!(runs.begin("a", "s", start), Begin::InFlight));
        runs.end("a", start);
        assert!(matches!(runs.begin("a", "s", start), Begin::Done));
        assert!(matches!(runs.begin("a", "s", start + REMEMBER), Begin::New(_)), "forgotten after its time");
    }

    #[test]
    fn runs_over_the_bound_are_refused_until_one_ends() {
        let mut runs = Runs::default();
        let now = Instant::now();
        for at in 0..MAX_RUNS {
            assert!(matches!(runs.begin(&at.to_string(), "s", now), Begin::New(_)));
        }
        assert!(matches!(runs.begin("more", "s", now), Begin::Full));
        runs.end("0", now);
        assert!(matches!(runs.begin("more", "s", now), Begin::New(_)));
    }

    #[test]
    fn runs_stop_reaches_one_session_only() {
        let mut runs = Runs::default();
        let now = Instant::now();
        runs.begin("a", "one", now);
        runs.begin("b", "one", now);
        runs.begin("c", "two", now);
        assert_eq!(runs.stop("one", Some("b")), ["b"]);
        assert!(runs.stop("two", Some("a")).is_empty(), "a is not of that session");
        assert_eq!(runs.stop("one", None), ["a", "b"]);
    }

    #[test]
    fn runs_memory_is_bounded() {
        let mut runs = Runs::default();
        let now = Instant::now();
        for at in 0..2 * MAX_REMEMBERED {
            runs.begin(&at.to_string(), "s", now);
            runs.end(&at.to_string(), now);
        }
        assert!(runs.0.len() <= MAX_REMEMBERED);
    }
}
