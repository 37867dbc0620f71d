//! vault, auditd, dialer and egress behind their real walls, wired to each other; the test has gateway's end.

use crate::play_broker::Sealed;
use proto::bounded::{BoundedBytes, BoundedStr, BoundedVec};
use proto::channel::{Channel, Outgoing, decode_outgoing, frame};
use proto::control::{AdminRequest, FromRole, RoleConfig, ToRole};
use proto::edge::{Edge as _, EgressVault, GatewayEgress, Refusal};
use proto::egress::{EgressChunk, EgressReply, EgressRequest, HeaderField};
use proto::ids::{RequestId, Role, SessionKey};
use proto::secret::Secret;
use proto::topology::EdgeId;
use proto::vault::{Destination, LeaseRequest, VaultVerb};
use proto::wire::Kind;
use serde_json::Value;
use std::cell::Cell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Generous: machines are shared.
const PATIENCE: Duration = Duration::from_secs(60);
const CREDIT: u32 = 8 << 20;

/// What the operator configured.
#[derive(Default)]
pub struct Setup {
    /// `egress.allow`.
    pub allow: Vec<String>,
    /// Services of this machine with TLS.
    pub local: Vec<String>,
    /// Services of this machine without.
    pub plain: Vec<String>,
    /// Where names are asked for.
    pub resolver: Option<SocketAddr>,
    /// Who is believed beside the built-in authorities.
    pub ca: PathBuf,
    /// Where the roles' directories lie; a directory for such things where it is empty.
    pub dirs: PathBuf,
}

fn entries<const N: usize>(entries: &[String]) -> BoundedVec<BoundedStr<260>, N> {
    BoundedVec::new(entries.iter().map(|entry| BoundedStr::truncated(entry)).collect()).unwrap()
}

/// The four of them.
pub struct World {
    /// The one that is looked at.
    pub egress: Sealed,
    auditd: Sealed,
    vault: Sealed,
    _dialer: Sealed,
    gateway: Channel,
    next: Cell<u32>,
}

/// What came back.
#[derive(Debug)]
pub struct Came {
    /// HTTP status.
    pub status: u16,
    /// Those headers that gateway is shown.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
    /// How it ended.
    pub end: Result<EgressReply, Refusal>,
}

impl Came {
    /// The rule that refused.
    ///
    /// # Panics
    /// Where it was not refused.
    #[must_use]
    pub fn rule(&self) -> &str {
        self.end.as_ref().unwrap_err().rule.as_str()
    }

    /// Its body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A request with the credential `model`.
#[must_use]
pub fn post(host: &str, port: u16, body: &[u8]) -> EgressRequest {
    request(Some("model"), "POST", host, port, "/v1/messages?x=1", &[("accept", "*/*")], 60, body)
}

/// A request without a credential.
#[must_use]
pub fn get(host: &str, port: u16) -> EgressRequest {
    request(None, "GET", host, port, "/v1/models", &[], 60, b"")
}

/// Any request.
///
/// # Panics
/// Where it is larger than a request may be.
#[must_use]
#[allow(clippy::too_many_arguments, reason = "every part of a request, each once")]
pub fn request(
    credential: Option<&str>,
    method: &str,
    host: &str,
    port: u16,
    path: &str,
    headers: &[(&str, &str)],
    patience_s: u16,
    body: &[u8],
) -> EgressRequest {
    let field = |(name, value): &(&str, &str)| HeaderField {
        name: BoundedStr::truncated(name),
        value: BoundedStr::truncated(value),
    };
    EgressRequest::Http {
        session: SessionKey(BoundedStr::truncated("agent:main:test")),
        credential: credential.map(BoundedStr::truncated),
        host: BoundedStr::truncated(host),
        port,
        method: BoundedStr::truncated(method),
        path: BoundedStr::truncated(path),
        headers: BoundedVec::new(headers.iter().map(field).collect()).unwrap(),
        patience_s,
        body: BoundedBytes::new(body.to_vec()).unwrap(),
    }
}

impl World {
    /// Starts and wires them.
    ///
    /// # Panics
    /// Where one does not become ready.
    #[must_use]
    pub fn new(setup: &Setup) -> Self {
        let start = |role| {
            let mut builder = tempfile::Builder::new();
            builder.prefix("moltbot-role.");
            let empty = setup.dirs.as_os_str().is_empty();
            let dir = if empty { builder.tempdir() } else { builder.tempdir_in(&setup.dirs) };
            Sealed::start_in(role, dir.unwrap())
        };
        let (auditd, vault) = (start(Role::Auditd), start(Role::Vault));
        let dialer = Sealed::start_with(
            Role::Dialer,
            RoleConfig::Dialer {
                allow: entries(&setup.allow),
                local: entries(&[setup.local.clone(), setup.plain.clone()].concat()),
                resolver: BoundedStr::truncated(&setup.resolver.map(|it| it.to_string()).unwrap_or_default()),
            },
        );
        let egress = Sealed::start_with(
            Role::Egress,
            RoleConfig::Egress {
                plain: entries(&setup.plain),
                local: entries(&setup.local),
                ca: BoundedStr::truncated(&setup.ca.to_string_lossy()),
            },
        );
        ready(&auditd);
        Sealed::wire(EdgeId::VaultWitness, &vault, &auditd);
        Sealed::wire(EdgeId::VaultAuditd, &vault, &auditd);
        ready(&vault);
        ready(&dialer);
        Sealed::wire(EdgeId::EgressAuditd, &egress, &auditd);
        Sealed::wire(EdgeId::EgressVault, &egress, &vault);
        Sealed::wire(EdgeId::EgressDialer, &egress, &dialer);
        ready(&egress);
        let gateway = egress.grant(EdgeId::GatewayEgress).0;
        Self { egress, auditd, vault, _dialer: dialer, gateway, next: Cell::new(1) }
    }

    /// Puts a secret into the vault, with its policy.
    ///
    /// # Panics
    /// Where the vault does not take it.
    pub fn secret(&self, name: &str, value: &[u8], policy: &str) {
        let (name, value) = (BoundedStr::truncated(name), Secret::new(value.to_vec()).unwrap());
        self.verb(VaultVerb::PutSecret { name: name.clone(), value, rotate: false });
        self.verb(VaultVerb::SetPolicy { name, text: BoundedStr::new(policy).unwrap() });
    }

    fn verb(&self, verb: VaultVerb) {
        self.vault.say(&ToRole::Admin(9, AdminRequest::Vault { uid: 0, verb: Box::new(verb) }), &[]);
        match self.vault.hear() {
            FromRole::Admin(9, Ok(_)) => {}
            FromRole::Admin(_, Err(refusal)) => panic!("{refusal}"),
            other => panic!("{other:?}"),
        }
    }

    /// Whether auditd's disk takes anything.
    pub fn log_has_room(&self, room: bool) {
        crate::limit_files(self.auditd.pid(), (!room).then_some(1));
    }

    /// Asks the vault for the lease of `model` in egress's place, which has no edge to it any more.
    pub fn leases(&self, host: &str, port: u16) -> impl Fn() -> Result<(), Refusal> {
        let vault = self.vault.grant(EdgeId::EgressVault).0;
        let to = Destination { host: BoundedStr::truncated(host), port };
        move || {
            let lease = LeaseRequest::Lease {
                session: SessionKey(BoundedStr::truncated("agent:main:test")),
                credential: BoundedStr::truncated("model"),
                to: to.clone(),
                method: BoundedStr::truncated("POST"),
                path: BoundedStr::truncated("/v1/messages?x=1"),
                digest: [0; 32],
            };
            let packet = frame(Kind::Request, RequestId(1), 0, &lease, EgressVault::MAX_REQUEST).unwrap();
            vault.send_by(&packet, &[], Instant::now() + PATIENCE).unwrap();
            let packet = vault.recv_by(EgressVault::MAX_REPLY, 0, Instant::now() + PATIENCE).unwrap();
            match decode_outgoing::<EgressVault>(packet).unwrap().1 {
                Outgoing::Reply(_, _) => Ok(()),
                Outgoing::Refused(refusal) => Err(refusal),
                Outgoing::Chunk(_) => panic!("a lease is no stream"),
            }
        }
    }

    /// Sends a request; its answers are [`World::hear`]'s.
    pub fn send(&self, request: &EgressRequest) -> RequestId {
        let id = RequestId(self.next.get());
        self.next.set(id.0 + 1);
        self.say(Kind::Request, id, request);
        self.say(Kind::Credit, id, &CREDIT);
        id
    }

    /// Takes a request back.
    pub fn cancel(&self, id: RequestId) {
        self.say(Kind::Cancel, id, &());
    }

    fn say(&self, kind: Kind, id: RequestId, body: &impl serde::Serialize) {
        let packet = frame(kind, id, 0, body, GatewayEgress::MAX_REQUEST).unwrap();
        self.gateway.send_by(&packet, &[], Instant::now() + PATIENCE).unwrap();
    }

    /// The next answer, whichever request it is to.
    ///
    /// # Panics
    /// Where none comes.
    #[must_use]
    pub fn hear(&self) -> (RequestId, Outgoing<GatewayEgress>) {
        let packet = self.gateway.recv_by(GatewayEgress::MAX_REPLY, 0, Instant::now() + PATIENCE).unwrap();
        decode_outgoing::<GatewayEgress>(packet).unwrap()
    }

    /// Carries a request out to its end.
    #[must_use]
    pub fn ask(&self, request: &EgressRequest) -> Came {
        let id = self.send(request);
        self.come(id)
    }

    /// The rest of the answer to a request.
    ///
    /// # Panics
    /// Where it does not end, or has two heads.
    #[must_use]
    pub fn come(&self, id: RequestId) -> Came {
        let (mut status, mut headers, mut body) = (0, Vec::new(), Vec::new());
        loop {
            let (of, answer) = self.hear();
            assert_eq!(of, id);
            let end = match answer {
                Outgoing::Chunk(EgressChunk::Head { status: said, headers: fields }) => {
                    assert!(status == 0 && body.is_empty(), "the head comes once, first");
                    status = said;
                    headers = fields.iter().map(|it| (it.name.to_string(), it.value.to_string())).collect();
                    continue;
                }
                Outgoing::Chunk(EgressChunk::Body(bytes)) => {
                    body.extend_from_slice(&bytes);
                    self.say(Kind::Credit, id, &u32::try_from(bytes.len()).unwrap());
                    continue;
                }
                Outgoing::Reply(reply, _) => Ok(reply),
                Outgoing::Refused(refusal) => Err(refusal),
            };
            return Came { status, headers, body, end };
        }
    }

    /// Every record of the stream that holds the use of secrets and the requests.
    ///
    /// # Panics
    /// Where the log does not read.
    #[must_use]
    pub fn records(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.auditd.dir().join("logs/secret-audit.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// What the vault did with the secret `model`, as `lease`, `redeem`, `release`.
    ///
    /// # Panics
    /// Where the log does not read.
    #[must_use]
    pub fn uses(&self) -> Vec<String> {
        let records = self.records();
        let of_egress = records.iter().filter(|record| record["type"] == "secret" && record["requester"] == "egress");
        of_egress.map(|record| record["verb"].as_str().unwrap().to_owned()).collect()
    }

    /// The records of requests, the last one first.
    #[must_use]
    pub fn requests(&self) -> Vec<Value> {
        let mut records: Vec<Value> = self.records().into_iter().filter(|record| record["type"] == "request").collect();
        records.reverse();
        records
    }
}

fn ready(role: &Sealed) {
    match role.hear() {
        FromRole::Ready => {}
        other => panic!("{} is not ready: {other:?}", role.role()),
    }
}
