//! The reaction's properties, and its vectors.

use super::*;
use crate::state::{CHILDREN, Death};
use proptest::prelude::*;

const CRASH: Cause = Cause::Death(Death::Signalled(11));

/// Answers every question of `orders` at `now`, and goes on until nothing is asked; returns everything that was ordered.
fn answer_all(table: &mut Reaction, now: u64, orders: Vec<Order>, lives: impl Fn(Role) -> bool + Copy) -> Vec<Order> {
    let mut all = Vec::new();
    let mut todo = orders;
    while !todo.is_empty() {
        let asked: Vec<Role> =
            todo.iter().filter_map(|order| if let Order::Ask(role, _) = order { Some(*role) } else { None }).collect();
        all.append(&mut todo);
        for role in asked {
            todo.extend(table.on(now, Input::Did(role), lives));
        }
    }
    all
}

fn notes(orders: &[Order]) -> Vec<(Severity, Step, Outcome)> {
    let note = |order: &Order| match order {
        Order::Note(severity, step, outcome, _) => Some((*severity, *step, *outcome)),
        _ => None,
    };
    orders.iter().filter_map(note).collect()
}

#[test]
fn crash_is_contained_and_everything_works_again() {
    let mut table = Reaction::new(false);
    let orders = table.on(10, Input::Alarm(Role::Egress, CRASH), |role| role != Role::Egress);
    assert_eq!(orders, [Order::Begin, Order::Ask(Role::Gateway, Step::Intake)]);
    assert_eq!(table.mode(), Mode::Reacting);
    let all = answer_all(&mut table, 20, orders, |role| role != Role::Egress);
    let steps = [Step::Intake, Step::Sandboxes, Step::Leases, Step::Evidence, Step::Suspects];
    assert_eq!(notes(&all), steps.map(|step| (Severity::Containment, step, Outcome::Done)));
    assert!(all.ends_with(&[Order::Thaw, Order::End]) && all.contains(&Order::Revive(Role::Egress)));
    assert!(!all.contains(&Order::Lock) && !all.contains(&Order::Ask(Role::Egress, Step::Leases)));
    assert_eq!(table.mode(), Mode::Open);
}

#[test]
fn second_incident_within_the_hour_locks_and_one_after_it_does_not() {
    for (later, mode) in [(AGAIN_MS - 1, Mode::Locked), (AGAIN_MS, Mode::Open)] {
        let mut table = Reaction::new(false);
        for now in [0, later] {
            let orders = table.on(now, Input::Alarm(Role::Vault, CRASH), |_| true);
            answer_all(&mut table, now, orders, |_| true);
        }
        assert_eq!(table.mode(), mode, "{later}");
    }
}

#[test]
fn drift_and_the_operator_lock_at_once_and_before_any_step() {
    for cause in [Cause::Drift, Cause::Operator] {
        let mut table = Reaction::new(false);
        let orders = table.on(0, Input::Alarm(Role::Gateway, cause), |_| true);
        assert_eq!(orders[..2], [Order::Begin, Order::Lock]);
        let all = answer_all(&mut table, 0, orders, |_| true);
        assert!(!all.contains(&Order::Thaw) && table.mode() == Mode::Locked);
        assert_eq!(all.contains(&Order::Revive(Role::Gateway)), cause == Cause::Drift, "the operator suspects nobody");
    }
}

#[test]
fn suspect_is_killed_where_it_would_be_asked() {
    for (role, step) in [
        (Role::Gateway, Step::Intake),
        (Role::Sandboxd, Step::Sandboxes),
        (Role::Vault, Step::Leases),
        (Role::Auditd, Step::Evidence),
    ] {
        let mut table = Reaction::new(false);
        let orders = table.on(0, Input::Alarm(role, Cause::Violation), |_| true);
        let all = answer_all(&mut table, 0, orders, |_| true);
        assert!(all.contains(&Order::Kill(role)) && !all.contains(&Order::Ask(role, step)), "{role}");
        assert!(notes(&all).contains(&(Severity::Containment, step, Outcome::Killed)), "{role}");
    }
}

#[test]
fn role_that_does_not_do_its_part_is_killed_at_the_deadline_and_the_rest_goes_on() {
    let mut table = Reaction::new(false);
    table.on(0, Input::Alarm(Role::Egress, CRASH), |_| true);
    assert!(table.on(999, Input::Tick, |_| true).is_empty());
    let orders = table.on(1_000, Input::Tick, |_| true);
    assert_eq!(orders[0], Order::Kill(Role::Gateway));
    assert_eq!(orders[1], Order::Note(Severity::Containment, Step::Intake, Outcome::TimedOut, 1_000));
    assert!(orders.contains(&Order::Ask(Role::Sandboxd, Step::Sandboxes)));
}

#[test]
fn trouble_of_a_second_role_during_an_incident_locks() {
    let mut table = Reaction::new(false);
    table.on(0, Input::Alarm(Role::Egress, CRASH), |_| true);
    assert!(table.on(1, Input::Alarm(Role::Egress, CRASH), |_| true).is_empty(), "the same role says nothing new");
    let orders = table.on(2, Input::Alarm(Role::Gateway, CRASH), |_| true);
    assert_eq!(orders[0], Order::Lock);
}

#[test]
fn lockdown_is_ended_by_clear_alone_and_not_while_a_reaction_is_under_way() {
    let mut table = Reaction::new(true);
    assert_eq!(table.mode(), Mode::Locked);
    let orders = table.on(0, Input::Alarm(Role::Egress, CRASH), |_| true);
    assert!(table.on(1, Input::Clear, |_| true).is_empty());
    answer_all(&mut table, 1, orders, |_| true);
    assert_eq!(table.mode(), Mode::Locked, "what was locked before does not open by an incident");
    assert_eq!(table.on(2, Input::Clear, |_| true), [Order::Thaw]);
    assert_eq!(table.mode(), Mode::Open);
}

fn inputs() -> impl Strategy<Value = Input> {
    let role = prop::sample::select(CHILDREN.to_vec());
    let cause = prop::sample::select(vec![CRASH, Cause::Violation, Cause::Drift, Cause::Unattested, Cause::Operator]);
    prop_oneof![
        2 => (role.clone(), cause).prop_map(|(role, cause)| Input::Alarm(role, cause)),
        6 => role.clone().prop_map(Input::Did),
        2 => role.prop_map(Input::Gone),
        1 => Just(Input::Clear),
        4 => Just(Input::Tick),
    ]
}

proptest! {
    /// Whatever happens, a reaction is over when its deadlines have passed, every step of it is noted once and in order, and
    /// every suspect comes back.
    #[test]
    fn every_incident_ends_with_every_step_noted_once(
        steps in prop::collection::vec((inputs(), 0u64..2_000), 0..80),
        alive: [bool; 8],
    ) {
        let mut table = Reaction::new(false);
        let lives = |role: Role| alive[role.index() as usize];
        let mut now = 0;
        let mut all = Vec::new();
        let mut suspects = Vec::new();
        for (input, later) in steps {
            now += later;
            if let Input::Alarm(role, cause) = input && cause != Cause::Operator { suspects.push(role) }
            all.extend(table.on(now, input, lives));
        }
        for _ in 0..6 {
            now += 5_000;
            all.extend(table.on(now, Input::Tick, lives));
        }
        prop_assert!(table.mode() != Mode::Reacting);
        prop_assert!(table.next_due().is_none());
        let begun = all.iter().filter(|order| **order == Order::Begin).count();
        let steps = [Step::Intake, Step::Sandboxes, Step::Leases, Step::Evidence, Step::Suspects];
        let noted: Vec<Step> = notes(&all).into_iter().map(|(_, step, _)| step).collect();
        prop_assert_eq!(noted, steps.repeat(begun));
        prop_assert_eq!(begun, all.iter().filter(|order| **order == Order::End).count());
        for role in suspects {
            prop_assert!(all.contains(&Order::Revive(role)));
        }
    }

    /// Between a lock and the operator's word nothing thaws.
    #[test]
    fn nothing_thaws_a_lockdown_but_the_operator(steps in prop::collection::vec((inputs(), 0u64..2_000), 0..80)) {
        let mut table = Reaction::new(false);
        let (mut now, mut locked) = (0, false);
        for (input, later) in steps {
            now += later;
            for order in table.on(now, input, |_| true) {
                match order {
                    Order::Lock => locked = true,
                    Order::Thaw => {
                        prop_assert!(!locked || input == Input::Clear);
                        locked = false;
                    }
                    _ => {}
                }
            }
        }
        prop_assert!(!locked || table.mode() != Mode::Open);
    }
}

#[test]
fn reporter_of_a_breach_does_its_step_and_is_replaced_with_gateway_at_the_end() {
    let mut reaction = Reaction::new(false);
    let alive = |_: Role| true;
    let mut orders = reaction.on(0, Input::Alarm(Role::Sandboxd, Cause::Breach), alive);
    assert!(orders.contains(&Order::Kill(Role::Gateway)) && !orders.contains(&Order::Kill(Role::Sandboxd)));
    assert!(orders.contains(&Order::Ask(Role::Sandboxd, Step::Sandboxes)), "it alone holds the evidence");
    // A second word of the same about its sandboxes spreads nothing.
    orders.extend(reaction.on(1, Input::Alarm(Role::Sandboxd, Cause::Breach), alive));
    for role in [Role::Sandboxd, Role::Launcher, Role::Vault, Role::Egress, Role::Dialer, Role::Auditd] {
        orders.extend(reaction.on(2, Input::Did(role), alive));
    }
    assert!(!orders.contains(&Order::Lock) && reaction.mode() == Mode::Open);
    let at = |order: Order| orders.iter().position(|other| *other == order).unwrap();
    assert!(at(Order::Kill(Role::Sandboxd)) > at(Order::Note(Severity::Containment, Step::Evidence, Outcome::Done, 0)));
    assert!(
        at(Order::Revive(Role::Sandboxd)) > at(Order::Kill(Role::Sandboxd))
            && orders.contains(&Order::Revive(Role::Gateway))
    );
    assert!(reaction.on(3, Input::Alarm(Role::Sandboxd, Cause::Breach), alive).contains(&Order::Lock), "a second one");
}

#[test]
fn escape_locks_first_and_a_dead_reporter_holds_nothing_up() {
    let mut reaction = Reaction::new(false);
    let alive = |_: Role| true;
    let mut orders = reaction.on(0, Input::Alarm(Role::Sandboxd, Cause::Escape), alive);
    assert_eq!(orders.iter().position(|order| *order == Order::Lock), Some(1));
    orders.extend(reaction.on(1, Input::Gone(Role::Sandboxd), alive));
    for role in [Role::Launcher, Role::Vault, Role::Egress, Role::Dialer, Role::Auditd] {
        orders.extend(reaction.on(2, Input::Did(role), alive));
    }
    assert_eq!(reaction.mode(), Mode::Locked);
    assert!(!orders.contains(&Order::Thaw));
}
