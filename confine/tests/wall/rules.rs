//! Each rule, with the arguments it is written for and with others.

use crate::WALLS;
use crate::child::{Behind, End, KILLED, call, run};
use crate::model::{Verdict, decide, fitting, perturbed};
use confine::policy::{ABSENT, BASE, Policy, Ports};
use confine::sys;
use proto::ids::Role;

extern "C" fn nothing(_: i32) {}

/// The return from a signal, made as it is meant: by itself it would find rubbish on the stack.
fn handle_a_signal() -> i32 {
    let handler: extern "C" fn(i32) = nothing;
    // SAFETY: the handler does nothing; SIGABRT's is the child's own.
    unsafe {
        sys::signal(sys::SIGABRT, handler as sys::sighandler_t);
        sys::raise(sys::SIGABRT)
    }
}

fn is_what_the_data_say(wall: &'static Policy, nr: i64, args: &[u64; 6]) {
    let verdict = decide(wall, nr, args);
    let end = match (nr, verdict) {
        (sys::SYS_rt_sigreturn, Verdict::Allowed) => run(Behind::Wall(wall), handle_a_signal),
        _ => call(Behind::Wall(wall), nr, args),
    };
    let fits = match verdict {
        Verdict::Killed => end == KILLED,
        Verdict::Errno(errno) => end == End::Exit(errno),
        Verdict::Allowed if nr == sys::SYS_exit_group => end == End::Exit(255),
        // An errno is the kernel's own; only those that the filter gives would be suspicious.
        Verdict::Allowed => matches!(end, End::Exit(errno) if errno != sys::EACCES && errno != sys::ENOSYS),
    };
    assert!(fits, "{}: call {nr} with {args:x?} must be {verdict:?} and ended in {end:?}", wall.role);
}

pub fn each_rule_decides_as_written() {
    for wall in WALLS {
        let (mut fit, mut other) = (0, 0);
        for rule in wall.all_rules() {
            let args = fitting(rule);
            assert_eq!(decide(wall, rule.nr, &args) == Verdict::Killed, wall.default_allow, "{rule:?}");
            is_what_the_data_say(wall, rule.nr, &args);
            fit += 1;
            // Some lie within a sister's conditions, as one fcntl command beside another; most must not.
            let mut turned = 0;
            for args in perturbed(rule) {
                is_what_the_data_say(wall, rule.nr, &args);
                turned += usize::from(decide(wall, rule.nr, &args) != decide(wall, rule.nr, &fitting(rule)));
                other += 1;
            }
            assert!(rule.args.is_empty() || turned > 0, "{}: no perturbation changes {rule:?}", wall.role);
        }
        println!("  {}: {fit} rules as written, {other} perturbed", wall.role);
    }
}

pub fn soft_calls_answer_an_errno() {
    for wall in WALLS {
        for rule in wall.soft.iter().chain(ABSENT) {
            let args = fitting(rule);
            assert!(matches!(decide(wall, rule.nr, &args), Verdict::Errno(_)), "{}: {rule:?}", wall.role);
            is_what_the_data_say(wall, rule.nr, &args);
            for args in perturbed(rule) {
                is_what_the_data_say(wall, rule.nr, &args);
            }
            let plain = call(Behind::Nothing, rule.nr, &args);
            assert!(plain != KILLED && plain != End::Exit(sys::EACCES), "{rule:?} unfiltered: {plain:?}");
        }
    }
}

pub fn policies_have_no_rule_that_another_swallows() {
    for wall in WALLS {
        assert!(wall.redundant().is_empty(), "{}: {:#?}", wall.role, wall.redundant());
    }
}

pub fn reasons_are_given_everywhere() {
    for wall in WALLS {
        let rules = wall.all_rules().chain(wall.soft).chain(ABSENT);
        let mut reasons: Vec<&str> = rules.map(|rule| rule.why).collect();
        reasons.extend(wall.limits.iter().map(|limit| limit.why));
        reasons.extend(wall.grants.iter().map(|grant| grant.why));
        reasons.extend(wall.all_rules().filter_map(|rule| rule.kept));
        reasons.extend(wall.all_rules().flat_map(|rule| rule.args).map(|arg| arg.means));
        if let Ports::Named { why } = wall.ports {
            reasons.push(why);
        }
        assert!(reasons.iter().all(|why| why.len() >= 4 && why.trim() == *why), "{}: {reasons:?}", wall.role);
    }
}

pub fn every_rule_has_a_name_for_the_report() {
    for wall in WALLS {
        for rule in wall.all_rules().chain(wall.soft).chain(ABSENT) {
            assert!(confine::names::name(rule.nr).is_some(), "confine/src/names.rs has no name for {rule:?}");
        }
    }
    assert_eq!(confine::names::name(sys::SYS_read), Some("read"));
    assert_eq!(confine::names::name(-1), None);
}

pub fn untrusted_roles_name_no_way_to_a_socket_or_a_program() {
    let names = |wall: &Policy, nrs: &[i64]| wall.all_rules().any(|rule| nrs.contains(&rule.nr));
    let sockets = [sys::SYS_socket, sys::SYS_socketpair, sys::SYS_connect, sys::SYS_bind, sys::SYS_listen];
    let programs = [sys::SYS_execve, sys::SYS_execveat, sys::SYS_fork, sys::SYS_vfork, sys::SYS_clone];
    for wall in WALLS.iter().filter(|wall| !wall.default_allow) {
        assert!(!names(wall, &programs), "{} can start a program", wall.role);
        assert!(names(wall, &[BASE[0].nr]), "the probe finds what is there");
        let makes_sockets = matches!(wall.role, Role::Dialer | Role::Sandboxd);
        assert_eq!(names(wall, &sockets), makes_sockets, "{}", wall.role);
    }
    let others: Vec<Role> = WALLS.iter().filter(|wall| wall.default_allow).map(|wall| wall.role).collect();
    assert_eq!(others, [Role::Broker, Role::Launcher], "nobody else may start a program");
}
