//! The loop: one question at a time from gateway, egress and the operator, each answered when its record is durable.
//!
//! Both edges are hostile. A peer that breaks the protocol, does not read its answers, or asks for a honey secret loses its
//! edge and is reported. Leases end with the edge that they were given on.
//! Which questions there are is decided by the edge's type: gateway's has none whose answer holds a secret.

use crate::audit::{Auditor, Log as _};
use crate::auth::{self, AskError, Moment};
use crate::lease::Leases;
use crate::lend::{Desk, secret_record};
use crate::locked::Handover;
use crate::state::{GATEWAY_TOKEN, State, unix_now};
use crate::store::StoreError;
use confine::startup::{Control, Sealed, StartError};
use proto::auth::Standing;
use proto::bounded::{BoundedStr, BoundedVec};
use proto::channel::{Channel, ChannelError, Incoming, decode_incoming, refusal_frame, reply_frame};
use proto::control::{AdminReply, AdminRequest, FromRole, ToRole};
use proto::edge::{Edge, EgressVault, GatewayVault, Refusal};
use proto::exit::Exit;
use proto::ids::RequestId;
use proto::topology::{EdgeId, Side};
use proto::vault::{VaultAnswer, VaultReply, VaultRequest, VaultVerb};
use proto::wire::{Frame, WireError};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::os::fd::OwnedFd;

mod approving;
mod devices;
mod watched;
mod witnessed;

use approving::Approving;
use witnessed::Bar;

/// Questions of one edge in one round, so that no edge keeps broker waiting.
const TURN: usize = 16;

/// Serves until broker says stop, or is gone.
///
/// # Errors
/// [`StartError`], internal: the store's state on disk is not known, or the machine fails.
pub fn serve(walls: &Sealed, control: &Control, state: State, answers: Vec<String>) -> Result<Exit, StartError> {
    serve_on(walls, control, state, Handover { answers, ..Handover::default() })
}

/// As [`serve`], from what a vault was given that had to wait for its passphrase.
///
/// # Errors
/// As [`serve`].
pub fn serve_on(_walls: &Sealed, control: &Control, mut state: State, given: Handover) -> Result<Exit, StartError> {
    state.set_answers(given.answers);
    let mut vault = Vault {
        state,
        leases: Leases::default(),
        auditor: given.auditor,
        ready: given.ready,
        logs: given.ready,
        bar: Some(Bar::Unproven),
        bar_told: false,
        frozen: given.frozen,
        gateway: given.gateway,
        egress: given.egress,
        watcher: None,
        sandboxd: given.sandboxd,
        approving: Approving::default(),
        costly: false,
    };
    if let Some(witness) = given.witness {
        vault.meet_witness(witness, control)?;
    }
    loop {
        let [gateway, egress, sandboxd, witness] =
            vault.wait(control).map_err(|errno| StartError::internal(format!("poll: {errno}")))?;
        loop {
            match control.recv() {
                Ok((message, fds)) => {
                    if let Some(exit) = vault.on_control(message, fds, control)? {
                        return Ok(exit);
                    }
                }
                Err(ChannelError::WouldBlock) => break,
                Err(ChannelError::Closed) => return Ok(Exit::BrokerGone),
                Err(error) => return Err(gone(&error)),
            }
        }
        if gateway {
            vault.turn_gateway(control)?;
        }
        if egress {
            vault.turn_egress(control)?;
        }
        if sandboxd {
            vault.turn_sandboxd(control)?;
        }
        if witness || vault.state.witness().has_view() {
            vault.turn_witness(None, control)?;
        }
    }
}

pub(crate) fn gone(error: &ChannelError) -> StartError {
    StartError::internal(format!("control channel: {error}"))
}

struct Vault {
    state: State,
    leases: Leases,
    auditor: Auditor,
    ready: bool,
    /// True once there was a log to write to.
    logs: bool,
    /// Why nothing is answered, while that is so.
    bar: Option<Bar>,
    /// True once the log has it.
    bar_told: bool,
    /// Why nobody is let in and nothing is leased, while that is so.
    frozen: Option<String>,
    gateway: Option<Channel>,
    egress: Option<Channel>,
    /// A question of gateway that is answered when something else lets clients in than what it knows of.
    watcher: Option<(RequestId, Standing)>,
    sandboxd: Option<Channel>,
    /// Who may run what, while this process lives.
    approving: Approving,
    /// True where the last question took long: everybody else comes before the next.
    costly: bool,
}

impl Vault {
    /// Waits for a word of broker, a question or an answer; says who of gateway, egress, sandboxd and auditd has one.
    fn wait(&mut self, control: &Control) -> Result<[bool; 4], Errno> {
        let mut fds = vec![PollFd::new(control, PollFlags::IN)];
        let edges = self.gateway.iter().chain(&self.egress).chain(&self.sandboxd);
        fds.extend(edges.map(|channel| PollFd::new(channel, PollFlags::IN)));
        let witness = self.state.witness().fd();
        fds.extend(witness.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        let mut spoke = fds.iter().skip(1).map(|fd| !fd.revents().is_empty());
        let gateway = self.gateway.is_some() && spoke.next().unwrap_or(false);
        let egress = self.egress.is_some() && spoke.next().unwrap_or(false);
        let sandboxd = self.sandboxd.is_some() && spoke.next().unwrap_or(false);
        Ok([gateway, egress, sandboxd, spoke.next().unwrap_or(false)])
    }

    fn on_control(
        &mut self,
        message: ToRole,
        fds: Vec<OwnedFd>,
        control: &Control,
    ) -> Result<Option<Exit>, StartError> {
        let answer = match message {
            ToRole::Grant { edge, side, peer: _ } => return self.on_grant(edge, side, fds, control).map(|()| None),
            ToRole::Ping(number) => FromRole::Pong(number),
            ToRole::Admin(number, request) => {
                let reply = match self.on_admin(request) {
                    Ok(reply) => Ok(reply),
                    Err(error) => Err(self.refusal(error, control)?),
                };
                // Before the operator hears of it: what was taken back is gone then.
                self.tell_watcher(control)?;
                FromRole::Admin(number, reply)
            }
            ToRole::Freeze { why } => {
                self.frozen = Some(why.to_string());
                // Not recorded here: broker writes what comes of it, and it must not wait for the log.
                let (ended, names) = self.leases.end_all(now_ms());
                let revoked = self.approving.end_all();
                let detail = format!("{revoked} approvals revoked, {ended} leases ended: {}", names.join(" "));
                FromRole::Frozen {
                    sessions: BoundedVec::default(),
                    detail: BoundedStr::truncated(detail.trim_end_matches(": ")),
                }
            }
            ToRole::Thaw => {
                self.frozen = None;
                return Ok(None);
            }
            ToRole::Drain => FromRole::Drained,
            // Everything that was answered is on disk already, but for the lines of transcripts since the last write.
            ToRole::Stop => {
                match self.state.settle() {
                    Ok(()) | Err(StoreError::Unrecorded(_) | StoreError::Unwritable(_)) => {}
                    Err(error) => return Err(StartError::internal(format!("vault/{error}"))),
                }
                return Ok(Some(Exit::Ok));
            }
            ToRole::Configure { .. } | ToRole::Attested | ToRole::Quarantine(_) => {
                return Err(StartError::internal("a word of broker that is out of order"));
            }
        };
        control.send(&answer).map_err(|error| gone(&error))?;
        Ok(None)
    }

    fn on_grant(&mut self, edge: EdgeId, side: Side, fds: Vec<OwnedFd>, control: &Control) -> Result<(), StartError> {
        let wrong = || StartError::internal("broker granted an edge that is not the vault's");
        let [fd] = <[OwnedFd; 1]>::try_from(fds).map_err(|_| wrong())?;
        let channel = Channel::from_fd(fd);
        match (edge, side) {
            (EdgeId::GatewayVault, Side::Server) => {
                self.watcher = None;
                self.gateway = Some(channel);
            }
            (EdgeId::EgressVault, Side::Server) => {
                self.leases.end_all(now_ms());
                self.egress = Some(channel);
            }
            (EdgeId::SandboxdVault, Side::Server) => {
                // Whoever asked before waits no more.
                self.approving.table.withdraw_all();
                self.sandboxd = Some(channel);
            }
            (EdgeId::VaultAuditd, Side::Client) => {
                self.auditor.attach(channel);
                self.logs = true;
                self.record_making();
                self.tell_of_bar();
                self.become_ready(control)?;
            }
            (EdgeId::VaultWitness, Side::Client) => self.meet_witness(channel, control)?,
            _ => return Err(wrong()),
        }
        Ok(())
    }

    /// The token was made, or the master key renewed, before there was a log; its record comes first of all. Where that
    /// fails, the next log gets it.
    fn record_making(&mut self) {
        if self.state.newly_made {
            let record = secret_record(GATEWAY_TOKEN, "create", "vault", true, "");
            self.state.newly_made = self.auditor.append(record).is_err();
        }
        if self.state.renewed {
            let record = secret_record("", "vault.renewed", "vault", true, "a new master key is in force");
            self.state.renewed = self.auditor.append(record).is_err();
        }
    }

    /// What an error means for whoever asked; what it means for the process is carried out here.
    fn refusal(&self, error: AskError, control: &Control) -> Result<Refusal, StartError> {
        match error {
            AskError::Refused(refusal) => Ok(refusal),
            AskError::AuditdViolated(violation) => {
                let report = violated(EdgeId::VaultAuditd, &violation);
                control.send(&report).map_err(|error| gone(&error))?;
                Ok(Refusal::new(
                    "audit.unwritable",
                    "auditd broke the protocol; nothing is done that cannot be recorded",
                ))
            }
            // Only roles ask for uses; broker's operator is told what it is.
            AskError::Honey(name) => Ok(Refusal::new("vault.honey", &format!("{name} is shown to nobody"))),
            AskError::Store(error) => Err(StartError::internal(format!("vault/{error}"))),
        }
    }

    fn desk(&mut self) -> Desk<'_, Auditor> {
        Desk { state: &mut self.state, leases: &mut self.leases, log: &mut self.auditor, now_ms: now_ms() }
    }

    fn on_admin(&mut self, request: AdminRequest) -> Result<AdminReply, AskError> {
        match (&self.bar, &request) {
            (bar, AdminRequest::Standing) => {
                let why = bar.as_ref().map(Bar::text).unwrap_or_default();
                return Ok(AdminReply::Standing(BoundedStr::truncated(&why)));
            }
            (Some(Bar::PutBack(what)), AdminRequest::Vault { uid, verb })
                if matches!(**verb, VaultVerb::AcceptRollback) =>
            {
                let (uid, what) = (*uid, what.to_string());
                return self.accept_rollback(uid, &what).map(AdminReply::Vault);
            }
            (Some(bar), _) => return Err(bar.refusal().into()),
            (None, _) => {}
        }
        match request {
            AdminRequest::RevealGatewayToken { uid } => {
                let record = secret_record(GATEWAY_TOKEN, "reveal", &format!("operator:{uid}"), true, "");
                auth::recorded(&mut self.auditor, record, "revealing the token")?;
                self.state
                    .gateway_token()
                    .map(AdminReply::GatewayToken)
                    .ok_or_else(|| Refusal::new("vault.no_such_secret", "there is no gateway token").into())
            }
            AdminRequest::Vault { uid, verb } => match *verb {
                VaultVerb::Approval(verb) => self.on_approval_verb(uid, &verb).map(VaultAnswer::Approvals),
                verb => self.desk().on_verb(uid, verb),
            }
            .map(AdminReply::Vault),
            _ => Err(Refusal::new("vault.not_mine", "the vault answers for secrets only").into()),
        }
    }

    fn on_gateway(&mut self, id: RequestId, request: VaultRequest) -> Result<Answers<VaultReply>, AskError> {
        let reply = match request {
            VaultRequest::VerifyClient(login) => {
                self.costly = login.password.is_some();
                let at = Moment { now: unix_now(), now_ms: now_ms() };
                auth::verify_client(&mut self.state, &mut self.auditor, &login, at)
            }
            VaultRequest::Challenge(connection) => {
                let nonce = self.state.waiting().challenge(connection, now_ms());
                let nonce = nonce.map_err(|errno| Refusal::new("auth.random", &format!("no nonce: {errno}")))?;
                Ok(VaultReply::Challenge(nonce))
            }
            VaultRequest::Watch(seen) => return Ok(self.watch(id, seen)),
            VaultRequest::VerifyMac { credential, message, mac } => self.desk().verify(&credential, &message, &mac),
            VaultRequest::Transcript(request) => self.desk().on_transcript(&request, unix_now()),
            VaultRequest::Taint { session, why } => {
                self.desk().taint(&session, proto::ids::Role::Gateway, &why).map(|()| VaultReply::Accepted)
            }
            VaultRequest::Approval(word) => self.on_device_word(&word),
            VaultRequest::Carry { from, to } => self.desk().carry(&from, &to).map(|()| VaultReply::Accepted),
            VaultRequest::MaySpeak { channel, sender, name } => {
                self.desk().may_speak(&channel, &sender, &name, unix_now())
            }
        };
        Ok(vec![(id, reply?)])
    }

    fn turn_gateway(&mut self, control: &Control) -> Result<(), StartError> {
        let Some(channel) = self.gateway.take() else { return Ok(()) };
        self.gateway = self.turn::<GatewayVault>(EdgeId::GatewayVault, channel, control, Self::on_gateway)?;
        Ok(())
    }

    fn turn_egress(&mut self, control: &Control) -> Result<(), StartError> {
        let Some(channel) = self.egress.take() else { return Ok(()) };
        let on_lease = |vault: &mut Self, id, request| Ok(vec![(id, vault.desk().on_lease(request)?)]);
        self.egress = self.turn::<EgressVault>(EdgeId::EgressVault, channel, control, on_lease)?;
        if self.egress.is_none() {
            self.leases.end_all(now_ms());
        }
        Ok(())
    }

    /// Answers what an edge asks, up to [`TURN`]; gives the channel back unless it is over.
    fn turn<E: Edge>(
        &mut self,
        edge: EdgeId,
        mut channel: Channel,
        control: &Control,
        handle: impl Fn(&mut Self, RequestId, E::Request) -> Result<Answers<E::Reply>, AskError>,
    ) -> Result<Option<Channel>, StartError> {
        for _ in 0..TURN {
            let asked = match next::<E>(&channel) {
                Ok(Some(asked)) => asked,
                Ok(None) => continue,
                Err(ChannelError::WouldBlock) => break,
                Err(error) => return end(edge, &error, control),
            };
            let (id, request) = asked;
            let outcome = match (&self.frozen, &self.bar) {
                (Some(why), _) => Err(Refusal::lockdown(why).into()),
                (None, Some(bar)) => Err(bar.refusal_to_roles().into()),
                (None, None) => handle(self, id, request),
            };
            let frames = match outcome {
                Ok(replies) => replies.iter().map(|(id, reply)| reply_frame::<E>(*id, reply)).collect(),
                Err(AskError::Honey(name)) => {
                    let detail = BoundedStr::truncated(&format!("it asked for the honey secret {name}"));
                    control.send(&FromRole::Violated { edge, detail }).map_err(|error| gone(&error))?;
                    return Ok(None);
                }
                Err(error) => vec![refusal_frame::<E>(id, &self.refusal(error, control)?)],
            };
            for frame in frames {
                match deliver(edge, channel, frame, control)? {
                    Some(same) => channel = same,
                    None => return Ok(None),
                }
            }
            if std::mem::take(&mut self.costly) {
                break;
            }
        }
        Ok(Some(channel))
    }
}

/// What is answered now, of the question that was just asked or of one before it.
type Answers<R> = Vec<(RequestId, R)>;

/// Sends an answer; gives the channel back unless it is over.
pub(crate) fn deliver(
    edge: EdgeId,
    channel: Channel,
    frame: Result<Frame, WireError>,
    control: &Control,
) -> Result<Option<Channel>, StartError> {
    match frame.map_err(ChannelError::from).and_then(|frame| channel.send(&frame, &[])) {
        Ok(()) => Ok(Some(channel)),
        Err(ChannelError::WouldBlock) => {
            end(edge, &ChannelError::Violation("a peer that does not read its answers"), control)
        }
        Err(error) => end(edge, &error, control),
    }
}

/// Next question on a channel; nothing where the frame asks nothing.
pub(crate) fn next<E: Edge>(channel: &Channel) -> Result<Option<(proto::ids::RequestId, E::Request)>, ChannelError> {
    match decode_incoming::<E>(channel.recv(E::MAX_REQUEST, E::REQUEST_FDS)?)? {
        Incoming::Request { id, request, deadline: _, fds: _ } => Ok(Some((id, request))),
        // Questions are answered one after the other: by now it was, or it is next and its answer does no harm.
        Incoming::Cancel { .. } => Ok(None),
        Incoming::Credit { .. } => Err(ChannelError::Violation("credit on an edge without streams")),
    }
}

/// Gives an edge up; reports its peer where the peer is at fault.
pub(crate) fn end(edge: EdgeId, error: &ChannelError, control: &Control) -> Result<Option<Channel>, StartError> {
    if error.is_violation() {
        control.send(&violated(edge, error)).map_err(|error| gone(&error))?;
    }
    Ok(None)
}

pub(crate) fn violated(edge: EdgeId, error: &ChannelError) -> FromRole {
    let cause = std::error::Error::source(error);
    let detail = cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
    FromRole::Violated { edge, detail: BoundedStr::truncated(&detail) }
}

/// Milliseconds since the machine started, those asleep included: a lease must not live through a night.
fn now_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    seconds.saturating_mul(1_000).saturating_add(u64::try_from(now.tv_nsec / 1_000_000).unwrap_or_default())
}
