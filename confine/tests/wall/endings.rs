//! How a process behind a wall dies of its own faults. SIGSYS means an attack to broker, so nothing else may end in it.

use crate::WALLS;
use crate::child::{Behind, End, KILLED, dies, hush, run_plainly};
use confine::policy::{Policy, Ports, Rule};
use confine::seccomp::Filters;
use confine::sys;
use proto::ids::Role;

const ABORTED: End = End::Signal(sys::SIGABRT);

/// Panics as the roles do, whose profiles say `panic = "abort"`: the message, then abort. This program is built to unwind,
/// as every test is, so the hook takes the last step.
fn panic_and_abort() -> i32 {
    let say = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        say(info);
        std::process::abort();
    }));
    let nothing: Option<u8> = std::hint::black_box(None);
    i32::from(nothing.unwrap())
}

pub fn panic_ends_in_sigabrt() {
    for wall in WALLS {
        assert_eq!(dies(Behind::Wall(wall), panic_and_abort), ABORTED, "{}", wall.role);
    }
    assert_eq!(dies(Behind::Nothing, panic_and_abort), ABORTED);
}

/// auditd's wall but for `tgkill`.
static WITHOUT_ABORT: Policy = Policy {
    role: Role::Auditd,
    rules: &[NO_ABORT],
    soft: confine::policy::SOFT,
    limits: &[],
    grants: &[],
    ports: Ports::None,
    default_allow: false,
    landlock_files: true,
};
const NO_ABORT: &[Rule] = &[
    Rule::new(sys::SYS_write, "the message"),
    Rule::new(sys::SYS_futex, "the message"),
    Rule::new(sys::SYS_brk, "the message"),
    Rule::new(sys::SYS_mmap, "the message"),
    Rule::new(sys::SYS_exit_group, "the end"),
];

/// The twin: the test of the panic can fail.
pub fn panic_ends_in_sigsys_without_the_abort_path() {
    let end = run_plainly(|| {
        hush();
        Filters::of(&WITHOUT_ABORT).unwrap().install().unwrap();
        panic_and_abort()
    });
    assert_eq!(end, KILLED);
}

#[expect(unconditional_recursion, reason = "that is the point")]
fn recurse(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 512]);
    recurse(depth + 1) + frame[7]
}

/// The runtime's handler knows the guard page, says so and aborts; without the handler it would be SIGSEGV.
pub fn stack_overflow_never_looks_like_an_attack() {
    let overflow = || i32::from(recurse(0) == 0);
    let unfiltered = dies(Behind::Nothing, overflow);
    assert!(matches!(unfiltered, ABORTED | End::Signal(sys::SIGSEGV)), "{unfiltered:?}");
    for wall in WALLS {
        assert_eq!(dies(Behind::Wall(wall), overflow), unfiltered, "{}", wall.role);
    }
}

/// A fault elsewhere is not the guard page's: the handler puts the default back and the fault happens again.
pub fn fault_ends_in_sigsegv() {
    let fault = || {
        let nowhere = std::hint::black_box(8usize) as *const i32;
        // SAFETY: none; the first page is never mapped, and the fault is what is tested. It ends this child.
        unsafe { nowhere.read_volatile() }
    };
    for behind in WALLS.iter().map(|wall| Behind::Wall(wall)).chain([Behind::Nothing]) {
        assert_eq!(dies(behind, fault), End::Signal(sys::SIGSEGV));
    }
}
