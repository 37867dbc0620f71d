//! A store with no room left, in the real process: it starts, takes other values and other keys, and refuses one more. Its
//! secret memory is bounded, and running out of that would end the process.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod common;

use common::Broker;
use proto::bounded::BoundedStr;
use proto::edge::Refusal;
use proto::secret::Secret;
use proto::vault::{VaultAnswer, VaultVerb};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use vault::state::State;

/// Fills a store with values of this length; returns how many there are.
fn fill(state: &Path, length: usize) -> usize {
    for name in ["keys", "vault"] {
        std::fs::create_dir(state.join(name)).unwrap();
    }
    let fd = |name: &str| OwnedFd::from(File::open(state.join(name)).unwrap());
    let mut opened = State::open(&fd("keys"), fd("vault")).unwrap();
    let value = Secret::new(vec![b'v'; length]).unwrap();
    (0..).find(|number| opened.put(&format!("s.{number:06}"), &value, None, 1).is_err()).unwrap()
}

fn full_vault_goes_on(length: usize) {
    let dir = tempfile::Builder::new().prefix("moltbot-full.").tempdir_in("/dev/shm").unwrap();
    let many = fill(dir.path(), length);
    println!("{many} secrets of {length} bytes fill a store");
    let put = |broker: &Broker, number: usize, rotate: bool| -> Result<VaultAnswer, Refusal> {
        let (name, value) =
            (BoundedStr::truncated(&format!("s.{number:06}")), Secret::new(vec![b'w'; length]).unwrap());
        broker.verb(VaultVerb::PutSecret { name, value, rotate })
    };
    for _ in 0..2 {
        let (broker, _records) = Broker::ready(dir.path(), true);
        let rule =
            |outcome: Result<VaultAnswer, Refusal>| outcome.map(drop).map_err(|refusal| refusal.rule.to_string());
        assert_eq!(rule(put(&broker, many / 2, true)), Ok(()), "another value for one of them");
        // A term more may be what there is no room for.
        let rotated = rule(broker.verb(VaultVerb::RotateKeys));
        assert!(matches!(rotated.as_ref().map_err(String::as_str), Ok(()) | Err("vault.full")), "{rotated:?}");
        assert_eq!(rule(put(&broker, many + 1, false)), Err("vault.full".to_owned()));
        assert_eq!(rule(put(&broker, many / 3, true)), Ok(()), "it goes on");
        assert_eq!(broker.exit(), Some(0));
    }
}

#[test]
#[ignore = "minutes where nothing is optimised: cargo xtask torture vault"]
fn torture_vault_full_of_the_longest_secrets_goes_on() {
    full_vault_goes_on(Secret::MAX);
}

#[test]
#[ignore = "minutes where nothing is optimised: cargo xtask torture vault"]
fn torture_vault_full_of_short_secrets_goes_on() {
    full_vault_goes_on(16);
}
