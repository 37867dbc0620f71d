//! What the kernel says of processes that end: the process connector (linux/cn_proc.h), asked for ends that were no success
//! and for nothing else. So a kill by a filter is known from the kernel, whoever the parent is and whatever it says of it.
//!
//! The socket is made and the question is asked before the wall, behind which there is no such family. It tells of the whole
//! host; whose a process was follows from its parent's control group, since its own is gone with it.
//!
//! Hostile: how many processes end at once. What the kernel has no room for it drops, and says so.

use super::table::Signal;
use super::{Watch, lock};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio, read, write};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, netlink, socket_with};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `CN_IDX_PROC` and `CN_VAL_PROC`: the connector's name, and the multicast group.
const PROC: u32 = 1;
/// `PROC_CN_MCAST_LISTEN`.
const LISTEN: u32 = 1;
/// `PROC_EVENT_NONZERO_EXIT`, Linux 6.6.
const NONZERO_EXIT: u32 = 0x2000_0000;
/// `PROC_EVENT_EXIT`.
const EXIT: u32 = 0x8000_0000;
/// `PROC_EVENT_NONE`: the answer to a question.
const ANSWER: u32 = 0;
/// A netlink header, the connector's, and what stands before an event's own fields.
const HEADERS: usize = 16 + 20;
/// Numbers of ended processes that are remembered.
const KEPT: usize = 64;
/// `SIGSYS`.
const SIGSYS: u32 = 31;
/// Messages before the answer to the first question, which is asked of every kind of event.
const BEFORE: usize = 4_096;

/// A process that ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ended {
    /// Its number on the host.
    pub pid: u32,
    /// Its parent's.
    pub parent: u32,
    /// How, as `wait(2)` has it.
    pub status: u32,
}

impl Ended {
    /// True where its filter ended it.
    #[must_use]
    pub const fn by_its_filter(self) -> bool {
        self.status & 0x7f == SIGSYS
    }
}

/// The connector.
#[derive(Debug)]
pub struct Ends {
    socket: Result<OwnedFd, String>,
    killed: Mutex<VecDeque<u32>>,
    dropped: AtomicBool,
}

fn number(message: &[u8], at: usize) -> Option<u32> {
    let bytes = message.get(HEADERS.saturating_add(at)..)?.first_chunk::<4>()?;
    Some(u32::from_ne_bytes(*bytes))
}

/// The end of a process in a message; none where it is another one, or that of a thread.
#[must_use]
pub fn parse(message: &[u8]) -> Option<Ended> {
    let [pid, group, status, _, _, parent] = [16, 20, 24, 28, 32, 36]
        .map(|at| number(message, at))
        .into_iter()
        .collect::<Option<Vec<_>>>()?
        .try_into()
        .ok()?;
    (number(message, 0)? == EXIT && pid == group).then_some(Ended { pid, parent, status })
}

/// The question, of one kind of event, or of every kind.
fn question(of: Option<u32>) -> Vec<u8> {
    let data: Vec<u8> = std::iter::once(LISTEN).chain(of).flat_map(u32::to_ne_bytes).collect();
    let length = u32::try_from(HEADERS.saturating_add(data.len())).unwrap_or_default();
    let data_length = u16::try_from(data.len()).unwrap_or_default();
    let mut message = length.to_ne_bytes().to_vec();
    // NLMSG_DONE, no flags, sequence and port 0.
    message.extend([3u16, 0].iter().flat_map(|word| word.to_ne_bytes()));
    message.extend([0u32, 0, PROC, PROC, 0, 0].iter().flat_map(|word| word.to_ne_bytes()));
    message.extend([data_length, 0].iter().flat_map(|word| word.to_ne_bytes()));
    message.extend(data);
    message
}

fn connect() -> Result<OwnedFd, String> {
    let failed = |what: &'static str| move |errno: Errno| format!("{what}: {errno}");
    let protocol = Some(netlink::CONNECTOR);
    // Blocking until it serves: what does not block and is read and written is taken for a listener.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, protocol)
        .map_err(failed("the kernel has no process connector"))?;
    bind(&socket, &netlink::SocketAddrNetlink::new(0, PROC))
        .map_err(failed("the process connector needs Linux 6.6"))?;
    // Only of every kind of event does the kernel say that it took the question.
    write(&socket, &question(None)).map_err(failed("the process connector does not take a question"))?;
    answered(&socket)?;
    write(&socket, &question(Some(NONZERO_EXIT))).map_err(failed("the process connector does not take a question"))?;
    Ok(socket)
}

fn answered(socket: &OwnedFd) -> Result<(), String> {
    // The kernel answers before the question's write returns, or never: to whoever is in a namespace it says nothing.
    let now = Timespec::default();
    let mut message = [0u8; 256];
    for _ in 0..BEFORE {
        if poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&now)).unwrap_or_default() == 0 {
            break;
        }
        match read(socket, &mut message) {
            Ok(count) => {
                let message = message.get(..count).unwrap_or_default();
                if number(message, 0) == Some(ANSWER) {
                    let errno = number(message, 16).unwrap_or_default();
                    return if errno == 0 {
                        Ok(())
                    } else {
                        Err(format!("the process connector refuses: errno {errno}"))
                    };
                }
            }
            Err(Errno::INTR | Errno::NOBUFS) => {}
            Err(errno) => return Err(format!("the process connector: {errno}")),
        }
    }
    Err("the process connector does not answer, as in a namespace of processes or of users that is not the host's"
        .to_owned())
}

impl Ends {
    /// Before the wall. Where it cannot be, that is said later.
    #[must_use]
    pub fn open() -> Self {
        Self { socket: connect(), killed: Mutex::default(), dropped: AtomicBool::new(false) }
    }

    /// Whether it tells.
    ///
    /// # Errors
    /// Why not.
    pub fn try_out(&self) -> Result<String, String> {
        self.socket.as_ref().map_err(Clone::clone)?;
        let dropped =
            if self.dropped.load(Ordering::Relaxed) { "; some were dropped, too many came at once" } else { "" };
        Ok(format!("the kernel took the question; it is heard while there is a container{dropped}"))
    }

    /// Whose parents end, and how, that nobody took yet.
    fn take(&self) -> Vec<Ended> {
        let (mut ended, mut message) = (Vec::new(), [0u8; 256]);
        let Ok(socket) = &self.socket else { return ended };
        loop {
            match read(socket, &mut message) {
                Ok(count) => ended.extend(parse(message.get(..count).unwrap_or_default())),
                Err(Errno::NOBUFS) => self.dropped.store(true, Ordering::Relaxed),
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        let mut killed = lock(&self.killed);
        killed.extend(ended.iter().filter(|ended| ended.by_its_filter()).map(|ended| ended.pid));
        while killed.len() > KEPT {
            killed.pop_front();
        }
        ended
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe for the sake of types that lie about their descriptor; a borrowed one does not"
)]
fn readable(socket: BorrowedFd<'_>) -> std::io::Result<AsyncFd<BorrowedFd<'_>>> {
    AsyncFd::with_interest(socket, Interest::READABLE)
}

impl Watch {
    /// Hears of ends while there is a container; where there is none the kernel drops them, and wakes nobody.
    pub(super) async fn hear_ends(self: Arc<Self>) {
        let Some(Ok(socket)) = self.kernel.get().map(|kernel| kernel.ends.socket.as_ref()) else { return };
        if ioctl_fionbio(socket, true).is_err() {
            return;
        }
        loop {
            if lock(&self.state).containers.is_empty() {
                self.begun.notified().await;
                continue;
            }
            let Ok(ready) = readable(socket.as_fd()) else { return };
            while !lock(&self.state).containers.is_empty() {
                self.take_ends().await;
                match ready.readable().await {
                    Ok(mut guard) => guard.clear_ready(),
                    Err(_) => return,
                }
            }
        }
    }

    async fn take_ends(&self) {
        let Some(kernel) = self.kernel.get() else { return };
        let killed: Vec<Ended> = kernel.ends.take().into_iter().filter(|ended| ended.by_its_filter()).collect();
        if killed.is_empty() {
            return;
        }
        let ids: Vec<String> = lock(&self.state).containers.keys().cloned().collect();
        for Ended { pid, parent, .. } in killed {
            let container = kernel.processes.container_of(parent, &ids).and_then(|at| ids.get(at));
            if let Some(container) = container {
                let detail = format!("process {pid}, child of {parent}: a call that no honest program makes");
                self.tell(container, Signal::SeccompKill, detail).await;
            }
        }
    }

    /// True where the kernel says that this process was ended by its filter, of late.
    pub async fn was_killed(&self, pid: u32) -> bool {
        self.take_ends().await;
        self.kernel.get().is_some_and(|kernel| lock(&kernel.ends.killed).contains(&pid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(what: u32, fields: [u32; 6]) -> Vec<u8> {
        let mut message = vec![0; HEADERS];
        message.extend([what, 0, 0, 0].iter().chain(&fields).flat_map(|word| word.to_ne_bytes()));
        message
    }

    #[test]
    fn end_is_read_and_one_by_a_filter_is_told_from_a_status_that_says_so() {
        let ended = parse(&message(EXIT, [7, 7, 31, 17, 5, 6])).unwrap();
        assert_eq!(ended, Ended { pid: 7, parent: 6, status: 31 });
        assert!(ended.by_its_filter());
        assert!(parse(&message(EXIT, [7, 7, 31 | 0x80, 17, 5, 6])).unwrap().by_its_filter(), "with a core");
        for status in [159 << 8, 31 << 8, 9, 1 << 8] {
            assert!(!parse(&message(EXIT, [7, 7, status, 17, 5, 6])).unwrap().by_its_filter(), "{status}");
        }
    }

    #[test]
    fn threads_other_events_and_what_is_too_short_are_none() {
        assert_eq!(parse(&message(EXIT, [8, 7, 31, 17, 5, 6])), None);
        assert_eq!(parse(&message(ANSWER, [7, 7, 31, 17, 5, 6])), None);
        let whole = message(EXIT, [7, 7, 31, 17, 5, 6]);
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), None, "{length}");
        }
    }

    /// The kernel itself, where it tells: a process that dies by the signal, and its twin that exits with the status.
    #[test]
    fn kernel_tells_of_a_kill_and_not_of_a_status() {
        let ends = Ends::open();
        if let Err(why) = ends.try_out() {
            assert!(std::env::var_os("MOLTBOT_TEST_REQUIRE").is_none(), "cannot be skipped here: {why}");
            eprintln!("SKIPPED: {why}");
            return;
        }
        ioctl_fionbio(ends.socket.as_ref().unwrap(), true).unwrap();
        let run = |script: &str| {
            let mut child = std::process::Command::new("sh").args(["-c", script]).spawn().unwrap();
            let pid = child.id();
            child.wait().unwrap();
            pid
        };
        let (killed, said) = (run("kill -SYS $$"), run("exit 159"));
        let own = std::process::id();
        let (mut all, until) = (Vec::new(), std::time::Instant::now() + std::time::Duration::from_secs(30));
        while !all.iter().any(|ended: &Ended| ended.pid == said) {
            assert!(std::time::Instant::now() < until, "{all:?}");
            // The kernel answers before the question's write returns, or never: to whoever is in a namespace it says nothing.
            let now = Timespec::default();
            let _ = poll(&mut [PollFd::new(ends.socket.as_ref().unwrap(), PollFlags::IN)], Some(&now));
            all.extend(ends.take());
        }
        let of = |pid| *all.iter().find(|ended| ended.pid == pid).unwrap();
        assert!(of(killed).by_its_filter() && !of(said).by_its_filter(), "{all:?}");
        assert_eq!((of(killed).parent, of(said).status), (own, 159 << 8));
        assert!(lock(&ends.killed).contains(&killed) && !lock(&ends.killed).contains(&said));
    }
}
