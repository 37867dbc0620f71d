//! The table's properties, and its vectors.

use super::*;
use proptest::prelude::*;

/// Brings every role to Ready and returns the table and the actions on the way.
fn running() -> (Supervisor, Vec<Action>) {
    let mut table = Supervisor::default();
    let mut all = table.on(0, 0, Event::Begin);
    for role in CHILDREN.into_iter().filter(|role| *role != Role::Launcher) {
        all.extend(table.on(1, 0, Event::Attested(role, Epoch(1))));
        all.extend(table.on(1, 0, Event::Ready(role, Epoch(1))));
    }
    (table, all)
}

#[test]
fn begin_spawns_six_roles_and_not_the_launcher() {
    let mut table = Supervisor::default();
    let spawned = table.on(0, 0, Event::Begin);
    assert_eq!(spawned.len(), 6);
    assert!(!spawned.contains(&Action::Spawn(Role::Launcher, Epoch(1))));
}

#[test]
fn wanted_launcher_starts_once_and_after_all_whom_a_start_waits_for() {
    let launcher = Action::Spawn(Role::Launcher, Epoch(1));
    let (mut table, before) = running();
    assert!(!before.contains(&launcher));
    assert!(table.on(2, 0, Event::LauncherWanted).contains(&launcher));
    assert!(table.on(3, 0, Event::LauncherWanted).is_empty());
    let mut table = Supervisor::default();
    table.on(0, 0, Event::Begin);
    assert!(!table.on(0, 0, Event::LauncherWanted).contains(&launcher));
    let mut started = Vec::new();
    for role in CHILDREN.into_iter().filter(|role| *role != Role::Launcher) {
        assert!(!started.contains(&launcher));
        started.extend(table.on(1, 0, Event::Attested(role, Epoch(1))));
        started.extend(table.on(1, 0, Event::Ready(role, Epoch(1))));
    }
    assert!(started.contains(&launcher));
}

#[test]
fn edge_is_wired_only_when_its_client_is_attested_and_its_server_is_ready() {
    let mut table = Supervisor::default();
    table.on(0, 0, Event::Begin);
    assert!(table.on(1, 0, Event::Attested(Role::Vault, Epoch(1))).is_empty());
    assert!(table.on(1, 0, Event::Attested(Role::Auditd, Epoch(1))).is_empty());
    let wired = table.on(2, 0, Event::Ready(Role::Auditd, Epoch(1)));
    assert!(wired.contains(&Action::Wire(EdgeId::VaultAuditd)) && wired.contains(&Action::Wire(EdgeId::BrokerAuditd)));
    assert!(!wired.contains(&Action::Wire(EdgeId::SandboxdAuditd)));
    // The vault looks at a log before it has a way to write to it.
    let at = |edge| wired.iter().position(|action| *action == Action::Wire(edge));
    assert!(at(EdgeId::VaultWitness) < at(EdgeId::VaultAuditd));
}

#[test]
fn full_start_wires_every_edge_once_but_the_launchers() {
    let (table, actions) = running();
    assert!(table.is_ready());
    for wire in &TOPOLOGY {
        let times = actions.iter().filter(|action| **action == Action::Wire(wire.edge)).count();
        assert_eq!(times, usize::from(wire.edge != EdgeId::SandboxdLauncher), "{:?}", wire.edge);
    }
}

#[test]
fn killed_role_comes_back_under_a_new_epoch_and_is_wired_again() {
    let (mut table, _) = running();
    assert!(
        table
            .on(50_000, 0, Event::Died(Role::Vault, Epoch(1), Death::Signalled(9)))
            .iter()
            .all(|a| !matches!(a, Action::Spawn(..)))
    );
    let actions = table.on(50_000 + 240, 0, Event::Tick);
    assert!(actions.contains(&Action::Spawn(Role::Vault, Epoch(2))));
    table.on(50_300, 0, Event::Attested(Role::Vault, Epoch(2)));
    let wired = table.on(50_300, 0, Event::Ready(Role::Vault, Epoch(2)));
    assert!(wired.contains(&Action::Wire(EdgeId::GatewayVault)) && wired.contains(&Action::Wire(EdgeId::EgressVault)));
    assert!(table.is_ready());
}

#[test]
fn word_of_an_old_epoch_changes_nothing() {
    let (mut table, _) = running();
    table.on(10, 0, Event::Died(Role::Vault, Epoch(1), Death::Signalled(9)));
    table.on(1000, 0, Event::Tick);
    table.on(1001, 0, Event::Attested(Role::Vault, Epoch(1)));
    assert_eq!(table.state(Role::Vault), RoleState::Starting);
    table.on(1001, 0, Event::Attested(Role::Vault, Epoch(2)));
    assert_eq!(table.state(Role::Vault), RoleState::Confined);
}

#[test]
fn exit_78_stops_the_set_with_78_and_exit_70_does_not() {
    for (code, stops) in [(78, true), (79, true), (80, true), (87, true), (88, false), (70, false)] {
        let (mut table, _) = running();
        table.on(10, 0, Event::Died(Role::Vault, Epoch(1), Death::Exited(code)));
        assert_eq!(table.is_stopping(), stops, "{code}");
    }
}

#[test]
fn role_that_dies_too_often_stops_the_set() {
    let (mut table, _) = running();
    let mut epoch = Epoch(1);
    let mut now = 10;
    for _ in 0..2 {
        table.on(now, 0, Event::Died(Role::Egress, epoch, Death::Signalled(9)));
        assert!(!table.is_stopping());
        now += 2000;
        epoch = epoch.next();
        table.on(now, 0, Event::Tick);
        table.on(now, 0, Event::Attested(Role::Egress, epoch));
        table.on(now, 0, Event::Ready(Role::Egress, epoch));
    }
    table.on(now, 0, Event::Died(Role::Egress, epoch, Death::Signalled(9)));
    assert!(table.is_stopping());
}

#[test]
fn role_that_answers_no_ping_is_killed_and_one_that_does_is_not() {
    let (mut table, _) = running();
    for now in (2_000..11_000).step_by(2_000) {
        for role in CHILDREN.into_iter().filter(|role| !matches!(role, Role::Vault | Role::Launcher)) {
            table.on(now, 0, Event::Pong(role, Epoch(1)));
        }
    }
    let killed: Vec<_> =
        table.on(10_500, 0, Event::Tick).into_iter().filter(|a| matches!(a, Action::Kill(_))).collect();
    assert_eq!(killed, [Action::Kill(Role::Vault)]);
}

#[test]
fn stop_ends_gateway_first_and_auditd_last() {
    let (mut table, _) = running();
    let mut order = Vec::new();
    let mut actions = table.on(100, 0, Event::Stop);
    let code = loop {
        let mut next = Vec::new();
        for action in actions {
            match action {
                Action::Drain(role) => next.extend(table.on(100, 0, Event::Drained(role, Epoch(1)))),
                Action::StopRole(role) => {
                    order.push(role);
                    next.extend(table.on(100, 0, Event::Died(role, Epoch(1), Death::Exited(0))));
                }
                Action::Exit(code) => next.push(Action::Exit(code)),
                _ => {}
            }
        }
        if let Some(Action::Exit(code)) = next.first() {
            break *code;
        }
        assert!(!next.is_empty());
        actions = next;
    };
    assert_eq!(code, 0);
    assert_eq!(order.first(), Some(&Role::Gateway));
    assert_eq!(order.last(), Some(&Role::Auditd));
    assert_eq!(order.len(), 6);
}

#[test]
fn suspicious_deaths_are_those_that_look_like_attacks() {
    assert!(
        Death::Signalled(31).is_suspicious()
            && Death::Signalled(11).is_suspicious()
            && Death::Exited(76).is_suspicious()
    );
    assert!(
        !Death::Signalled(9).is_suspicious()
            && !Death::Signalled(6).is_suspicious()
            && !Death::Exited(70).is_suspicious()
    );
}

#[test]
fn exit_statuses_and_signals_lead_where_the_taxonomy_says() {
    let after = |death| {
        let (mut table, _) = running();
        let actions = table.on(10, 0, Event::Died(Role::Egress, Epoch(1), death));
        let alarmed = actions.contains(&Action::Alarm(Role::Egress, Epoch(1), Cause::Death(death)));
        (table.state(Role::Egress), alarmed, table.is_stopping())
    };
    for death in [0, 70, 71, 75, 1, 101].map(Death::Exited).into_iter().chain([9, 6, 15].map(Death::Signalled)) {
        assert_eq!(after(death), (RoleState::Backoff, false, false), "{death:?}");
    }
    for death in [11, 7, 4, 31].map(Death::Signalled).into_iter().chain([Death::Exited(76)]) {
        assert_eq!(after(death), (RoleState::Held, true, false), "{death:?}");
    }
    for death in [78, 79].map(Death::Exited) {
        assert_eq!(after(death), (RoleState::Failed, false, true), "{death:?}");
    }
}

#[test]
fn role_under_alarm_starts_again_by_revival_alone() {
    let (mut table, _) = running();
    let actions = table.on(10, 0, Event::Condemned(Role::Vault, Epoch(1), Cause::Drift));
    assert_eq!(actions, [Action::Kill(Role::Vault), Action::Alarm(Role::Vault, Epoch(1), Cause::Drift)]);
    assert!(table.on(11, 0, Event::Condemned(Role::Vault, Epoch(1), Cause::Drift)).is_empty(), "one alarm is enough");
    table.on(12, 0, Event::Died(Role::Vault, Epoch(1), Death::Signalled(9)));
    assert!(!table.on(59_000, 0, Event::Tick).contains(&Action::Spawn(Role::Vault, Epoch(2))));
    assert!(table.on(59_000, 0, Event::Revive(Role::Vault)).contains(&Action::Spawn(Role::Vault, Epoch(2))));
}

#[test]
fn role_that_is_revived_before_it_is_dead_starts_again_when_it_is() {
    let (mut table, _) = running();
    table.on(10, 0, Event::Condemned(Role::Vault, Epoch(1), Cause::Violation));
    table.on(11, 0, Event::Revive(Role::Vault));
    table.on(12, 0, Event::Died(Role::Vault, Epoch(1), Death::Signalled(9)));
    assert!(table.on(1_000, 0, Event::Tick).contains(&Action::Spawn(Role::Vault, Epoch(2))));
}

#[test]
fn set_does_not_run_without_its_log_for_longer_than_a_minute() {
    let (mut table, _) = running();
    table.on(50_000, 0, Event::Tick);
    table.on(50_000, 0, Event::Died(Role::Auditd, Epoch(1), Death::Signalled(9)));
    // It starts, and hangs before it serves.
    let stopped = (51_000..200_000).step_by(1_000).find(|now| {
        table.on(*now, 0, Event::Tick);
        table.is_stopping()
    });
    assert_eq!(stopped, Some(50_000 + AUDITD_AWAY_MS));
}

fn events() -> impl Strategy<Value = Event> {
    let role = prop::sample::select(CHILDREN.to_vec());
    let epoch = (0u32..6).prop_map(Epoch);
    (role, epoch, 0u8..14, any::<bool>()).prop_map(|(role, epoch, which, flag)| match which {
        0 => Event::Begin,
        1 | 2 => Event::Attested(role, epoch),
        3 | 4 => Event::Ready(role, epoch),
        5 => Event::Pong(role, epoch),
        6 => Event::Died(role, epoch, if flag { Death::Signalled(9) } else { Death::Exited(70) }),
        7 => Event::SpawnFailed(role, epoch),
        8 => Event::Condemned(role, epoch, if flag { Cause::Violation } else { Cause::Drift }),
        9 => Event::LauncherWanted,
        10 => Event::Drained(role, epoch),
        11 => Event::Died(role, epoch, Death::Signalled(31)),
        12 => Event::Revive(role),
        _ => {
            if flag {
                Event::Restart(role)
            } else {
                Event::Tick
            }
        }
    })
}

proptest! {
    #[test]
    fn backoff_stays_within_its_bounds(attempt: u32, jitter: u64) {
        let wait = backoff(attempt, jitter);
        prop_assert!((BACKOFF_FIRST_MS * 4 / 5..=BACKOFF_MAX_MS * 6 / 5).contains(&wait));
    }

    #[test]
    fn epochs_only_grow_and_each_spawn_has_its_own(steps in prop::collection::vec((events(), 0u64..4_000), 0..120)) {
        let mut table = Supervisor::default();
        let mut now = 0;
        let mut spawned: Vec<(Role, Epoch)> = Vec::new();
        // `Begin` is said once, by main; the sequences here start after it.
        let mut todo = table.on(0, 0, Event::Begin);
        for (event, wait) in steps {
            for action in todo.drain(..) {
                if let Action::Spawn(role, epoch) = action {
                    prop_assert!(spawned.iter().all(|(r, e)| *r != role || *e < epoch));
                    spawned.push((role, epoch));
                }
            }
            now += wait;
            if event != Event::Begin {
                todo = table.on(now, wait, event);
            }
        }
    }

    #[test]
    fn stop_always_ends_in_exit(steps in prop::collection::vec((events(), 0u64..4_000), 0..60)) {
        let mut table = Supervisor::default();
        let mut now = 0;
        table.on(0, 0, Event::Begin);
        for (event, wait) in steps {
            now += wait;
            if event != Event::Begin {
                table.on(now, wait, event);
            }
        }
        let mut exit = table.on(now, 0, Event::Stop).iter().any(|action| matches!(action, Action::Exit(_)));
        // Whoever is told to end or is killed dies; nobody answers otherwise.
        for _ in 0..60 {
            if exit || table.exited { break; }
            now += 5_000;
            let mut actions = table.on(now, 0, Event::Tick);
            let mut at = 0;
            while let Some(action) = actions.get(at).copied() {
                if let Action::Kill(role) | Action::StopRole(role) = action {
                    let epoch = table.facts(role).0;
                    actions.extend(table.on(now, 0, Event::Died(role, epoch, Death::Signalled(9))));
                }
                exit |= matches!(action, Action::Exit(_));
                at += 1;
            }
        }
        prop_assert!(exit || table.exited);
    }

    #[test]
    fn no_edge_is_wired_to_a_server_that_is_not_ready(steps in prop::collection::vec((events(), 0u64..4_000), 0..120)) {
        let mut table = Supervisor::default();
        let mut now = 0;
        table.on(0, 0, Event::Begin);
        for (event, wait) in steps {
            now += wait;
            if event == Event::Begin { continue; }
            for action in table.on(now, wait, event) {
                if let Action::Wire(edge) = action {
                    let wire = edge.wire().unwrap();
                    prop_assert_eq!(table.state(wire.server), RoleState::Ready);
                    prop_assert!(wire.client == Role::Broker || matches!(table.state(wire.client), RoleState::Confined | RoleState::Ready));
                }
            }
        }
    }
}
