//! Memory that the kernel takes out of its own map: `memfd_secret(2)`. No read of `/proc/<pid>/mem`, no `process_vm_readv`,
//! no ptrace peek and no core dump reaches it, root's included. It does not protect against root that runs code inside the
//! process, nor against the kernel.
//!
//! A process puts everything there at once: its heap ([`Heap`], the global allocator) and the stack that it works on
//! ([`on_secret_stack`]), because a cipher leaves round keys on the stack and a codec leaves copies on the heap. What is
//! freed is wiped first. Where the kernel has no such memory the arena is ordinary memory, locked and kept out of dumps,
//! and [`lack`] says so.

mod blocks;

use blocks::{Blocks, class};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering, compiler_fence};

/// Bytes of the heap. With the stack below the 8 MiB that `RLIMIT_MEMLOCK` allows by default.
const HEAP: usize = 7 << 20;
/// Bytes of the stack.
const STACK: usize = 640 << 10;
/// A hole on each side of both, which faults.
const GUARD: usize = 64 << 10;
const WHOLE: usize = GUARD + STACK + GUARD + HEAP + GUARD;
/// Blocks of this size and more are the system allocator's: nothing that holds a secret is that large. Argon2's work
/// memory is; it is wiped when freed as well.
const LARGE: usize = 4 << 20;
/// Smallest block; blocks are powers of two from here on.
const SMALLEST: usize = 32;

/// Largest alignment that a block has.
const PAGE: usize = 4096;

const NOT_MADE: u8 = 0;
const SECRET: u8 = 1;
const LOCKED: u8 = 2;
const PLAIN: u8 = 3;

/// What the arena is made of.
static KIND: AtomicU8 = AtomicU8::new(NOT_MADE);
static ARENA: Arena = Arena { busy: AtomicBool::new(false), inner: UnsafeCell::new(Inner::EMPTY) };

/// Weaker than designed, and why, for [`crate::startup::Start::weaker`].
#[must_use]
pub fn lack() -> Option<&'static str> {
    match KIND.load(Ordering::Acquire) {
        LOCKED => Some("no memfd_secret in this kernel: keys are in locked memory, which root can read"),
        PLAIN => Some("neither memfd_secret nor mlock: keys are in ordinary memory (raise RLIMIT_MEMLOCK to 8 MiB)"),
        _ => None,
    }
}

struct Arena {
    busy: AtomicBool,
    inner: UnsafeCell<Inner>,
}

// SAFETY: `inner` is reached through `Arena::with` alone, which holds `busy` meanwhile.
unsafe impl Sync for Arena {}

struct Inner {
    stack_top: *mut u8,
    blocks: Blocks,
}

impl Inner {
    const EMPTY: Self = Self { stack_top: ptr::null_mut(), blocks: Blocks::EMPTY };
}

/// Bytes of the heap that are in no block; as many as there can be where the process has another heap.
#[must_use]
pub fn left() -> usize {
    if KIND.load(Ordering::Acquire) == NOT_MADE { usize::MAX } else { ARENA.with(|inner| inner.blocks.left()) }
}

impl Arena {
    /// Runs `work` alone. It is short and never blocks, so others spin; the vault has one thread anyway.
    fn with<R>(&self, work: impl FnOnce(&mut Inner) -> R) -> R {
        while self.busy.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            std::hint::spin_loop();
        }
        // SAFETY: `busy` was false and is true until below, so this is the one reference there is.
        let inner = unsafe { &mut *self.inner.get() };
        if !inner.blocks.is_made() {
            make(inner);
        }
        let result = work(inner);
        self.busy.store(false, Ordering::Release);
        result
    }
}

/// Maps the arena. Must not allocate: it runs inside the allocator.
fn make(inner: &mut Inner) {
    // SAFETY: an anonymous reservation at an address of the kernel's choice, without access.
    let base =
        unsafe { libc::mmap(ptr::null_mut(), WHOLE, libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
    if base == libc::MAP_FAILED {
        return;
    }
    let Some(base) = NonNull::new(base.cast::<u8>()) else { return };
    let fd = secret_file();
    let kinds = if fd < 0 { &[LOCKED, PLAIN][..] } else { &[SECRET, LOCKED, PLAIN][..] };
    // Offsets into the reservation, the stack's first.
    let parts = [(GUARD, STACK, 0), (GUARD + STACK + GUARD, HEAP, STACK)];
    let kind =
        kinds.iter().find(|kind| parts.iter().all(|(at, size, offset)| fill(base, *at, *size, *offset, fd, **kind)));
    if fd >= 0 {
        // SAFETY: the descriptor is ours and used nowhere else; the mappings keep the memory.
        unsafe { libc::close(fd) };
    }
    let Some(kind) = kind else { return };
    KIND.store(*kind, Ordering::Release);
    // SAFETY: both lie within the reservation of WHOLE bytes, on pages; nothing else uses the heap's part.
    unsafe {
        inner.stack_top = base.as_ptr().add(GUARD + STACK);
        inner.blocks.take_over(base.as_ptr().add(GUARD + STACK + GUARD));
    }
}

/// As the kernel takes it; what does not fit is refused by the call.
fn offset(bytes: usize) -> libc::off_t {
    libc::off_t::try_from(bytes).unwrap_or(libc::off_t::MAX)
}

/// A file of secret memory as large as both parts, or -1. Its limit is raised as far as it may be.
fn secret_file() -> i32 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls take a pointer to a structure that lives across them; a failure leaves the limit as it was.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit);
        }
    }
    // SAFETY: takes a flag and returns a descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
    let fd = i32::try_from(fd).unwrap_or(-1);
    // SAFETY: an own descriptor; a constant that fits.
    if fd >= 0 && unsafe { libc::ftruncate(fd, offset(STACK + HEAP)) } != 0 {
        // SAFETY: an own descriptor that nothing uses.
        unsafe { libc::close(fd) };
        return -1;
    }
    fd
}

/// Puts memory of `kind` into the reservation. False where the kernel says no.
fn fill(base: NonNull<u8>, at: usize, size: usize, offset: usize, fd: i32, kind: u8) -> bool {
    let (flags, fd, offset) = match kind {
        SECRET => (libc::MAP_SHARED, fd, self::offset(offset)),
        _ => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0),
    };
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the range lies within the reservation, which nothing uses yet, so MAP_FIXED replaces nothing of anybody's;
    // the other calls concern the same range.
    unsafe {
        let wanted = base.as_ptr().add(at).cast::<c_void>();
        if libc::mmap(wanted, size, access, flags | libc::MAP_FIXED, fd, offset) != wanted {
            return false;
        }
        // Secret memory is locked and undumped by nature.
        if kind != SECRET {
            libc::madvise(wanted, size, libc::MADV_DONTDUMP);
        }
        kind != LOCKED || libc::mlock(wanted, size) == 0
    }
}

/// Overwrites, in a way that is not optimized away because nobody reads it again.
///
/// # Safety
/// `size` bytes at `block` are the caller's to write.
unsafe fn wipe(block: *mut u8, size: usize) {
    // SAFETY: as the caller says.
    unsafe { ptr::write_bytes(block, 0, size) };
    compiler_fence(Ordering::SeqCst);
    // The compiler must take it that somebody looks.
    std::hint::black_box(block);
}

/// The global allocator of a process that holds secrets. Blocks come from the arena, are wiped when freed and never leave
/// it; where it is used up, allocation fails, which ends the process.
#[derive(Debug)]
pub struct Heap;

// SAFETY: a block is handed out to one owner at a time: it comes off a list of free ones under the arena's lock. It is as
// large as its class, which is at least the layout's size and a multiple of its alignment, and begins at a multiple of its
// size from a page. Large blocks are the system's throughout.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match class(layout) {
            Some(class) => ARENA.with(|inner| inner.blocks.take(class)),
            // SAFETY: the caller's layout, passed on.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block has at least the layout's size and its owner gives it up.
        unsafe { wipe(block, layout.size()) };
        match class(layout) {
            // SAFETY: it was taken with the class of this layout, and its owner gives it up.
            Some(class) => ARENA.with(|inner| unsafe { inner.blocks.give(block, class) }),
            // SAFETY: it came from the system, by the same class of the same layout.
            None => unsafe { System.dealloc(block, layout) },
        }
    }
}

/// The global allocator of a process that has a secret for a moment, or is handed one within something else, as a record of a
/// command or a server's answer is: blocks are the system's, and are wiped when freed.
#[derive(Debug)]
pub struct Wiping;

// SAFETY: every block is the system's, asked for and given back with the caller's own layout.
unsafe impl GlobalAlloc for Wiping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout, passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block has at least the layout's size and its owner gives it up; it came from the system.
        unsafe {
            wipe(block, layout.size());
            System.dealloc(block, layout);
        }
    }
}

/// Runs `work` on the arena's stack and returns what it returns. A panic inside ends the process.
pub fn on_secret_stack<R>(work: impl FnOnce() -> R) -> R {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let top = ARENA.with(|inner| inner.stack_top);
    if top.is_null() || TAKEN.swap(true, Ordering::AcqRel) {
        // There is one such stack; without it what follows is as safe as any other program.
        return work();
    }
    let mut call = Call { work: Some(work), result: None };
    let entry = entry(&call);
    // SAFETY: the stack is mapped, used by nobody else (TAKEN), and its top is aligned to a page; `run` gets the call that
    // it was made for, which outlives it.
    unsafe { switch(top, (&raw mut call).cast(), entry) };
    TAKEN.store(false, Ordering::Release);
    match call.result {
        Some(result) => result,
        // `run` always leaves one.
        None => std::process::abort(),
    }
}

struct Call<F, R> {
    work: Option<F>,
    result: Option<R>,
}

/// [`run`] of the types of this call, which nobody can write down.
fn entry<F: FnOnce() -> R, R>(_call: &Call<F, R>) -> extern "C" fn(*mut c_void) {
    run::<F, R>
}

/// Not unwinding: `extern "C"` ends the process where a panic would leave it.
extern "C" fn run<F: FnOnce() -> R, R>(call: *mut c_void) {
    // SAFETY: `on_secret_stack` passes the call whose types these are, and waits.
    let call = unsafe { &mut *call.cast::<Call<F, R>>() };
    call.result = call.work.take().map(|work| work());
}

/// Calls `function(data)` with the stack pointer at `top`.
///
/// # Safety
/// `top` is the aligned end of a stack that nobody else uses, and `function` may be called with `data`.
unsafe fn switch(top: *mut u8, data: *mut c_void, function: extern "C" fn(*mut c_void)) {
    // SAFETY: the old stack pointer is kept in a register that the callee preserves (System V psABI; AAPCS64), everything
    // that the callee may change is declared, and the stack has the alignment that a call wants.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::asm!(
            "mov r12, rsp",
            "mov rsp, {top}",
            "call {function}",
            "mov rsp, r12",
            top = in(reg) top,
            function = in(reg) function,
            in("rdi") data,
            out("r12") _,
            clobber_abi("C"),
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!(
            "mov x20, sp",
            "mov sp, {top}",
            "blr {function}",
            "mov sp, x20",
            top = in(reg) top,
            function = in(reg) function,
            in("x0") data,
            out("x20") _,
            clobber_abi("C"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_apart_aligned_reused_and_wiped() {
        let layout = |size, align| Layout::from_size_align(size, align).unwrap();
        let mut taken = Vec::new();
        for n in 0..200usize {
            let layout = layout(1 + n * 37, 1 << (n % 8));
            // SAFETY: a layout of more than 0 bytes; what is written lies within it.
            let block = unsafe { Heap.alloc(layout) };
            assert!(!block.is_null() && (block as usize).is_multiple_of(layout.align()));
            // SAFETY: as above.
            unsafe { ptr::write_bytes(block, u8::try_from(n).unwrap(), layout.size()) };
            taken.push((block, layout, n));
        }
        for (block, layout, n) in &taken {
            // SAFETY: the block is still ours, and was written whole.
            let bytes = unsafe { std::slice::from_raw_parts(*block, layout.size()) };
            assert!(bytes.iter().all(|byte| usize::from(*byte) == *n), "block {n}");
        }
        for (block, layout, _) in taken {
            // SAFETY: each is given back once, and looked at beyond the address of the next free one, still mapped.
            unsafe {
                Heap.dealloc(block, layout);
                let rest = std::slice::from_raw_parts(block.add(8), layout.size().saturating_sub(8));
                assert!(rest.iter().all(|byte| *byte == 0));
            }
        }
    }

    #[test]
    fn work_runs_on_the_other_stack_and_returns_what_it_returns() {
        fn deep(n: u64) -> u64 {
            let here = std::hint::black_box([n; 64]);
            if n == 0 { 0 } else { deep(n - 1) + here[3] }
        }
        let outside = 0u8;
        let (inside, sum) = on_secret_stack(|| {
            let inside = 0u8;
            (&raw const inside as usize, deep(300))
        });
        assert_eq!(sum, 300 * 301 / 2);
        let (low, top) = ARENA.with(|inner| (inner.stack_top as usize - STACK, inner.stack_top as usize));
        assert!((low..top).contains(&inside) && !(low..top).contains(&(&raw const outside as usize)));
    }
}
