//! A9: how soon a command, a login and a lease are refused once the log cannot be written, beside how soon they are done while
//! it can. The room is taken by the limit of a file's size (`EFBIG`), which can be set for an auditd that runs.

use super::net::start;
use super::{Bound, Row, median, ms};
use crate::client::Client;
use crate::limit_files;
use crate::play_broker::Sealed;
use proto::ids::Role;
use proto::topology::EdgeId;
use std::time::Instant;

const TURNS: usize = 15;

fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let begun = Instant::now();
    let said = work();
    (ms(begun.elapsed()), said)
}

/// The slowest first refusal of all turns, and the median of what is done with room; `ask` says what came of it.
fn in_turns(what: &str, auditd: u32, mut ask: impl FnMut() -> (f64, String)) -> Row {
    let (mut slowest, mut done) = (0f64, Vec::new());
    for _ in 0..TURNS {
        limit_files(auditd, Some(1));
        let (took, said) = ask();
        limit_files(auditd, None);
        assert!(said.contains("audit.unwritable"), "{what}: {said}");
        slowest = slowest.max(took);
        // The first record with room also says that there was none.
        let _ = ask();
        let (took, said) = ask();
        assert!(!said.contains("audit."), "{what}: {said}");
        done.push(took);
    }
    Row {
        goal: "A9",
        what: format!(
            "{what} refused after the log's first failure, the slowest of {TURNS} / the same done with room, p50"
        ),
        measured: slowest,
        control: median(done.into_iter()),
        unit: "ms",
        bound: Bound::AtMost(100.0),
        published: "",
    }
}

/// Commands and logins by all of Moltbot, leases by a sealed vault whose log is a sealed auditd's.
pub fn a9(_full: bool) -> Vec<Row> {
    let system = start();
    let (token, auditd) = (system.token(), system.pid("auditd"));
    let mut client = Client::logged_in(system.port(), &token);
    // The conversation is there: the first record of it is another one's.
    let _ = client.chat("/exec true", "a9-0");
    let mut number = 0;
    let command = in_turns("a command by chat", auditd, || {
        number += 1;
        timed(|| client.chat("/exec true", &format!("a9-{number}")))
    });
    let login = in_turns("a login", auditd, || {
        let mut other = Client::connect(system.port());
        timed(|| other.log_in(4, 4, &token).to_string())
    });
    drop(system);
    let log = Sealed::start(Role::Auditd);
    log.make_ready();
    let vault = Sealed::start_in(Role::Vault, super::vault::filled(1).0);
    vault.stand_in(EdgeId::VaultWitness);
    Sealed::wire(EdgeId::VaultAuditd, &vault, &log);
    vault.assert_ready();
    let mut egress = super::vault::egress(&vault);
    let lease = in_turns("a lease", log.pid(), || timed(|| super::vault::asked(&mut egress)));
    vec![command, login, lease]
}
