//! The operator's socket, from the outside.

use crate::CliError;
use proto::channel::{CallError, Channel, Client};
use proto::edge::{OperatorBroker, Refusal};
use proto::operator::{OperatorReply, OperatorRequest, Status};
use proto::topology::role;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

/// Longest that broker takes, its own deadlines included.
const WAIT: Duration = Duration::from_secs(8);

/// A connection to broker.
pub struct Door {
    client: Client<OperatorBroker>,
    dir: String,
}

/// Broker answered a question with another question's answer.
#[must_use]
pub fn unexpected() -> CliError {
    CliError::failed("broker gave an answer that does not fit; is this moltbot of the same build?")
}

impl Door {
    /// Connects.
    ///
    /// # Errors
    /// [`CliError::NotRunning`] where nobody listens.
    pub fn open(dir: &Path) -> Result<Self, CliError> {
        let path = dir.join("run/operator.sock");
        let not_running = || CliError::NotRunning(dir.display().to_string());
        let failed = |errno: Errno| match errno {
            Errno::NOENT | Errno::CONNREFUSED => not_running(),
            // The kernel turns away whom broker would; of a set whose directory is closed nothing more can be told.
            Errno::ACCESS => CliError::Refused(Box::new(Refusal::new(
                "operator.stranger",
                &format!(
                    "{}: it is for root, whoever started this Moltbot, and members of its `operator.group`",
                    path.display()
                ),
            ))),
            other => CliError::Failed(format!("{}: {other}", path.display())),
        };
        let address = SocketAddrUnix::new(&path).map_err(failed)?;
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map_err(failed)?;
        connect(&socket, &address).map_err(failed)?;
        rustix::io::ioctl_fionbio(&socket, true).map_err(failed)?;
        let mut client = Client::new(role::Operator);
        client.attach(Channel::from_fd(socket));
        Ok(Self { client, dir: dir.display().to_string() })
    }

    /// Asks broker.
    ///
    /// # Errors
    /// [`CliError`] with the refusal's rule and text.
    pub fn ask(&mut self, request: &OperatorRequest) -> Result<(OperatorReply, Option<OwnedFd>), CliError> {
        match self.client.call(request, &[], WAIT) {
            Ok((reply, fds)) => Ok((reply, fds.into_iter().next())),
            Err(CallError::Gone) => Err(CliError::NotRunning(self.dir.clone())),
            Err(CallError::Refused(refusal)) => Err(CliError::Refused(Box::new(refusal))),
            Err(error) => Err(CliError::failed(error)),
        }
    }

    /// The state of the set.
    ///
    /// # Errors
    /// As [`Door::ask`].
    pub fn status(&mut self) -> Result<Status, CliError> {
        match self.ask(&OperatorRequest::Status)? {
            (OperatorReply::Status(status), _) => Ok(*status),
            _ => Err(unexpected()),
        }
    }
}
