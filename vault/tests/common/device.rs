//! A device that the operator pairs.

use super::{Broker, PATIENCE};
use ed25519_dalek::{Signer as _, SigningKey};
use proto::audit::AuthReason;
use proto::auth::{ConnectionId, DeviceId, DeviceProof, Login, LoginAnswer, LoginVerb, Scopes, Who};
use proto::bounded::BoundedStr;
use proto::topology::EdgeId;
use proto::vault::{VaultAnswer, VaultReply, VaultRequest, VaultVerb};
use sha2::{Digest as _, Sha256};
use std::time::{SystemTime, UNIX_EPOCH};

pub const READ: Scopes = Scopes { admin: false, read: true, write: false, approvals: false, pairing: false };

pub fn device(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

pub fn id_of(key: &SigningKey) -> DeviceId {
    DeviceId(Sha256::digest(key.verifying_key().to_bytes()).into())
}

pub fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

pub fn proof(public_key: [u8; 32], signed_at_ms: u64) -> DeviceProof {
    DeviceProof {
        connection: ConnectionId([0; 16]),
        public_key,
        signature: [[0; 32]; 2],
        signed_at_ms,
        client: BoundedStr::truncated("fuzz"),
        mode: BoundedStr::truncated("test"),
        scopes: BoundedStr::truncated("operator.read"),
        platform: BoundedStr::truncated("linux"),
        family: BoundedStr::default(),
        name: BoundedStr::default(),
    }
}

/// A device that signs rightly asks, which a fallen gateway can have too; the operator pairs it and draws its token.
pub fn pair(broker: &Broker, key: &SigningKey) -> Vec<u8> {
    let mut gateway = broker.client(EdgeId::GatewayVault);
    let mut ask = |request: &VaultRequest| gateway.call(request, &[], PATIENCE).map(|(reply, _)| reply).unwrap();
    let VaultReply::Challenge(nonce) = ask(&VaultRequest::Challenge(ConnectionId([0; 16]))) else { panic!("no nonce") };
    let (id, mut proof) = (id_of(key), proof(key.verifying_key().to_bytes(), now_ms()));
    let text = format!("v3|{id}|fuzz|test|operator|operator.read|{}||{nonce}|linux|", proof.signed_at_ms);
    let signature = key.sign(text.as_bytes()).to_bytes();
    proof.signature = [signature[..32].try_into().unwrap(), signature[32..].try_into().unwrap()];
    let login = Login::with_token(BoundedStr::truncated("192.0.2.9"), None);
    let login = Login { who: Who::Device(Box::new(proof)), ..login };
    let reply = ask(&VaultRequest::VerifyClient(Box::new(login)));
    assert!(matches!(reply, VaultReply::Rejected { reason: AuthReason::DeviceUnpaired, .. }), "{reply:?}");
    broker.verb(VaultVerb::Login(LoginVerb::ApproveDevice { id, scopes: READ })).map(drop).unwrap();
    match broker.verb(VaultVerb::Login(LoginVerb::RotateToken { id })).ok().unwrap() {
        VaultAnswer::Login(LoginAnswer::Token(token)) => token.expose().to_vec(),
        _ => panic!("another answer"),
    }
}
