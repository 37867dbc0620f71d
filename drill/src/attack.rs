//! The order, the attempts, the report.

use crate::copy::Copy;
use confine::probe::{Held, Outcome, Probe, Targets, World, in_child, probes};
use confine::startup::{CONTROL_FD, StartError};
use proto::bounded::{BoundedStr, BoundedVec};
use proto::channel::Channel;
use proto::control::{Layout, MAX_CONTROL, MAX_CONTROL_FDS};
use proto::ids::Role;
use proto::probe::{Attempt, DrillOrder, DrillReport, Verdict};
use std::fmt;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::{Duration, Instant};

/// How long broker may take for its word, and to take ours.
const STEP: Duration = Duration::from_secs(5);
/// How long an attempt may take: much longer than any does, so that a busy machine is not taken for silence.
const ATTEMPT: Duration = Duration::from_secs(15);
/// Attempts in a report.
const BATCH: usize = 32;

/// Hears what to attack.
///
/// # Errors
/// [`StartError`].
pub fn order(control: &Channel) -> Result<(DrillOrder, Vec<OwnedFd>), StartError> {
    let packet = control.recv_by(MAX_CONTROL, MAX_CONTROL_FDS, Instant::now() + STEP).map_err(StartError::internal)?;
    Channel::decode_note(packet, MAX_CONTROL).map_err(StartError::internal)
}

/// Makes every attempt that leaves no trace, and reports.
///
/// # Errors
/// [`StartError`].
pub fn run(control: &Channel, order: &DrillOrder, copy: &Copy) -> Result<(), StartError> {
    // This process is outside the walls of its children, so what listens here they must not reach.
    let name = format!("moltbot-drill.{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).map_err(StartError::internal)?;
    let _abstract = UnixListener::bind_addr(&address).map_err(StartError::internal)?;
    let tcp = TcpListener::bind(("127.0.0.1", 0)).map_err(StartError::internal)?;
    let port = tcp.local_addr().map_err(StartError::internal)?.port();
    let targets = Targets { port, abstract_name: BoundedStr::truncated(&name), ..order.targets.clone() };
    let single_uid = order.layout == Layout::SingleUid;
    let world = World::new(targets, CONTROL_FD, Held::look(order.role));
    let mut batch = Vec::with_capacity(BATCH);
    let mut summary = Summary::default();
    let send = |report: &DrillReport| {
        control.send_note(report, MAX_CONTROL, &[], Instant::now() + STEP).map_err(StartError::internal)
    };
    for probe in probes().filter(|probe| !probe.matrix_only) {
        let attempt = || match copy.seal() {
            Ok(()) => probe.run(&world),
            Err(_) => Outcome::Silent,
        };
        let outcome = in_child(ATTEMPT, attempt).unwrap_or(Outcome::Silent);
        let attempt = judge(probe, outcome, order.role, single_uid);
        summary.add(&attempt);
        batch.push(attempt);
        if batch.len() == BATCH {
            send(&DrillReport::Attempts(BoundedVec::new(std::mem::take(&mut batch)).unwrap_or_default()))?;
        }
    }
    send(&DrillReport::Attempts(BoundedVec::new(batch).unwrap_or_default()))?;
    send(&DrillReport::Done(BoundedStr::truncated(&summary.to_string())))
}

/// What the drill came to: how many of each verdict, and the names of holes.
#[derive(Debug, Default)]
struct Summary {
    verdicts: Vec<Verdict>,
    holes: Vec<String>,
}

impl Summary {
    fn add(&mut self, attempt: &Attempt) {
        self.verdicts.push(attempt.verdict);
        if attempt.verdict == Verdict::Hole {
            self.holes.push(attempt.probe.to_string());
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |wanted| self.verdicts.iter().filter(|verdict| **verdict == wanted).count();
        let counts = Verdict::ALL.map(|verdict| format!("{} {}", count(verdict), verdict.name())).join(", ");
        write!(f, "{} attempts: {counts}", self.verdicts.len())?;
        if self.holes.is_empty() { Ok(()) } else { write!(f, ": {}", self.holes.join(" ")) }
    }
}

/// `ENOENT` of its own.
const NOTHING_THERE: Outcome = Outcome::Denied(2);

fn judge(probe: &Probe, outcome: Outcome, role: Role, single_uid: bool) -> Attempt {
    let excuse = probe.excuse(role, single_uid);
    let verdict = match (outcome, excuse) {
        // The copy of broker has none of broker's capabilities: a refusal for want of one says nothing of the filter.
        (Outcome::Denied(_) | Outcome::Absent, None) if role == Role::Broker => Verdict::Hole,
        (Outcome::Allowed, Some(_)) => Verdict::Open,
        (Outcome::Allowed, None) => Verdict::Hole,
        (Outcome::Absent | NOTHING_THERE, _) => Verdict::Nothing,
        (Outcome::Denied(_) | Outcome::Killed(_), _) => Verdict::Held,
        (Outcome::Silent, _) => Verdict::Unclear,
    };
    let why = if verdict == Verdict::Open { excuse.unwrap_or_default() } else { "" };
    Attempt { probe: BoundedStr::truncated(probe.name), outcome, verdict, why: BoundedStr::truncated(why) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(name: &str, outcome: Outcome, role: Role, single_uid: bool) -> Verdict {
        let probe = probes().find(|probe| probe.name == name).unwrap();
        judge(probe, outcome, role, single_uid).verdict
    }

    #[test]
    fn way_through_is_a_hole_unless_it_has_its_reason() {
        assert_eq!(verdict("connect_docker", Outcome::Allowed, Role::Sandboxd, false), Verdict::Open);
        assert_eq!(verdict("connect_docker", Outcome::Allowed, Role::Gateway, false), Verdict::Hole);
        assert_eq!(verdict("open_master_key", Outcome::Allowed, Role::Launcher, false), Verdict::Hole);
        assert_eq!(verdict("open_master_key", Outcome::Allowed, Role::Launcher, true), Verdict::Open);
    }

    #[test]
    fn denial_and_death_are_held_and_silence_is_not() {
        assert_eq!(verdict("fork", Outcome::Killed(31), Role::Vault, false), Verdict::Held);
        assert_eq!(verdict("fork", Outcome::Denied(13), Role::Vault, false), Verdict::Held);
        assert_eq!(verdict("fork", Outcome::Denied(2), Role::Vault, false), Verdict::Nothing);
        assert_eq!(verdict("fork", Outcome::Absent, Role::Vault, false), Verdict::Nothing);
        assert_eq!(verdict("fork", Outcome::Silent, Role::Vault, false), Verdict::Unclear);
    }

    #[test]
    fn nothing_but_death_holds_what_broker_denies_everybody() {
        assert_eq!(verdict("setuid_root", Outcome::Killed(31), Role::Broker, false), Verdict::Held);
        assert_eq!(verdict("setuid_root", Outcome::Denied(1), Role::Broker, false), Verdict::Hole);
        assert_eq!(verdict("setuid_root", Outcome::Allowed, Role::Broker, true), Verdict::Hole);
        assert_eq!(verdict("fork", Outcome::Allowed, Role::Broker, false), Verdict::Open);
        assert_eq!(verdict("setuid_root", Outcome::Denied(1), Role::Vault, false), Verdict::Held);
    }

    #[test]
    fn summary_counts_verdicts_and_names_holes() {
        let mut summary = Summary::default();
        for probe in probes().filter(|probe| ["open_passwd", "open_shadow"].contains(&probe.name)) {
            summary.add(&judge(probe, Outcome::Allowed, Role::Vault, false));
            summary.add(&judge(probe, Outcome::Killed(31), Role::Vault, false));
        }
        assert_eq!(
            summary.to_string(),
            "4 attempts: 2 held, 0 open, 2 hole, 0 nothing, 0 unclear: open_passwd open_shadow"
        );
    }

    #[test]
    fn every_probe_fits_its_row() {
        for probe in probes() {
            assert!(probe.name.len() <= 32, "{}", probe.name);
            assert!(probe.exceptions.iter().all(|it| it.why.len() <= 200), "{}", probe.name);
        }
    }
}
