//! The operator's door: a named SEQPACKET socket in the state directory. The kernel says who knocks; whoever is neither
//! root nor the owner of the set, nor of the operators' group, is told so before a byte of theirs is read, and recorded, once
//! a minute at most.

use crate::layout::StateDir;
use confine::operators::{self, Stranger, Turnstile};
use confine::startup::StartError;
use proto::audit::Record;
use proto::bounded::BoundedStr;
use proto::channel::{Channel, ChannelError, Incoming, decode_incoming, refusal_frame, reply_frame};
use proto::edge::{Edge, OperatorBroker, Refusal};
use proto::ids::RequestId;
use proto::operator::{OperatorReply, OperatorRequest};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with};
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

/// Visitors at once; more wait in the kernel's queue.
const MAX_VISITORS: usize = 16;
/// The number of every client's first question, which a stranger's refusal answers unread.
const FIRST: RequestId = RequestId(1);

/// The listening end.
#[derive(Debug)]
pub struct Door {
    socket: OwnedFd,
    /// Whose members may come in.
    group: Option<u32>,
    strangers: Turnstile,
}

/// Somebody who came in.
#[derive(Debug)]
pub struct Visitor {
    /// Tells visitors apart.
    pub number: u64,
    channel: Channel,
    /// Their uid, from the kernel.
    pub uid: u32,
    /// Their pid, from the kernel.
    pub pid: u32,
    /// What they have looked at, by verb.
    pub looked: BTreeSet<&'static str>,
}

impl Door {
    /// Makes the socket anew. The state directory's lock is held, so an old one is nobody's.
    ///
    /// # Errors
    /// [`StartError`]; a path over 107 bytes does not fit a socket address.
    pub fn open(state_dir: &StateDir, group: &str) -> Result<Self, StartError> {
        let refuse = |why: &dyn std::fmt::Display| StartError::permanent(format!("operator.group: {why}"));
        let group = operators::group(group).map_err(|why| refuse(&why))?;
        let path = state_dir.path().join("run/operator.sock");
        let bad = |errno: rustix::io::Errno| {
            StartError::permanent(format!(
                "{}: {errno}; choose a shorter --state-dir if it is over 107 bytes long",
                path.display()
            ))
        };
        let address = SocketAddrUnix::new(&path).map_err(bad)?;
        let _ = rustix::fs::unlinkat(state_dir.run(), "operator.sock", rustix::fs::AtFlags::empty());
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map_err(bad)?;
        bind(&socket, &address).map_err(bad)?;
        operators::open_way(state_dir.root(), state_dir.run().as_fd(), "operator.sock", group)
            .map_err(|why| refuse(&why))?;
        listen(&socket, 16).map_err(bad)?;
        Ok(Self { socket, group, strangers: Turnstile::default() })
    }

    /// Lets the next visitor in, if there is one and the kernel says it is the operator.
    ///
    /// # Errors
    /// What is to be recorded of one who is not.
    pub fn admit(&mut self, owner: u32, present: usize, number: u64) -> Result<Option<Visitor>, Box<Record>> {
        if present >= MAX_VISITORS {
            return Ok(None);
        }
        let Ok(fd) = accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) else { return Ok(None) };
        let admitted = operators::admit(fd.as_fd(), owner, self.group);
        let channel = Channel::from_fd(fd);
        match admitted {
            Ok(operators::Peer { uid, pid, .. }) => {
                Ok(Some(Visitor { number, channel, uid, pid, looked: BTreeSet::new() }))
            }
            Err(Stranger { uid, pid, why }) => {
                let refusal = refusal_frame::<OperatorBroker>(FIRST, &Refusal::new("operator.stranger", &why));
                let _ = refusal.map(|packet| channel.send(&packet, &[]));
                let Some(others) = self.strangers.count(Instant::now()) else { return Ok(None) };
                let detail = BoundedStr::truncated(&format!("{why}; {others} others since the last record"));
                Err(Box::new(Record::Operator { uid, pid, verb: BoundedStr::truncated("stranger"), detail }))
            }
        }
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsFd for Visitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

impl Visitor {
    /// Next request.
    ///
    /// # Errors
    /// [`ChannelError`]; the visitor is shown out on all but `WouldBlock`.
    pub fn recv(&self) -> Result<(RequestId, OperatorRequest), ChannelError> {
        match decode_incoming::<OperatorBroker>(self.channel.recv(OperatorBroker::MAX_REQUEST, 0)?)? {
            Incoming::Request { id, request, .. } => Ok((id, request)),
            Incoming::Credit { .. } | Incoming::Cancel { .. } => Err(ChannelError::Violation("no request")),
        }
    }

    /// Answers. A visitor that does not read its answer loses it: broker waits for nobody.
    pub fn answer(&self, id: RequestId, answer: Result<(OperatorReply, Option<OwnedFd>), Refusal>) {
        let (packet, fd) = match answer {
            Ok((reply, fd)) => (reply_frame::<OperatorBroker>(id, &reply), fd),
            Err(refusal) => (refusal_frame::<OperatorBroker>(id, &refusal), None),
        };
        if let Ok(packet) = packet {
            let fds: Vec<BorrowedFd<'_>> = fd.iter().map(AsFd::as_fd).collect();
            let _ = self.channel.send(&packet, &fds);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::net::connect;
    use std::process::{Command, Stdio};

    const PATH: &str = "MOLTBOT_TEST_DOOR";

    fn knock(path: &std::ffi::OsStr) -> OwnedFd {
        let visitor = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        connect(&visitor, &SocketAddrUnix::new(path).unwrap()).unwrap();
        visitor
    }

    fn next(door: &mut Door) -> Option<Visitor> {
        poll(&mut [PollFd::new(&*door, PollFlags::IN)], None).unwrap();
        door.admit(rustix::process::getuid().as_raw(), 0, 1).unwrap_or_default()
    }

    /// What the child of the test below runs.
    #[test]
    fn child_knocks_where_it_is_told_to() {
        if let Some(path) = std::env::var_os(PATH) {
            let visitor = knock(&path);
            // Until the test has looked: it drops the connection.
            poll(&mut [PollFd::new(&visitor, PollFlags::IN)], None).unwrap();
        }
    }

    #[test]
    fn child_of_broker_is_turned_away_and_others_are_not() {
        let dir = std::env::temp_dir().join(format!("moltbot-door.{}", std::process::id()));
        let state = StateDir::prepare(&dir).unwrap();
        let mut door = Door::open(&state, "").unwrap();
        let path = dir.join("run/operator.sock");
        let operator = knock(path.as_os_str());
        assert!(next(&mut door).is_some());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "operator::tests::child_knocks_where_it_is_told_to"])
            .env(PATH, &path)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let turned_away = next(&mut door).is_none();
        assert!(child.wait().unwrap().success());
        drop(operator);
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(turned_away);
    }
}
