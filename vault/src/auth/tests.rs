use super::*;
use crate::auth::password::Password;
use crate::lease::Leases;
use crate::lend::Desk;
use crate::state::tests::Dirs;
use ed25519_dalek::SigningKey;
use proto::auth::{Admission, ConnectionId, DeviceId, DeviceProof, LoginAnswer, LoginVerb, Pass, Scopes, Who};
use proto::bounded::{BoundedStr, BoundedVec};
use proto::secret::Secret;
use proto::vault::{VaultAnswer, VaultVerb};
use signature::{device_of, tests::sign};

const ADDRESS: &str = "192.0.2.1";
const NOW: u64 = 1_795_431_600;

/// A log that keeps what it is told, and can be made to fail.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) records: Vec<Record>,
    pub(crate) broken: bool,
}

impl Log for Kept {
    fn append(&mut self, record: Record) -> Result<(), AuditError> {
        if self.broken {
            return Err(AuditError::Refused(Refusal::new("audit.unwritable", "write: No space left on device")));
        }
        self.records.push(record);
        Ok(())
    }
}

fn offered(state: &State, good: bool) -> Secret {
    let bytes = if good { state.gateway_token().unwrap().expose().to_vec() } else { b"wrong".to_vec() };
    Secret::new(bytes).unwrap()
}

fn login(state: &mut State, log: &mut Kept, good: bool, now: u64) -> Result<VaultReply, AskError> {
    let login = Login::with_token(BoundedStr::truncated("192.0.2.1"), Some(offered(state, good)));
    verify_client(state, log, &login, at(now))
}

const fn at(now: u64) -> Moment {
    Moment { now, now_ms: 1 }
}

fn by_token(state: &State) -> VaultReply {
    admission(Scopes::ALL, &[Pass::Token(state.token_version())])
}

fn admission(scopes: Scopes, by: &[Pass]) -> VaultReply {
    VaultReply::Admitted(Admission { scopes, by: BoundedVec::new(by.to_vec()).unwrap() })
}

fn rejected(reason: AuthReason, retry_after_s: u32) -> VaultReply {
    VaultReply::Rejected { reason, retry_after_s }
}

#[test]
fn right_token_is_accepted_recorded_and_writes_no_store() {
    let mut state = Dirs::new().open().unwrap();
    let (mut log, generation) = (Kept::default(), state.generation());
    assert_eq!(login(&mut state, &mut log, true, NOW).unwrap(), by_token(&state));
    assert_eq!(state.generation(), generation);
    assert!(matches!(log.records[..], [Record::Auth { outcome: AuthOutcome::Accepted, .. }]));
}

#[test]
fn five_failures_lock_for_300_seconds_over_a_restart() {
    let dirs = Dirs::new();
    let mut log = Kept::default();
    for at in 0..5 {
        // Every attempt meets a vault that was just started.
        let reply = login(&mut dirs.open().unwrap(), &mut log, false, NOW).unwrap();
        assert_eq!(reply, rejected(AuthReason::TokenMismatch, if at == 4 { 300 } else { 0 }));
    }
    let mut state = dirs.open().unwrap();
    assert_eq!(login(&mut state, &mut log, true, NOW + 299).unwrap(), rejected(AuthReason::RateLimited, 1));
    assert_eq!(login(&mut state, &mut log, true, NOW + 300).unwrap(), by_token(&state));
    assert_eq!(log.records.len(), 7);
    assert_eq!(
        login(&mut dirs.open().unwrap(), &mut log, false, NOW + 300).unwrap(),
        rejected(AuthReason::TokenMismatch, 0)
    );
}

#[test]
fn missing_token_is_recorded_and_counts_as_no_failure() {
    let mut state = Dirs::new().open().unwrap();
    let mut log = Kept::default();
    for _ in 0..9 {
        let nothing = Login::with_token(BoundedStr::truncated("192.0.2.1"), None);
        let reply = verify_client(&mut state, &mut log, &nothing, at(NOW)).unwrap();
        assert_eq!(reply, rejected(AuthReason::TokenMissing, 0));
    }
    assert_eq!(log.records.len(), 9);
    assert_eq!(login(&mut state, &mut log, true, NOW).unwrap(), by_token(&state));
}

fn by_password(state: &mut State, log: &mut Kept, typed: &str, now: u64) -> VaultReply {
    let password = Secret::new(typed.as_bytes().to_vec()).ok();
    let nothing = Login::with_token(BoundedStr::truncated("192.0.2.1"), None);
    verify_client(state, log, &Login { password, ..nothing }, at(now)).unwrap()
}

fn let_in_by_password(state: &State) -> VaultReply {
    admission(Scopes::ALL, &[Pass::Password(state.password().unwrap().since)])
}

fn set_password(state: &mut State, typed: &str) {
    let kept = Password::keep(&Secret::new(typed.as_bytes().to_vec()).unwrap(), state.generation() + 1).unwrap();
    state.set_password(Some(kept)).unwrap();
}

#[test]
fn password_lets_in_over_a_restart_until_it_is_cleared() {
    let dirs = Dirs::new();
    let mut log = Kept::default();
    let mut state = dirs.open().unwrap();
    assert_eq!(by_password(&mut state, &mut log, "correct horse", NOW), rejected(AuthReason::PasswordUnset, 0));
    set_password(&mut state, "correct horse");
    drop(state);
    let mut state = dirs.open().unwrap();
    assert_eq!(by_password(&mut state, &mut log, "correct horse", NOW), let_in_by_password(&state));
    let accepted = AuthOutcome::Accepted;
    assert!(
        matches!(log.records.last(), Some(Record::Auth { method: AuthMethod::Password, outcome, .. }) if *outcome == accepted)
    );
    assert_eq!(by_password(&mut state, &mut log, "correct horsf", NOW), rejected(AuthReason::PasswordMismatch, 0));
    state.set_password(None).unwrap();
    drop(state);
    let mut state = dirs.open().unwrap();
    assert_eq!(by_password(&mut state, &mut log, "correct horse", NOW), rejected(AuthReason::PasswordUnset, 0));
}

#[test]
fn guesses_of_token_and_password_are_counted_together() {
    let dirs = Dirs::new();
    let mut state = dirs.open().unwrap();
    let mut log = Kept::default();
    set_password(&mut state, "correct horse");
    for _ in 0..2 {
        assert_eq!(login(&mut state, &mut log, false, NOW).unwrap(), rejected(AuthReason::TokenMismatch, 0));
        assert_eq!(by_password(&mut state, &mut log, "wrong", NOW), rejected(AuthReason::PasswordMismatch, 0));
    }
    assert_eq!(by_password(&mut state, &mut log, "wrong", NOW), rejected(AuthReason::PasswordMismatch, 300));
    assert_eq!(by_password(&mut state, &mut log, "correct horse", NOW), rejected(AuthReason::RateLimited, 300));
    assert_eq!(login(&mut state, &mut log, true, NOW).unwrap(), rejected(AuthReason::RateLimited, 300));
    assert_eq!(by_password(&mut state, &mut log, "correct horse", NOW + 300), let_in_by_password(&state));
}

#[test]
fn login_that_cannot_be_recorded_is_refused_and_its_failure_counts() {
    let mut state = Dirs::new().open().unwrap();
    let mut log = Kept { broken: true, ..Kept::default() };
    let refused = |outcome: Result<VaultReply, AskError>| match outcome {
        Err(AskError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    };
    let refusal = refused(login(&mut state, &mut log, true, NOW));
    assert_eq!(refusal.rule.as_str(), "audit.unwritable");
    assert!(refusal.message.contains("No space left on device"));
    for _ in 0..5 {
        refused(login(&mut state, &mut log, false, NOW));
    }
    log.broken = false;
    assert_eq!(login(&mut state, &mut log, true, NOW).unwrap(), rejected(AuthReason::RateLimited, 300));
}

#[test]
fn address_that_is_none_is_refused() {
    let mut state = Dirs::new().open().unwrap();
    let nowhere = Login::with_token(BoundedStr::truncated("unknown"), None);
    let outcome = verify_client(&mut state, &mut Kept::default(), &nowhere, at(NOW));
    assert!(matches!(outcome, Err(AskError::Refused(refusal)) if refusal.rule.as_str() == "auth.address"));
}

const READ: Scopes = Scopes { admin: false, read: true, write: false, approvals: false, pairing: false };

/// A vault, its log, and a device that signs what it is asked to.
struct World {
    _dirs: Dirs,
    state: State,
    log: Kept,
    key: SigningKey,
    connections: u8,
}

impl World {
    fn new() -> Self {
        let dirs = Dirs::new();
        let state = dirs.open().unwrap();
        Self { _dirs: dirs, state, log: Kept::default(), key: SigningKey::from_bytes(&[9; 32]), connections: 0 }
    }

    fn id(&self) -> DeviceId {
        device_of(&self.key.verifying_key().to_bytes())
    }

    /// A login with a nonce of its own.
    fn device(&mut self, scopes: &str, token: Option<&Secret>) -> Login {
        self.connections += 1;
        let connection = ConnectionId([self.connections; 16]);
        let nonce = self.state.waiting().challenge(connection, 1).unwrap();
        let mut proof = DeviceProof {
            connection,
            public_key: [0; 32],
            signature: [[0; 32]; 2],
            signed_at_ms: NOW * 1000,
            client: BoundedStr::truncated("cli"),
            mode: BoundedStr::truncated("cli"),
            scopes: BoundedStr::truncated(scopes),
            platform: BoundedStr::truncated("Linux"),
            family: BoundedStr::default(),
            name: BoundedStr::truncated("kitchen"),
        };
        sign(&mut proof, &self.key, token, &nonce.to_string());
        let token = token.map(|token| Secret::new(token.expose().to_vec()).unwrap());
        let who = Who::Device(Box::new(proof));
        Login { who, ..Login::with_token(BoundedStr::truncated(ADDRESS), token) }
    }

    fn verify(&mut self, login: &Login) -> VaultReply {
        verify_client(&mut self.state, &mut self.log, login, at(NOW)).unwrap()
    }

    fn log_in(&mut self, scopes: &str, token: Option<&Secret>) -> VaultReply {
        let login = self.device(scopes, token);
        self.verify(&login)
    }

    fn operator(&mut self, verb: LoginVerb) -> Result<VaultAnswer, AskError> {
        let mut leases = Leases::default();
        let mut desk = Desk { state: &mut self.state, leases: &mut leases, log: &mut self.log, now_ms: 1 };
        desk.on_verb(1000, VaultVerb::Login(verb))
    }

    /// The operator's clock is the real one, and tests have theirs: a device that waits is approved by hand.
    fn pair(&mut self, scopes: Scopes) -> Pass {
        assert_eq!(self.log_in("operator.read", None), rejected(AuthReason::DeviceUnpaired, 0));
        let id = self.id();
        let (row, key) = self.state.waiting().request(id).unwrap();
        let mut device = devices::Device::new(key, &row.clone(), NOW);
        let add = |all: &mut devices::Devices, since| {
            (device.scopes, device.since) = (scopes, since);
            all.add(id, device).then_some(since)
        };
        let since = self.state.change_devices(add).unwrap().unwrap();
        self.state.waiting().forget(id);
        Pass::Device(since)
    }

    fn token(&mut self) -> Secret {
        let id = self.id();
        match self.operator(LoginVerb::RotateToken { id }).unwrap() {
            VaultAnswer::Login(LoginAnswer::Token(token)) => token,
            _ => panic!("another answer"),
        }
    }

    fn passes(&self) -> Pass {
        Pass::Device(self.state.devices().get(self.id()).unwrap().since)
    }
}

#[test]
fn paired_device_gets_what_it_asks_for_of_what_it_was_paired_for() {
    let mut world = World::new();
    let pass = world.pair(READ);
    assert_eq!(world.log_in("operator.read", None), admission(READ, &[pass]));
    assert_eq!(world.log_in("", None), admission(READ, &[pass]));
    assert_eq!(world.log_in("operator.read,operator.admin", None), rejected(AuthReason::DeviceScopes, 0));
    let method = AuthMethod::Device(world.id());
    let last = world.log.records.last().unwrap();
    assert!(matches!(last, Record::Auth { method: of, .. } if *of == method));
    assert!(world.state.standing().holds(pass));
}

#[test]
fn login_of_a_device_is_good_once_and_of_its_connection_alone() {
    let mut world = World::new();
    let pass = world.pair(READ);
    let login = world.device("operator.read", None);
    assert_eq!(world.verify(&login), admission(READ, &[pass]));
    assert_eq!(world.verify(&login), rejected(AuthReason::DeviceNonce, 0));
    let (mut one, two) = (world.device("operator.read", None), world.device("operator.read", None));
    if let (Who::Device(one), Who::Device(two)) = (&mut one.who, &two.who) {
        one.connection = two.connection;
    }
    assert_eq!(world.verify(&one), rejected(AuthReason::DeviceSignature, 0), "a nonce of another connection");
}

#[test]
fn gateway_token_beside_a_device_gives_all_and_a_revoked_device_nothing() {
    let mut world = World::new();
    let token = world.state.gateway_token().unwrap();
    let version = Pass::Token(world.state.token_version());
    assert_eq!(world.log_in("operator.admin", Some(&token)), admission(Scopes::of(["operator.admin"]), &[version]));
    let id = world.id();
    assert!(world.state.waiting().request(id).is_none(), "who is let in need not wait");
    let pass = world.pair(READ);
    assert_eq!(world.log_in("", Some(&token)), admission(Scopes::ALL, &[version, pass]));
    world.operator(LoginVerb::RevokeDevice { id }).unwrap();
    for token in [None, Some(&token)] {
        assert_eq!(world.log_in("", token), rejected(AuthReason::DeviceRevoked, 0));
    }
    assert!(!world.state.standing().holds(pass));
    world.operator(LoginVerb::ApproveDevice { id, scopes: READ }).unwrap();
    assert_eq!(world.log_in("", None), admission(READ, &[world.passes()]));
}

#[test]
fn device_that_was_paired_elsewhere_is_let_in_by_its_key_unless_it_was_revoked_here() {
    let mut world = World::new();
    let public_key = world.key.verifying_key().to_bytes();
    let id = world.id();
    let admit = |scopes| LoginVerb::AdmitDevice { public_key, name: BoundedStr::truncated("phone"), scopes };
    assert_eq!(world.log_in("", None), rejected(AuthReason::DeviceUnpaired, 0));
    world.operator(admit(READ)).unwrap();
    assert_eq!(world.log_in("", None), admission(READ, &[world.passes()]));
    world.operator(LoginVerb::RevokeDevice { id }).unwrap();
    for scopes in [READ, Scopes::default()] {
        assert!(matches!(world.operator(admit(scopes)), Err(AskError::Refused(_))), "{scopes:?}");
    }
    assert_eq!(world.log_in("", None), rejected(AuthReason::DeviceRevoked, 0));
}

#[test]
fn stale_token_of_a_known_device_is_no_guess_and_any_other_is_one() {
    let mut world = World::new();
    let before = world.pair(READ);
    let (first, second) = (world.token(), world.token());
    assert_eq!(world.log_in("", None), rejected(AuthReason::DeviceTokenMissing, 0));
    for _ in 0..9 {
        assert_eq!(world.log_in("", Some(&first)), rejected(AuthReason::DeviceTokenStale, 0));
    }
    assert_eq!(world.log_in("", Some(&second)), admission(READ, &[world.passes()]));
    assert!(!world.state.standing().holds(before));
    let guess = Secret::new(b"guess".to_vec()).unwrap();
    for at in 1..=5 {
        // What a device gets in by does not wipe out what it guessed.
        let seconds = if at == 5 { 300 } else { 0 };
        assert_eq!(world.log_in("", Some(&guess)), rejected(AuthReason::TokenMismatch, seconds));
        if at < 5 {
            assert_eq!(world.log_in("", Some(&second)), admission(READ, &[world.passes()]));
        }
    }
    assert_eq!(world.log_in("", Some(&second)), rejected(AuthReason::RateLimited, 300));
}

#[test]
fn operators_verbs_need_a_device_in_the_state_that_they_are_about() {
    let mut world = World::new();
    let id = world.id();
    let refused = |outcome: Result<VaultAnswer, AskError>| match outcome {
        Err(AskError::Refused(refusal)) => refusal.rule.to_string(),
        _ => panic!("not refused"),
    };
    let about: [fn(DeviceId) -> LoginVerb; 5] = [
        |id| LoginVerb::ApproveDevice { id, scopes: READ },
        |id| LoginVerb::DenyDevice { id },
        |id| LoginVerb::RevokeDevice { id },
        |id| LoginVerb::RotateToken { id },
        |id| LoginVerb::RevokeToken { id },
    ];
    for verb in about {
        assert_eq!(refused(world.operator(verb(id))), "auth.no_such_device");
    }
    world.pair(READ);
    assert_eq!(refused(world.operator(LoginVerb::RevokeToken { id })), "auth.no_such_device", "it has none");
    let none = Scopes::default();
    assert_eq!(refused(world.operator(LoginVerb::ApproveDevice { id, scopes: none })), "auth.no_scopes");
    let count =
        world.log.records.iter().filter(|record| matches!(record, Record::Secret { granted: false, .. })).count();
    assert_eq!(count, 7, "every refusal is recorded");
    world.log.broken = true;
    let generation = world.state.generation();
    assert_eq!(refused(world.operator(LoginVerb::RevokeDevice { id })), "audit.unwritable");
    assert_eq!(world.state.generation(), generation);
}
