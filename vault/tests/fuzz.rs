//! gateway's edge under a fallen gateway: whatever it says, no answer holds a byte of a secret, no record does, no device is
//! paired, widened or given another token, and no command is approved.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on has failed")]

mod common;

use common::device::{READ, device, id_of, now_ms, pair, proof};
use common::{Broker, PATIENCE, subject};
use proto::approval::{ApprovalId, ApprovalReply, ApprovalRequest, Decision, DeviceWord, TokenSignature};
use proto::audit::Record;
use proto::auth::{ConnectionId, DeviceProof, DeviceState, Login, LoginAnswer, LoginVerb, Scopes, Standing, Who};
use proto::bounded::{BoundedBytes, BoundedStr};
use proto::channel::{Channel, ChannelError, frame};
use proto::control::FromRole;
use proto::edge::{Edge, GatewayVault};
use proto::ids::{RequestId, SessionKey};
use proto::secret::Secret;
use proto::senders::{ChannelId, SenderAnswer, SenderId, SenderVerb};
use proto::topology::{EdgeId, Side};
use proto::transcripts::{TranscriptId, TranscriptRequest, TranscriptVerb};
use proto::vault::{Destination, LeaseId, LeaseRequest, VaultAnswer, VaultReply, VaultRequest, VaultVerb};
use proto::wire::{HEADER, Kind};
use std::time::Instant;

/// As long a run of a secret's bytes as may come by chance: 2^-64 for a random one.
const WINDOW: usize = 8;
const NAMES: [&str; 6] = ["gateway.token", "inject", "sign", "verify", "open", "none"];

/// SplitMix64 (Steele, Lea, Flood 2014): the same messages for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.roll() % u64::try_from(end).unwrap()).unwrap()
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most + 1)).map(|_| self.roll().to_le_bytes()[0]).collect()
    }
}

/// A message that gateway could send, or bytes near one.
fn message(dice: &mut Dice, id: u32) -> Vec<u8> {
    let number = id;
    let name = BoundedStr::truncated(NAMES[dice.below(NAMES.len())]);
    // Few addresses, so that most are locked out and cost no disk.
    let address = BoundedStr::truncated(["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1", "nowhere"][dice.below(4)]);
    let request = |request: &VaultRequest| frame(Kind::Request, RequestId(id), 100, request, GatewayVault::MAX_REQUEST);
    let mut mac = [0; 32];
    mac.fill(dice.roll().to_le_bytes()[0]);
    let mut bytes = match dice.below(16) {
        0 => {
            let token = (dice.below(2) == 0).then(|| Secret::new(dice.bytes(64)).unwrap());
            request(&VaultRequest::VerifyClient(Box::new(Login::with_token(address, token))))
        }
        // Another edge's questions, on this one.
        1 => {
            let to = Destination { host: BoundedStr::truncated("api.telegram.org"), port: 443 };
            let (method, path) = (BoundedStr::truncated("POST"), BoundedStr::truncated("/bot"));
            let lease = LeaseRequest::Lease {
                session: SessionKey(BoundedStr::truncated("agent:main:main")),
                credential: name,
                to,
                method,
                path,
                digest: mac,
            };
            frame(Kind::Request, RequestId(id), 100, &lease, GatewayVault::MAX_REQUEST)
        }
        2 => {
            let to = Destination { host: BoundedStr::truncated("api.telegram.org"), port: 443 };
            let redeem = LeaseRequest::Redeem { lease: LeaseId([mac[0]; 16]), to, digest: mac };
            frame(Kind::Request, RequestId(id), 100, &redeem, GatewayVault::MAX_REQUEST)
        }
        4 => request(&VaultRequest::Challenge(ConnectionId([mac[0]; 16]))),
        // Another than there is, so that it is answered at once.
        5 => request(&VaultRequest::Watch(Standing { as_of: dice.roll(), token: u64::MAX, ..Standing::default() })),
        6 => {
            let (public_key, scopes) = (device(1 + mac[0] % 3).verifying_key().to_bytes(), "operator.admin");
            let token = (dice.below(2) == 0).then(|| Secret::new(dice.bytes(64)).unwrap());
            let who = Who::Device(Box::new(DeviceProof {
                connection: ConnectionId([mac[0]; 16]),
                signature: [[mac[0]; 32]; 2],
                scopes: BoundedStr::truncated(scopes),
                ..proof(public_key, now_ms())
            }));
            request(&VaultRequest::VerifyClient(Box::new(Login { who, ..Login::with_token(address, token) })))
        }
        // The operator's words, on this edge.
        7 => {
            let id = id_of(&device(1 + mac[0] % 3));
            let verbs = [
                LoginVerb::ApproveDevice { id, scopes: Scopes::ALL },
                LoginVerb::RotateToken { id },
                LoginVerb::ListDevices,
                LoginVerb::ClearPassword,
            ];
            let verb = verbs.into_iter().nth(dice.below(4)).map(VaultVerb::Login).unwrap();
            frame(Kind::Request, RequestId(number), 100, &verb, GatewayVault::MAX_REQUEST)
        }
        9 => {
            let id = TranscriptId([[1, 9][dice.below(2)]; 16]);
            let session = SessionKey(BoundedStr::truncated(["a", "b"][dice.below(2)]));
            request(&VaultRequest::Transcript(match dice.below(4) {
                0 => TranscriptRequest::Make { session, id: TranscriptId([1; 16]) },
                1 => TranscriptRequest::Open { session, id },
                2 => TranscriptRequest::Wrote { id, lines: dice.roll() },
                _ => TranscriptRequest::Close { id },
            }))
        }
        8 => {
            let channel = ChannelId(BoundedStr::truncated(["telegram", "signal", "*"][dice.below(3)]));
            let sender = SenderId(BoundedStr::truncated(["1", "2", "3", "4", "*"][dice.below(5)]));
            request(&VaultRequest::MaySpeak { channel, sender, name })
        }
        10 => {
            let names = ["agent:main:main", "agent:main:work", "agent:main:telegram:7", ""];
            let [from, to] = [0; 2].map(|_| SessionKey(BoundedStr::truncated(names[dice.below(4)])));
            let taint = VaultRequest::Taint { session: from.clone(), why: BoundedStr::truncated("x") };
            request(&if dice.below(2) == 0 { VaultRequest::Carry { from, to } } else { taint })
        }
        // A device's word, which none said; 1 is a question that waits.
        11 => {
            let id = ApprovalId([1, 1, 1, 2][dice.below(4)]);
            let signature = TokenSignature(mac, mac);
            let decision = [Decision::AllowOnce, Decision::Deny][dice.below(2)];
            request(&VaultRequest::Approval(match dice.below(4) {
                0 => DeviceWord::List,
                1 => DeviceWord::Show(id),
                _ => DeviceWord::Answer { device: id_of(&device(1 + mac[0] % 3)), id, decision, signature },
            }))
        }
        3 => frame(Kind::Request, RequestId(id), 100, &VaultVerb::RevealSecret { name }, GatewayVault::MAX_REQUEST),
        _ => {
            let message = BoundedBytes::new(dice.bytes(200)).unwrap();
            request(&VaultRequest::VerifyMac { credential: name, message, mac })
        }
    }
    .unwrap();
    for _ in 0..[0, 0, 0, 1, 2, 8][dice.below(6)] {
        let at = HEADER + dice.below(bytes.len() - HEADER);
        bytes[at] ^= 1 << dice.below(8);
    }
    match dice.below(64) {
        0 => {
            let left = 1 + dice.below(bytes.len() - 1);
            bytes.truncate(left);
        }
        1 => bytes.extend(dice.bytes(40)),
        2 => bytes[0] = dice.roll().to_le_bytes()[0],
        _ => {}
    }
    bytes.to_vec()
}

fn leaks(bytes: &[u8], secrets: &[Vec<u8>]) -> bool {
    secrets.iter().any(|secret| secret.windows(WINDOW).any(|part| bytes.windows(WINDOW).any(|window| window == part)))
}

fn regrant(broker: &Broker) -> Channel {
    let (ours, theirs) = Channel::pair().unwrap();
    broker.grant(EdgeId::GatewayVault, Side::Server, &theirs);
    ours
}

fn put(broker: &Broker, name: &str, value: &[u8], policy: &str) {
    let (name, value) = (BoundedStr::truncated(name), Secret::new(value.to_vec()).unwrap());
    broker.verb(VaultVerb::PutSecret { name: name.clone(), value, rotate: false }).map(drop).unwrap();
    broker.verb(VaultVerb::SetPolicy { name, text: BoundedStr::truncated(policy) }).map(drop).unwrap();
}

/// The key of a transcript that was closed, as the operator has it; the one that closed it is opened.
fn closed_key(broker: &Broker) -> Vec<u8> {
    let mut gateway = broker.client(EdgeId::GatewayVault);
    for id in [1, 2] {
        let (session, id) = (SessionKey(BoundedStr::truncated("a")), TranscriptId([id; 16]));
        let made = gateway.call(&VaultRequest::Transcript(TranscriptRequest::Make { session, id }), &[], PATIENCE);
        assert!(matches!(made, Ok((VaultReply::Transcript(_), _))));
    }
    let reveal = |id| match broker.verb(VaultVerb::Transcripts(TranscriptVerb::Reveal { id: TranscriptId([id; 16]) })) {
        Ok(VaultAnswer::Transcript(key)) => key,
        _ => panic!("not revealed"),
    };
    // The positive twin: what is open gateway does get.
    let (session, id) = (SessionKey(BoundedStr::truncated("a")), TranscriptId([2; 16]));
    let opened = gateway.call(&VaultRequest::Transcript(TranscriptRequest::Open { session, id }), &[], PATIENCE);
    assert!(matches!(opened, Ok((VaultReply::Transcript(key), _)) if key == reveal(2)));
    reveal(1).expose().to_vec()
}

fn fuzz(messages: u32) {
    let state = tempfile::tempdir().unwrap();
    let (broker, records) = Broker::ready(state.path(), true);
    let at = "role egress\nhost api.telegram.org\nmethod POST\npath /bot\n";
    let mut secrets = vec![broker.reveal().unwrap()];
    for (name, policy) in [
        ("inject", format!("verb inject\nheader authorization\n{at}")),
        ("sign", format!("verb sign\n{at}")),
        ("verify", "verb verify\nrole gateway\n".to_owned()),
        ("open", "reveal yes\n".to_owned()),
    ] {
        let value = format!("{name}-is-a-secret-value-of-its-own").into_bytes();
        put(&broker, name, &value, &policy);
        secrets.push(value);
    }
    secrets.push(b"a-password-of-its-own".to_vec());
    let password = Secret::new(secrets[secrets.len() - 1].clone()).unwrap();
    broker.verb(VaultVerb::Login(LoginVerb::SetPassword { password })).map(drop).unwrap();
    secrets.push(pair(&broker, &device(1)));
    secrets.push(closed_key(&broker));
    let mut sandboxd = broker.sandboxd();
    let ask = ApprovalRequest::Ask { subject: Box::new(subject("touch a")), timeout_s: 3_600, nonce: [1; 32] };
    let Ok((ApprovalReply::Waiting(question), _)) = sandboxd.call(&ask, &[], PATIENCE) else { panic!("not asked") };
    assert_eq!(question, ApprovalId(1));
    let known = secrets.clone();
    let written = std::thread::spawn(move || {
        records.iter().fold(0u64, |count, record| {
            if let Record::Secret { name, detail, .. } = &record {
                assert!(!leaks(detail.as_bytes(), &known) && !leaks(name.as_bytes(), &known[1..]), "{record:?}");
            }
            count + 1
        })
    });
    let mut channel = regrant(&broker);
    let (mut dice, mut answers, mut violations) = (Dice(1), 0u32, 0u32);
    for id in 0..messages {
        let bytes = message(&mut dice, id);
        channel.send(&bytes, &[]).unwrap();
        if bytes[0] != Kind::Request as u8 && bytes.len() >= HEADER {
            // Some kinds are taken without a word; this one then ends the edge, and is another message.
            channel
                .send(b"x", &[])
                .or_else(|error| if matches!(error, ChannelError::Closed) { Ok(()) } else { Err(error) })
                .unwrap();
        }
        match channel.recv_by(GatewayVault::MAX_REPLY, 0, Instant::now() + PATIENCE) {
            Ok(packet) => {
                assert!(!leaks(&packet.bytes, &secrets), "message {id}: {:?}", String::from_utf8_lossy(&packet.bytes));
                answers += 1;
            }
            Err(ChannelError::Closed | ChannelError::Os(_)) => {
                let FromRole::Violated { edge: EdgeId::GatewayVault, .. } = broker.hear() else {
                    panic!("not reported")
                };
                violations += 1;
                channel = regrant(&broker);
            }
            Err(error) => panic!("message {id}: {error}"),
        }
    }
    assert!(answers > messages / 4 && violations > messages / 50, "{answers} answers, {violations} violations");
    assert_eq!(answers + violations, messages);
    // Whatever it asked, nobody is on a list by it, and no command was let run or refused.
    let answer = sandboxd.call(&ApprovalRequest::Collect { id: question }, &[], PATIENCE);
    assert!(matches!(answer, Ok((ApprovalReply::Waiting(_), _))), "{answer:?}");
    let allowed = broker.verb(VaultVerb::Senders(SenderVerb::Allowed { after: None }));
    assert!(matches!(allowed, Ok(VaultAnswer::Senders(SenderAnswer::Allowed(rows))) if rows.is_empty()));
    // The positive twin: the same search finds the value where the operator may have it.
    let Ok(VaultAnswer::Revealed(value)) = broker.verb(VaultVerb::RevealSecret { name: BoundedStr::truncated("open") })
    else {
        panic!("not revealed")
    };
    assert!(leaks(value.expose(), &secrets));
    let Ok(VaultAnswer::Login(LoginAnswer::Devices(rows))) = broker.verb(VaultVerb::Login(LoginVerb::ListDevices))
    else {
        panic!("no devices")
    };
    let paired: Vec<_> = rows.iter().filter(|row| row.state != DeviceState::Waits).collect();
    assert!(
        matches!(paired[..], [row] if (row.id, row.state, row.scopes) == (id_of(&device(1)), DeviceState::PairedWithToken, READ)),
        "{paired:?}"
    );
    assert_eq!(broker.exit(), Some(0));
    let written = written.join().unwrap();
    println!("{messages} messages: {answers} answers, {violations} violations, {written} records; no byte of a secret");
}

#[test]
fn no_message_of_gateway_is_answered_with_a_secret() {
    fuzz(20_000);
}

#[test]
#[ignore = "minutes: cargo xtask torture vault"]
fn torture_no_message_of_gateway_in_a_million_is_answered_with_a_secret() {
    fuzz(1_000_000);
}
