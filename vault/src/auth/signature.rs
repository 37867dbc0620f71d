//! What a device signs, and whether it did. The texts are those of the gateway protocol's clients, versions 2 and 3; version
//! 1, which has no nonce and so could be replayed, is nobody's here. Everything in a proof is hostile until its signature holds.

use ed25519_dalek::{Signature, VerifyingKey};
use proto::auth::{DeviceId, DeviceProof};
use proto::secret::Secret;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Seconds by which a client's clock may differ.
pub const SKEW: u64 = 600;
/// The one role that is served.
const ROLE: &str = "operator";

/// The device that a key is.
#[must_use]
pub fn device_of(public_key: &[u8; 32]) -> DeviceId {
    DeviceId(Sha256::digest(public_key).into())
}

/// True where the proof's key signed these wishes, this token and this nonce, in either version. An offered token is a part of
/// what is signed, so that nobody puts another in its place on the way.
#[must_use]
pub fn holds(proof: &DeviceProof, token: Option<&Secret>, nonce: &str) -> bool {
    let Ok(key) = VerifyingKey::from_bytes(&proof.public_key) else { return false };
    let signature = Signature::from_components(proof.signature[0], proof.signature[1]);
    [text(proof, token, nonce, true), text(proof, token, nonce, false)]
        .iter()
        .any(|text| key.verify_strict(text, &signature).is_ok())
}

/// True where its clock says about the same as ours.
#[must_use]
pub const fn is_timely(proof: &DeviceProof, now: u64) -> bool {
    now.abs_diff(proof.signed_at_ms / 1000) <= SKEW
}

fn text(proof: &DeviceProof, token: Option<&Secret>, nonce: &str, third: bool) -> Zeroizing<Vec<u8>> {
    let (id, at) = (device_of(&proof.public_key).to_string(), proof.signed_at_ms.to_string());
    let (platform, family) = (proof.platform.trim().to_ascii_lowercase(), proof.family.trim().to_ascii_lowercase());
    let token = token.map_or(&[][..], Secret::expose);
    let mut parts: Vec<&[u8]> = vec![if third { b"v3" } else { b"v2" }];
    parts.extend([&*id, &*proof.client, &*proof.mode, ROLE, &*proof.scopes, &*at].map(str::as_bytes));
    parts.extend([token, nonce.as_bytes()]);
    if third {
        parts.extend([&*platform, &*family].map(str::as_bytes));
    }
    // Sized at the start: one that grows leaves copies of the token behind.
    let mut text = Zeroizing::new(Vec::with_capacity(parts.iter().map(|part| part.len() + 1).sum()));
    for (at, part) in parts.into_iter().enumerate() {
        if at > 0 {
            text.push(b'|');
        }
        text.extend_from_slice(part);
    }
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use ed25519_dalek::{Signer as _, SigningKey};
    use proto::auth::ConnectionId;
    use proto::bounded::BoundedStr;

    /// What clients that we did not write have signed: version, public key, text, signature.
    const VECTORS: &str = include_str!("../../tests/device-signatures.tsv");

    fn halves(signature: &[u8]) -> [[u8; 32]; 2] {
        [signature[..32].try_into().unwrap(), signature[32..].try_into().unwrap()]
    }

    struct Vector {
        proof: DeviceProof,
        token: Secret,
        nonce: String,
    }

    impl Vector {
        fn holds(&self) -> bool {
            holds(&self.proof, Some(&self.token), &self.nonce)
        }
    }

    fn vectors() -> Vec<Vector> {
        let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
        let line = |line: &str| {
            let [_, key, text, signature] = line.split('\t').collect::<Vec<_>>().try_into().unwrap();
            let parts: Vec<_> = text.split('|').collect();
            let at = |part: usize| parts.get(part).copied().unwrap_or_default();
            let public_key = bytes(key).try_into().unwrap();
            assert_eq!(device_of(&public_key).to_string(), at(1));
            assert_eq!(at(4), ROLE);
            let proof = DeviceProof {
                connection: ConnectionId([0; 16]),
                public_key,
                signature: halves(&bytes(signature)),
                signed_at_ms: at(6).parse().unwrap(),
                client: BoundedStr::new(at(2)).unwrap(),
                mode: BoundedStr::new(at(3)).unwrap(),
                scopes: BoundedStr::new(at(5)).unwrap(),
                // As clients may write it; what they sign is trimmed and lower case.
                platform: BoundedStr::new(format!(" {}", at(9).to_uppercase())).unwrap(),
                family: BoundedStr::new(format!("{} ", at(10).to_uppercase())).unwrap(),
                name: BoundedStr::default(),
            };
            Vector { proof, token: Secret::new(at(7).as_bytes().to_vec()).unwrap(), nonce: at(8).to_owned() }
        };
        VECTORS.lines().filter(|text| !text.starts_with('#')).map(line).collect()
    }

    /// Signs a proof as a client of version 3 does.
    pub(crate) fn sign(proof: &mut DeviceProof, key: &SigningKey, token: Option<&Secret>, nonce: &str) {
        proof.public_key = key.verifying_key().to_bytes();
        proof.signature = halves(&key.sign(&text(proof, token, nonce, true)).to_bytes());
    }

    #[test]
    fn every_vector_of_a_real_client_holds() {
        let vectors = vectors();
        assert_eq!(vectors.len(), 5);
        assert!(vectors.iter().all(Vector::holds));
    }

    #[test]
    fn vector_with_anything_changed_does_not_hold() {
        let changes: [fn(&mut Vector); 9] = [
            |vector| vector.nonce.push('0'),
            |vector| vector.token = Secret::new(b"another".to_vec()).unwrap(),
            |vector| vector.token = Secret::new(Vec::new()).unwrap(),
            |vector| vector.proof.signed_at_ms += 1,
            |vector| vector.proof.scopes = BoundedStr::truncated("operator.admin,operator.more"),
            |vector| vector.proof.client = BoundedStr::truncated("another"),
            |vector| vector.proof.mode = BoundedStr::truncated("another"),
            |vector| vector.proof.signature[1][0] ^= 1,
            |vector| vector.proof.public_key = SigningKey::from_bytes(&[7; 32]).verifying_key().to_bytes(),
        ];
        for (at, change) in changes.into_iter().enumerate() {
            for mut vector in vectors() {
                change(&mut vector);
                assert!(!vector.holds(), "change {at}");
            }
        }
    }

    #[test]
    fn platform_is_signed_from_version_3_on() {
        for (at, mut vector) in vectors().into_iter().enumerate() {
            vector.proof.platform = BoundedStr::truncated("plan9");
            assert_eq!(vector.holds(), at < 3, "the first three are of version 2");
        }
    }

    #[test]
    fn clock_may_differ_by_ten_minutes_either_way() {
        let mut proof = vectors().remove(0).proof;
        proof.signed_at_ms = 1_000_000_999;
        for (now, timely) in [(999_400, true), (999_399, false), (1_000_600, true), (1_000_601, false)] {
            assert_eq!(is_timely(&proof, now), timely, "{now}");
        }
        proof.signed_at_ms = u64::MAX;
        assert!(!is_timely(&proof, 1_000_000));
    }
}
