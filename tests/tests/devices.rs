//! Paired devices as clients and the operator have them. What a device signs is put together and signed by an implementation
//! that is not ours (`tests/device/sign.py`); everything else is the real system.

use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};
use system_tests::client::Client;
use system_tests::{System, in_both_layouts, skip};

const PASSWORD: &str = "correct horse battery";

/// The one that signs, from before anything connects: a handshake does not wait for Python to start.
struct Signer {
    python: Child,
    asks: ChildStdin,
    says: BufReader<ChildStdout>,
}

static SIGNER: OnceLock<Mutex<Signer>> = OnceLock::new();

impl Signer {
    fn start() -> Mutex<Self> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/device/sign.py");
        // It ends with its input, which ends with this process.
        let mut python = Command::new("python3");
        let mut python = python.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (asks, says) = (python.stdin.take().unwrap(), BufReader::new(python.stdout.take().unwrap()));
        Mutex::new(Self { python, asks, says })
    }

    fn sign(&mut self, asked: &Value) -> Value {
        assert!(self.python.try_wait().unwrap().is_none(), "sign.py has ended");
        writeln!(self.asks, "{asked}").unwrap();
        let mut line = String::new();
        self.says.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

/// True where Python can sign; it is ready then.
fn can_sign() -> bool {
    let can = Command::new("python3").args(["-c", "import cryptography"]).stderr(Stdio::null()).status();
    if can.is_ok_and(|status| status.success()) {
        let _ = Device::new(0).id();
        return true;
    }
    skip("python3 has no package `cryptography`");
    false
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// What a device does when it connects.
#[derive(Clone)]
struct Device {
    seed: String,
    version: u8,
    scopes: Vec<&'static str>,
    auth: Value,
    /// Milliseconds that its clock is ahead.
    ahead: i64,
}

impl Device {
    fn new(seed: u8) -> Self {
        let (scopes, auth) = (vec!["operator.read"], json!({}));
        Self { seed: format!("{seed:02x}").repeat(32), version: 3, scopes, auth, ahead: 0 }
    }

    fn with_token(&self, token: &str) -> Self {
        Self { auth: json!({ "token": token }), ..self.clone() }
    }

    fn asks(&self, scopes: &[&'static str]) -> Self {
        Self { scopes: scopes.to_vec(), ..self.clone() }
    }

    fn connect(&self) -> Value {
        json!({
            "minProtocol": 3, "maxProtocol": 4, "role": "operator", "scopes": self.scopes, "auth": self.auth,
            "client": { "id": "cli", "version": "1", "platform": "Linux", "mode": "cli", "deviceFamily": "Desk",
                "displayName": "the\nkitchen" },
        })
    }

    /// The object `device` for this nonce.
    fn sign(&self, nonce: &str) -> Value {
        let at = now_ms().checked_add_signed(self.ahead).unwrap();
        let asked = json!({ "seed": self.seed, "version": self.version, "connect": self.connect(), "nonce": nonce, "signedAt": at });
        SIGNER.get_or_init(Signer::start).lock().unwrap().sign(&asked)
    }

    /// Connects and says hello with whatever `change` makes of it.
    fn try_with(&self, system: &System, change: impl FnOnce(&mut Value)) -> (Client, Value) {
        let mut client = Client::connect(system.port());
        let nonce = client.event("connect.challenge")["nonce"].as_str().unwrap().to_owned();
        let mut connect = self.connect();
        connect["device"] = self.sign(&nonce);
        change(&mut connect);
        client.send("hello", "connect", &connect);
        let answer = client.answer("hello");
        (client, answer)
    }

    fn log_in(&self, system: &System) -> (Client, Value) {
        self.try_with(system, |_| {})
    }

    /// Logs in, which must succeed.
    fn let_in(&self, system: &System) -> Client {
        let (client, answer) = self.log_in(system);
        assert_eq!(answer["ok"], true, "{answer}");
        client
    }

    /// Logs in, which must not succeed; returns the reason.
    fn refused(&self, system: &System) -> String {
        reason(&self.log_in(system).1)
    }

    /// The object `device` of `exec.approval.resolve`, for a question as it was shown.
    fn word(&self, approval: &Value, decision: &str) -> Value {
        let asked = json!({ "seed": self.seed, "approval": approval, "decision": decision });
        SIGNER.get_or_init(Signer::start).lock().unwrap().sign(&asked)
    }

    fn id(&self) -> String {
        self.sign("")["id"].as_str().unwrap().to_owned()
    }

    /// Asks, and is paired for what it asked for.
    fn pair(&self, system: &System) -> String {
        assert_eq!(self.refused(system), "pairing_required");
        let id = self.id();
        let _ = system.says(&["devices", "approve", &id]);
        id
    }
}

fn reason(answer: &Value) -> String {
    assert_eq!(answer["ok"], false, "let in: {answer}");
    answer["error"]["details"]["authReason"].as_str().or(answer["error"]["message"].as_str()).unwrap().to_owned()
}

fn rows(system: &System) -> Value {
    serde_json::from_str(&system.says(&["devices", "list", "--json"])).unwrap()
}

fn state_of(system: &System, id: &str) -> Vec<String> {
    let rows = rows(system);
    let of = rows.as_array().unwrap().iter().filter(|row| row["id"] == id);
    of.map(|row| row["state"].as_str().unwrap().to_owned()).collect()
}

in_both_layouts! {
    fn device_asks_is_paired_by_the_operator_and_gets_what_it_was_paired_for(system: System) {
        if !can_sign() { return }
        let device = Device::new(1);
        let (_, answer) = device.log_in(&system);
        assert_eq!((answer["error"]["code"].as_str(), reason(&answer).as_str()), (Some("NOT_PAIRED"), "pairing_required"));
        let id = answer["error"]["details"]["requestId"].as_str().unwrap().to_owned();
        assert_eq!((id.as_str(), state_of(&system, &id)), (device.id().as_str(), vec!["waits".to_owned()]));
        // What it says of itself stays in its line.
        assert!(system.says(&["devices", "list"]).contains("the kitchen cli Linux 127.0.0.1"));
        let _ = system.says(&["devices", "approve", &id[..8]]);
        assert_eq!(state_of(&system, &id), ["paired"]);
        for version in [2, 3] {
            let (mut client, answer) = Device { version, ..device.clone() }.log_in(&system);
            assert_eq!(answer["payload"]["auth"]["scopes"], json!(["operator.read"]), "{answer}");
            let _ = client.call("health", &json!({}));
            // What it was not paired for gateway does not do for it.
            client.send("reset", "sessions.reset", &json!({ "key": "main" }));
            assert_eq!(client.answer("reset")["error"]["details"]["missingScope"], "operator.admin");
        }
        let last = system.records("auth-audit").into_iter().rfind(|record| record["type"] == "auth").unwrap();
        assert_eq!((&last["method"], &last["device"], &last["success"]), (&json!("device"), &json!(id), &json!(true)));
    }

    fn widened_scope_is_refused_until_the_operator_allows_it(system: System) {
        if !can_sign() { return }
        let device = Device::new(2);
        let id = device.pair(&system);
        let wide = device.asks(&["operator.read", "operator.write"]);
        assert_eq!(wide.refused(&system), "scope_upgrade");
        // Scopes that were not signed are no scopes: those in the frame and those in the signature are the same or nothing.
        let (_, answer) = device.try_with(&system, |connect| connect["scopes"] = json!(["operator.admin"]));
        assert_eq!(reason(&answer), "device_signature_invalid");
        drop(device.let_in(&system));
        assert_eq!(state_of(&system, &id), ["waits", "paired"]);
        let _ = system.says(&["devices", "approve", &id]);
        let (_, answer) = wide.log_in(&system);
        assert_eq!(answer["payload"]["auth"]["scopes"], json!(["operator.read", "operator.write"]), "{answer}");
        let _ = system.says(&["devices", "approve", &id, "--scopes", "read"]);
        assert_eq!(wide.refused(&system), "scope_upgrade");
        drop(device.let_in(&system));
    }

    fn replayed_nonce_and_foreign_signature_are_refused(system: System) {
        if !can_sign() { return }
        let (device, other) = (Device::new(3), Device::new(4));
        device.pair(&system);
        other.pair(&system);
        // A whole hello that was let in, on a connection of its own, twice: one after the other and at the same time.
        let mut first = Client::connect(system.port());
        let nonce = first.event("connect.challenge")["nonce"].as_str().unwrap().to_owned();
        let mut connect = device.connect();
        connect["device"] = device.sign(&nonce);
        let mut second = Client::connect(system.port());
        let _ = second.event("connect.challenge");
        for (client, refused) in [(&mut first, false), (&mut second, true)] {
            client.send("hello", "connect", &connect);
            let answer = client.answer("hello");
            assert_eq!(answer["ok"], !refused, "{answer}");
            if refused {
                assert_eq!(answer["error"]["details"]["code"], "DEVICE_AUTH_NONCE_MISMATCH");
            }
        }
        // The nonce of its own connection beside the signature of another's.
        let (_, answer) = device.try_with(&system, |connect| connect["device"]["signature"] = json!(device.sign("0")["signature"]));
        assert_eq!(reason(&answer), "device_signature_invalid");
        // The signature of another device, which is paired as well.
        let (_, answer) = device.try_with(&system, |connect| {
            let nonce = connect["device"]["nonce"].as_str().unwrap().to_owned();
            connect["device"]["signature"] = other.sign(&nonce)["signature"].clone();
        });
        assert_eq!(reason(&answer), "device_signature_invalid");
        // Its twin: both halves of the other's are the other's.
        drop(other.let_in(&system));
        for ahead in [-700_000, 700_000] {
            assert_eq!(Device { ahead, ..device.clone() }.refused(&system), "device_signature_expired");
        }
        for ahead in [-300_000, 300_000] {
            drop(Device { ahead, ..device.clone() }.let_in(&system));
        }
        let (_, answer) = device.try_with(&system, |connect| { connect["device"].as_object_mut().unwrap().remove("nonce"); });
        assert_eq!(reason(&answer), "device nonce required");
    }

    fn token_is_needed_from_when_it_is_drawn_and_a_stale_one_is_no_attack(system: System) {
        if !can_sign() { return }
        let device = Device::new(5);
        let id = device.pair(&system);
        let rotate = || system.says(&["devices", "rotate", &id]).trim().to_owned();
        let token = rotate();
        assert_eq!(device.refused(&system), "device_token_missing");
        drop(device.with_token(&token).let_in(&system));
        // The token alone opens nothing, nor does another device's.
        let mut bare = Client::connect(system.port());
        assert_eq!(reason(&bare.log_in(3, 4, &token)), "token_mismatch");
        assert_eq!(Device::new(6).with_token(&token).refused(&system), "token_mismatch");
        let next = rotate();
        let _ = system.says(&["gateway", "unlock"]);
        for _ in 0..8 {
            assert_eq!(device.with_token(&token).refused(&system), "device_token_stale");
        }
        drop(device.with_token(&next).let_in(&system));
        let _ = system.says(&["devices", "revoke", "--token", &id]);
        assert_eq!(device.with_token(&next).refused(&system), "device_token_stale");
        assert_eq!(device.refused(&system), "device_token_missing");
        drop(device.with_token(&rotate()).let_in(&system));
        // A guess is one, from a device that is paired too.
        for _ in 0..5 {
            assert_eq!(device.with_token("a guess").refused(&system), "token_mismatch");
        }
        assert_eq!(device.with_token("a guess").refused(&system), "rate_limited");
        let disk = std::fs::read(system.state().join("vault/vault.db")).unwrap();
        assert!(!disk.windows(next.len()).any(|window| window == next.as_bytes()));
    }

    fn connection_ends_when_what_it_came_in_by_is_taken_back(system: System) {
        if !can_sign() { return }
        assert!(system.fed(&["gateway", "password", "set"], PASSWORD).status.success());
        let (device, other) = (Device::new(7), Device::new(8));
        let id = device.pair(&system);
        other.pair(&system);
        let mut stays = other.let_in(&system);
        let mut by_device = device.let_in(&system);
        let (mut by_password, answer) = Device { auth: json!({ "password": PASSWORD }), ..Device::new(9) }.log_in(&system);
        assert_eq!(answer["ok"], true, "{answer}");
        let mut by_token = Client::logged_in(system.port(), &system.token());
        let _ = system.says(&["devices", "revoke", &id]);
        assert_eq!(by_device.closed().0, 1008);
        assert_eq!(device.refused(&system), "device_revoked");
        // Not by the gateway token either, as long as it says who it is.
        assert_eq!(device.with_token(&system.token()).refused(&system), "device_revoked");
        let _ = by_password.call("health", &json!({}));
        let _ = system.says(&["gateway", "password", "clear"]);
        assert_eq!(by_password.closed().0, 1008);
        let _ = by_token.call("health", &json!({}));
        let next = "another-token-of-the-operators-own-choosing-0123456789";
        assert!(system.fed(&["secrets", "rotate", "gateway.token"], next).status.success());
        assert_eq!(by_token.closed().0, 1008);
        drop(Client::logged_in(system.port(), next));
        let _ = stays.call("health", &json!({}));
        // What was taken back is given again by the operator alone, and everything of it is in the log.
        let _ = system.says(&["devices", "approve", &id]);
        drop(device.let_in(&system));
        let records = system.records("secret-audit");
        let verbs: Vec<_> = records.iter().filter_map(|record| record["verb"].as_str()).filter(|verb| verb.starts_with("devices.")).collect();
        for verb in ["devices.list", "devices.approve", "devices.revoke"] {
            assert!(verbs.contains(&verb), "{verb} is not in {verbs:?}");
        }
    }

    fn devices_survive_a_restart_and_a_denied_one_must_ask_anew(system: System) {
        if !can_sign() { return }
        let (device, denied) = (Device::new(10), Device::new(11));
        let id = device.pair(&system);
        assert_eq!(denied.refused(&system), "pairing_required");
        let _ = system.says(&["devices", "deny", &denied.id()]);
        assert!(state_of(&system, &denied.id()).is_empty());
        let output = system.moltbot(&["devices", "approve", &denied.id()]);
        assert!(!output.status.success());
        system.down();
        let mut system = system;
        system.up();
        assert_eq!(state_of(&system, &id), ["paired"]);
        drop(device.let_in(&system));
        // A vault that is replaced under a running gateway goes on with what it knows.
        let epoch = system.role("vault")["epoch"].as_u64().unwrap();
        let mut client = device.let_in(&system);
        let _ = system.says(&["gateway", "restart", "vault"]);
        system.wait_epoch("vault", epoch + 1);
        let _ = client.call("health", &json!({}));
        drop(device.let_in(&system));
        let _ = system.says(&["devices", "revoke", &id]);
        assert_eq!(client.closed().0, 1008);
    }

    fn device_with_the_scope_answers_what_waits_by_its_signature_and_no_other_client_does(system: System) {
        if !can_sign() { return }
        let mut system = system;
        system.down();
        system.set_exec(json!({ "ask": "on-miss" }));
        system.up();
        let device = Device::new(11).asks(&["operator.read", "operator.write", "operator.approvals"]);
        let id = device.pair(&system);
        let mut client = device.let_in(&system);
        let mut reader = Device::new(12).asks(&["operator.read"]);
        reader.pair(&system);
        let mut deaf = reader.let_in(&system);
        reader.scopes = Vec::new();
        let begin = |client: &mut Client, run: &str| {
            let message = json!({ "sessionKey": "main", "message": "/exec touch ran && echo it $((6*7))", "idempotencyKey": run });
            let _ = client.call("chat.send", &message);
            let asked = client.event("exec.approval.requested")["id"].as_str().unwrap().to_owned();
            client.call("exec.approval.get", &json!({ "id": asked }))
        };
        let last = |client: &mut Client| loop {
            let event = client.event("chat");
            if event["state"] != "delta" {
                break event.to_string();
            }
        };
        let tried = |client: &mut Client, params: &Value| {
            client.send("try", "exec.approval.resolve", params);
            client.answer("try")
        };
        let shown = begin(&mut client, "one");
        assert_eq!(shown["request"]["command"], "touch ran && echo it $((6*7))", "{shown}");
        assert_eq!(client.call("exec.approval.list", &json!({}))["approvals"][0]["id"], shown["id"]);
        let number = shown["id"].clone();
        let word = device.word(&shown, "allow-once");
        // Another command in its place on the way to the device: what it signs is good for nothing.
        let mut benign = shown.clone();
        benign["request"]["command"] = json!("ls");
        for (what, params) in [
            ("nothing", json!({ "id": number, "decision": "allow-once" })),
            ("another command", json!({ "id": number, "decision": "allow-once", "device": device.word(&benign, "allow-once") })),
            ("a device of less", json!({ "id": number, "decision": "allow-once", "device": reader.word(&shown, "allow-once") })),
            ("for ever", json!({ "id": number, "decision": "allow-always", "device": word })),
        ] {
            assert_eq!(tried(&mut client, &params)["ok"], false, "{what}");
        }
        deaf.send("list", "exec.approval.list", &json!({}));
        assert_eq!(deaf.answer("list")["error"]["details"]["missingScope"], "operator.approvals");
        let yes = json!({ "id": number, "decision": "allow-once", "device": word });
        client.send("yes", "exec.approval.resolve", &yes);
        assert_eq!(client.event("exec.approval.resolved")["resolvedBy"], json!(id));
        assert_eq!(client.answer("yes")["ok"], true);
        let ran = last(&mut client);
        assert!(ran.contains("it 42"), "{ran}");
        assert_eq!(tried(&mut client, &yes)["ok"], false, "once");
        let shown = begin(&mut client, "two");
        assert_eq!(tried(&mut client, &yes)["ok"], false, "and for no other question");
        let no = json!({ "id": shown["id"], "decision": "deny", "device": device.word(&shown, "deny") });
        assert_eq!(tried(&mut client, &no)["ok"], true);
        let refused = last(&mut client);
        assert!(refused.contains("exec.not_approved") && !refused.contains("it 42"), "{refused}");
        let requester = format!("device:{id}");
        let said = system.records("secret-audit").into_iter().filter(|record| record["requester"] == requester.as_str());
        assert_eq!(said.filter(|record| record["success"] == true).count(), 2);
    }
}
