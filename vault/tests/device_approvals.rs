//! A device's word about a command that waits, through a gateway that has fallen: it forges, replays, widens and changes what it
//! passes on, and nothing of it lets anything run. The same word, unchanged, lets the one command run once.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on has failed")]

mod common;

use common::device::{READ, device, id_of};
use common::{Broker, PATIENCE, subject};
use ed25519_dalek::{Signer as _, SigningKey};
use proto::approval::{
    ApprovalId, ApprovalReply, ApprovalRequest, Decision, DeviceWord, TokenSignature, signed_by_device,
};
use proto::audit::Record;
use proto::auth::{LoginVerb, Scopes};
use proto::bounded::BoundedStr;
use proto::channel::{CallError, Client};
use proto::control::ToRole;
use proto::edge::{GatewayVault, SandboxdVault};
use proto::topology::EdgeId;
use proto::vault::{VaultReply, VaultRequest, VaultVerb};
use sha2::{Digest as _, Sha256};

const APPROVALS: Scopes = Scopes { admin: false, read: true, write: false, approvals: true, pairing: false };

fn digest(command: &str) -> [u8; 32] {
    Sha256::digest(subject(command).canonical()).into()
}

fn admit(broker: &Broker, key: &SigningKey, scopes: Scopes) {
    let (public_key, name) = (key.verifying_key().to_bytes(), BoundedStr::truncated("kitchen"));
    broker.verb(VaultVerb::Login(LoginVerb::AdmitDevice { public_key, name, scopes })).map(drop).unwrap();
}

struct Set {
    broker: Broker,
    gateway: Client<GatewayVault>,
    sandboxd: Client<SandboxdVault>,
}

impl Set {
    fn ask(&mut self, command: &str, nonce: u8) -> ApprovalId {
        let request = ApprovalRequest::Ask { subject: Box::new(subject(command)), timeout_s: 600, nonce: [nonce; 32] };
        match self.sandboxd.call(&request, &[], PATIENCE).unwrap().0 {
            ApprovalReply::Waiting(id) => id,
            other => panic!("{other:?}"),
        }
    }

    fn collect(&mut self, id: ApprovalId) -> ApprovalReply {
        self.sandboxd.call(&ApprovalRequest::Collect { id }, &[], PATIENCE).unwrap().0
    }

    /// What the vault says to a word that gateway passes on: `accepted`, or the rule that refuses.
    fn pass_on(&mut self, word: &DeviceWord) -> String {
        match self.gateway.call(&VaultRequest::Approval(word.clone()), &[], PATIENCE) {
            Ok((VaultReply::Accepted, _)) => "accepted".to_owned(),
            Err(CallError::Refused(refusal)) => refusal.rule.to_string(),
            Ok((other, _)) => panic!("{other:?}"),
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// What this key's device says to a question, signed.
fn word(key: &SigningKey, id: ApprovalId, digest: &[u8; 32], nonce: u8, decision: Decision) -> DeviceWord {
    let device = id_of(key);
    let text = signed_by_device(device, id, digest, &[nonce; 32], decision);
    let signature = key.sign(text.as_bytes());
    DeviceWord::Answer { device, id, decision, signature: TokenSignature(*signature.r_bytes(), *signature.s_bytes()) }
}

#[test]
fn fallen_gateway_can_neither_make_nor_change_nor_repeat_a_device_s_word_and_the_true_one_is_good_once() {
    let state = tempfile::tempdir().unwrap();
    let (broker, records) = Broker::ready(state.path(), true);
    let (gateway, sandboxd) = (broker.client(EdgeId::GatewayVault), broker.sandboxd());
    let mut set = Set { broker, gateway, sandboxd };
    let [mine, reader, stranger, gone, shows_token] = [1, 2, 3, 4, 5].map(device);
    admit(&set.broker, &mine, APPROVALS);
    admit(&set.broker, &reader, READ);
    for key in [&gone, &shows_token] {
        admit(&set.broker, key, Scopes::ALL);
    }
    set.broker.verb(VaultVerb::Login(LoginVerb::RevokeDevice { id: id_of(&gone) })).map(drop).unwrap();
    set.broker.verb(VaultVerb::Login(LoginVerb::RotateToken { id: id_of(&shows_token) })).map(drop).unwrap();
    let once = Decision::AllowOnce;
    // One that was answered rightly, for its signature to be used again.
    let first = set.ask("touch a", 7);
    let old = word(&mine, first, &digest("touch a"), 7, once);
    assert_eq!(set.pass_on(&old), "accepted");
    assert!(matches!(set.collect(first), ApprovalReply::Approved(_)));
    let id = set.ask("touch a", 8);
    let truth = word(&mine, id, &digest("touch a"), 8, once);
    let DeviceWord::Answer { device: name, signature: good, .. } = truth else { panic!() };
    let DeviceWord::Answer { signature: used, .. } = old else { panic!() };
    let with = |device, decision, signature| DeviceWord::Answer { device, id, decision, signature };
    let DeviceWord::Answer { signature: no, .. } = word(&mine, id, &digest("touch a"), 8, Decision::Deny) else {
        panic!()
    };
    let DeviceWord::Answer { signature: strangers, .. } = word(&stranger, id, &digest("touch a"), 8, once) else {
        panic!()
    };
    for (what, tried, rule) in [
        ("bytes", with(name, once, TokenSignature([9; 32], [9; 32])), "approvals.signature"),
        ("the word that was said", old.clone(), "approvals.unknown"),
        ("its signature for the same command again", with(name, once, used), "approvals.signature"),
        ("a no as a yes", with(name, once, no), "approvals.signature"),
        ("a yes as a no", with(name, Decision::Deny, good), "approvals.signature"),
        ("another key under this name", with(name, once, strangers), "approvals.signature"),
        ("a command that was not shown", word(&mine, id, &digest("touch b"), 8, once), "approvals.signature"),
        ("another nonce", word(&mine, id, &digest("touch a"), 7, once), "approvals.signature"),
        ("a device that nobody paired", word(&stranger, id, &digest("touch a"), 8, once), "approvals.device"),
        ("one whose pairing was taken back", word(&gone, id, &digest("touch a"), 8, once), "approvals.device"),
        ("one that was paired for less", word(&reader, id, &digest("touch a"), 8, once), "approvals.scope"),
        ("one that must show a token", word(&shows_token, id, &digest("touch a"), 8, once), "approvals.token"),
        ("a number that nobody asked", word(&mine, ApprovalId(99), &digest("touch a"), 8, once), "approvals.unknown"),
    ] {
        assert_eq!(set.pass_on(&tried), rule, "{what}");
        assert_eq!(set.collect(id), ApprovalReply::Waiting(id), "{what}");
    }
    set.broker.say(&ToRole::Freeze { why: BoundedStr::truncated("a test") }, &[]);
    let _ = set.broker.hear();
    assert_eq!(set.pass_on(&truth), "lockdown");
    set.broker.say(&ToRole::Thaw, &[]);
    // A freeze takes every question back; the twin is another one, for all that is as it was.
    let id = set.ask("touch a", 9);
    let truth = word(&mine, id, &digest("touch a"), 9, once);
    assert_eq!(set.pass_on(&truth), "accepted");
    let ApprovalReply::Approved(token) = set.collect(id) else { panic!("not approved") };
    assert_eq!((token.digest, token.nonce, token.id), (digest("touch a"), [9; 32], id));
    // Once: neither the word nor the question is good for more, and the same command is another question.
    assert_eq!(set.pass_on(&truth), "approvals.unknown");
    assert_eq!(set.collect(id), ApprovalReply::Lapsed);
    let again = set.ask("touch a", 10);
    assert_eq!(set.pass_on(&word(&mine, again, &digest("touch a"), 10, Decision::Deny)), "accepted");
    assert_eq!(set.collect(again), ApprovalReply::Denied);
    let mine_is = format!("device:{}", id_of(&mine));
    let said: Vec<(String, bool)> = records
        .try_iter()
        .filter_map(|record| match record {
            Record::Secret { verb, requester, granted, .. } if requester.as_str() == mine_is => {
                Some((verb.to_string(), granted))
            }
            _ => None,
        })
        .collect();
    assert_eq!(said.iter().filter(|(_, granted)| *granted).count(), 3, "{said:?}");
    assert_eq!(said.iter().filter(|(_, granted)| !granted).count(), 7, "what was refused is in the log: {said:?}");
}
