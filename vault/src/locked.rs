//! The vault before its passphrase: it serves its edges, refuses whatever is asked on them, and takes one verb, which is
//! recorded before the passphrase is tried. What it is given meanwhile it hands on when the store opens.
//!
//! The edges are hostile as ever, and a peer that breaks the protocol loses its edge. Whoever reads this process's memory
//! now finds the key file's half of the key and no secret.

use crate::audit::Auditor;
use crate::auth::{AskError, recorded};
use crate::lend::secret_record;
use crate::senders::configured::Configured;
use crate::serve::{self, end, gone, next, violated};
use crate::state::State;
use crate::state::front::{Locked, UnlockError};
use confine::startup::{Control, Sealed, StartError};
use proto::bounded::{BoundedStr, BoundedVec};
use proto::channel::{Channel, ChannelError, refusal_frame};
use proto::control::{AdminReply, AdminRequest, FromRole, ToRole};
use proto::edge::{Edge, EgressVault, GatewayVault, Refusal, SandboxdVault};
use proto::exit::Exit;
use proto::secret::Secret;
use proto::topology::{EdgeId, Side};
use proto::vault::{VaultAnswer, VaultVerb};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::os::fd::OwnedFd;

const WHY: &str = "the vault is locked until it has its passphrase: `moltbot vault unlock`";

/// What a vault that did not serve yet was given.
#[derive(Default)]
pub struct Handover {
    pub(crate) auditor: Auditor,
    /// True once there was a log, and broker knows that this vault answers.
    pub(crate) ready: bool,
    pub(crate) frozen: Option<String>,
    /// Credentials that answers need.
    pub(crate) answers: Vec<String>,
    pub(crate) witness: Option<Channel>,
    pub(crate) gateway: Option<Channel>,
    pub(crate) egress: Option<Channel>,
    pub(crate) sandboxd: Option<Channel>,
}

/// Waits for the passphrase, and serves from then on.
///
/// # Errors
/// As [`serve::serve`].
pub fn serve(
    walls: &Sealed,
    control: &Control,
    locked: Locked,
    configured: Configured,
    answers: Vec<String>,
) -> Result<Exit, StartError> {
    let mut waiting = Waiting { locked: Some(locked), given: Handover { answers, ..Handover::default() } };
    loop {
        waiting.wait(control).map_err(|errno| StartError::internal(format!("poll: {errno}")))?;
        loop {
            match control.recv() {
                Ok((message, fds)) => match waiting.on_control(message, fds, control)? {
                    Next::Nothing => {}
                    Next::Stop => return Ok(Exit::Ok),
                    Next::Serve(state) => {
                        return serve::serve_on(walls, control, state.configure(configured), waiting.given);
                    }
                },
                Err(ChannelError::WouldBlock) => break,
                Err(ChannelError::Closed) => return Ok(Exit::BrokerGone),
                Err(error) => return Err(gone(&error)),
            }
        }
        let given = &mut waiting.given;
        given.gateway = refuse::<GatewayVault>(EdgeId::GatewayVault, given.gateway.take(), control)?;
        given.egress = refuse::<EgressVault>(EdgeId::EgressVault, given.egress.take(), control)?;
        given.sandboxd = refuse::<SandboxdVault>(EdgeId::SandboxdVault, given.sandboxd.take(), control)?;
    }
}

enum Next {
    Nothing,
    Stop,
    Serve(Box<State>),
}

struct Waiting {
    /// None only while a passphrase is tried.
    locked: Option<Locked>,
    given: Handover,
}

fn refusal() -> Refusal {
    Refusal::new("vault.locked", WHY)
}

impl Waiting {
    fn wait(&self, control: &Control) -> Result<(), Errno> {
        let mut fds = vec![PollFd::new(control, PollFlags::IN)];
        let edges = self.given.gateway.iter().chain(&self.given.egress).chain(&self.given.sandboxd);
        fds.extend(edges.map(|channel| PollFd::new(channel, PollFlags::IN)));
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    fn on_control(&mut self, message: ToRole, fds: Vec<OwnedFd>, control: &Control) -> Result<Next, StartError> {
        let answer = match message {
            ToRole::Grant { edge, side, peer: _ } => return self.on_grant(edge, side, fds, control),
            ToRole::Ping(number) => FromRole::Pong(number),
            ToRole::Admin(number, request) => return self.on_admin(number, request, control),
            ToRole::Freeze { why } => {
                self.given.frozen = Some(why.to_string());
                let detail = BoundedStr::truncated("the vault is locked");
                FromRole::Frozen { sessions: BoundedVec::default(), detail }
            }
            ToRole::Thaw => {
                self.given.frozen = None;
                return Ok(Next::Nothing);
            }
            ToRole::Drain => FromRole::Drained,
            ToRole::Stop => return Ok(Next::Stop),
            ToRole::Configure { .. } | ToRole::Attested | ToRole::Quarantine(_) => {
                return Err(StartError::internal("a word of broker that is out of order"));
            }
        };
        control.send(&answer).map_err(|error| gone(&error))?;
        Ok(Next::Nothing)
    }

    fn on_grant(&mut self, edge: EdgeId, side: Side, fds: Vec<OwnedFd>, control: &Control) -> Result<Next, StartError> {
        let wrong = || StartError::internal("broker granted an edge that is not the vault's");
        let [fd] = <[OwnedFd; 1]>::try_from(fds).map_err(|_| wrong())?;
        let channel = Channel::from_fd(fd);
        match (edge, side) {
            (EdgeId::GatewayVault, Side::Server) => self.given.gateway = Some(channel),
            (EdgeId::EgressVault, Side::Server) => self.given.egress = Some(channel),
            (EdgeId::SandboxdVault, Side::Server) => self.given.sandboxd = Some(channel),
            (EdgeId::VaultWitness, Side::Client) => self.given.witness = Some(channel),
            (EdgeId::VaultAuditd, Side::Client) => {
                self.given.auditor.attach(channel);
                if !self.given.ready {
                    self.given.ready = true;
                    control.send(&FromRole::Ready).map_err(|error| gone(&error))?;
                }
            }
            _ => return Err(wrong()),
        }
        Ok(Next::Nothing)
    }

    fn on_admin(&mut self, number: u32, request: AdminRequest, control: &Control) -> Result<Next, StartError> {
        let say = |answer| control.send(&FromRole::Admin(number, answer)).map_err(|error| gone(&error));
        let (uid, passphrase) = match request {
            AdminRequest::Standing => {
                say(Ok(AdminReply::Standing(BoundedStr::truncated(WHY))))?;
                return Ok(Next::Nothing);
            }
            AdminRequest::Vault { uid, verb } => match *verb {
                VaultVerb::Unlock { passphrase } => (uid, passphrase),
                _ => return say(Err(refusal())).map(|()| Next::Nothing),
            },
            _ => return say(Err(refusal())).map(|()| Next::Nothing),
        };
        match self.unlock(uid, &passphrase) {
            Ok(state) => {
                say(Ok(AdminReply::Vault(VaultAnswer::Done(state.generation()))))?;
                Ok(Next::Serve(Box::new(state)))
            }
            Err(AskError::AuditdViolated(violation)) => {
                control.send(&violated(EdgeId::VaultAuditd, &violation)).map_err(|error| gone(&error))?;
                say(Err(Refusal::new("audit.unwritable", "auditd broke the protocol; nothing is tried")))?;
                Ok(Next::Nothing)
            }
            Err(AskError::Refused(refusal)) => say(Err(refusal)).map(|()| Next::Nothing),
            Err(other) => Err(StartError::internal(other)),
        }
    }

    /// Tries a passphrase, recorded before and, where it is wrong, after.
    fn unlock(&mut self, uid: u32, passphrase: &Secret) -> Result<State, AskError> {
        let who = format!("operator:{uid}");
        let record = |granted, detail: &str| secret_record("", "vault.unlock", &who, granted, detail);
        let log = &mut self.given.auditor;
        recorded(log, record(true, "a passphrase is tried"), "the passphrase")?;
        let Some(locked) = self.locked.take() else { return Err(refusal().into()) };
        locked.unlock(passphrase).map_err(|(locked, error)| {
            self.locked = Some(*locked);
            let rule = match error {
                UnlockError::Wrong => "vault.wrong_passphrase",
                UnlockError::Memory => "vault.memory",
                UnlockError::Store(_) => "vault.altered",
            };
            match recorded(log, record(false, rule), "the failure") {
                Ok(()) => Refusal::new(rule, &error.to_string()).into(),
                Err(unrecorded) => unrecorded,
            }
        })
    }
}

/// Refuses whatever an edge asks; gives the channel back unless it is over.
fn refuse<E: Edge>(edge: EdgeId, channel: Option<Channel>, control: &Control) -> Result<Option<Channel>, StartError> {
    let Some(mut channel) = channel else { return Ok(None) };
    loop {
        let id = match next::<E>(&channel) {
            Ok(Some((id, _))) => id,
            Ok(None) => continue,
            Err(ChannelError::WouldBlock) => return Ok(Some(channel)),
            Err(error) => return end(edge, &error, control),
        };
        match serve::deliver(edge, channel, refusal_frame::<E>(id, &refusal()), control)? {
            Some(same) => channel = same,
            None => return Ok(None),
        }
    }
}
