use super::*;

const VAULT: VaultId = [7; 16];

fn ring() -> (Master, Keyring) {
    let master = Master::from_bytes([1; 32]);
    let ring = Keyring::make(&master, VAULT, 5).unwrap();
    (master, ring)
}

fn value(text: &[u8]) -> Secret {
    Secret::new(text.to_vec()).unwrap()
}

fn sealed(ring: &mut Keyring, name: &str, version: u64, policy: &str) -> Record {
    Record::seal(ring, name, version, 9, &Policy::parse(policy).unwrap(), &value(b"a secret of some length")).unwrap()
}

#[test]
fn secret_of_any_length_comes_back_and_its_length_hardly_shows() {
    let (_, mut ring) = ring();
    for length in [0, 1, 29, 30, 31, 62, 63, Secret::MAX] {
        let record = Record::seal(&mut ring, "a", 1, 9, &Policy::default(), &value(&vec![b'x'; length])).unwrap();
        assert_eq!(record.open(&ring).unwrap().expose(), vec![b'x'; length]);
        assert_eq!(record.0.body.len() % BLOCK, TAG);
        assert_eq!(Record::decode(&record.encode()), Some(record));
    }
}

#[test]
fn same_secret_twice_shares_nothing() {
    let (_, mut ring) = ring();
    let (a, b) = (sealed(&mut ring, "a", 1, ""), sealed(&mut ring, "a", 1, ""));
    let (one, other) = (&a.0, &b.0);
    assert!(
        one.salt != other.salt
            && one.nonce != other.nonce
            && one.wrapped != other.wrapped
            && one.commit != other.commit
            && one.body != other.body
    );
    assert!(a.data_key(&ring).unwrap().expose() != b.data_key(&ring).unwrap().expose());
}

#[test]
fn record_moved_to_any_other_place_does_not_open() {
    let (master, mut ring) = ring();
    let record = sealed(&mut ring, "a", 1, "");
    assert!(record.open(&ring).is_ok());
    type Change = Box<dyn Fn(&mut Record)>;
    let moved: [(&str, Change); 5] = [
        ("date", Box::new(|record| record.0.created = 8)),
        ("name", Box::new(|record| record.0.name = "b".into())),
        ("version", Box::new(|record| record.0.version = 2)),
        ("policy", Box::new(|record| record.0.policy = "reveal yes\n".into())),
        ("term", Box::new(|record| record.0.term = 2)),
    ];
    ring.keks.push(Kek::draw(&master, &VAULT, 2, 5).unwrap());
    for (what, change) in moved {
        let mut other = record.clone();
        change(&mut other);
        assert!(matches!(other.open(&ring), Err(EnvelopeError::Wrap)), "{what}");
    }
    let mut elsewhere = Keyring::make(&master, [8; 16], 5).unwrap();
    assert!(matches!(record.open(&elsewhere), Err(EnvelopeError::Wrap)));
    elsewhere.keks[0].term = 9;
    assert!(matches!(record.open(&elsewhere), Err(EnvelopeError::Term(1))));
}

#[test]
fn body_under_another_wrap_fails_the_commitment_and_another_body_its_tag() {
    let (_, mut ring) = ring();
    let (old, new) = (sealed(&mut ring, "a", 1, ""), sealed(&mut ring, "a", 1, ""));
    let mut with_wrap_of_new = old.clone();
    (with_wrap_of_new.0.wrapped, with_wrap_of_new.0.nonce) = (new.0.wrapped, new.0.nonce);
    assert!(matches!(with_wrap_of_new.open(&ring), Err(EnvelopeError::Commitment)));
    let mut with_body_of_new = old.clone();
    with_body_of_new.0.body = new.0.body.clone();
    assert!(matches!(with_body_of_new.open(&ring), Err(EnvelopeError::Body)));
    assert!(old.open(&ring).is_ok());
}

#[test]
fn every_flipped_bit_of_a_record_is_refused_with_its_own_error() {
    let (_, mut ring) = ring();
    let record = sealed(&mut ring, "a", 1, "reveal yes");
    let bytes = record.encode();
    for at in 0..bytes.len() * 8 {
        let mut bad = bytes.to_vec();
        bad[at / 8] ^= 1 << (at % 8);
        let Some(bad) = Record::decode(&bad) else { continue };
        let refused = bad.open(&ring).map(|_| ()).unwrap_err();
        let expected = match &bad {
            bad if bad.0.term != record.0.term => matches!(refused, EnvelopeError::Term(_)),
            bad if bad.0.body != record.0.body => matches!(refused, EnvelopeError::Body),
            bad if bad.0.commit != record.0.commit || bad.0.salt != record.0.salt => {
                matches!(refused, EnvelopeError::Commitment)
            }
            _ => matches!(refused, EnvelopeError::Wrap),
        };
        assert!(expected, "bit {at}: {refused}");
    }
    for cut in 0..bytes.len() {
        assert!(Record::decode(&bytes[..cut]).is_none());
    }
}

#[test]
fn ring_is_read_back_by_its_master_and_its_vault_alone() {
    let (master, ring) = ring();
    let mut into = Writer::new(256);
    ring.encode(&mut into);
    let bytes = into.finish();
    let read = |master: &Master, vault| Keyring::decode(&mut Reader::new(&bytes), master, vault);
    assert!(read(&master, VAULT).unwrap().keks[0].key.expose() == ring.keks[0].key.expose());
    assert!(read(&Master::from_bytes([2; 32]), VAULT).is_none());
    assert!(read(&master, [8; 16]).is_none());
    let next = ring.next(&master, 6).unwrap();
    assert_eq!((ring.term(), next.term()), (1, 2));
}

#[test]
fn name_that_is_none_is_refused() {
    let (_, mut ring) = ring();
    for name in ["", "A", "1a", "a b", "a/b", "ä", &"a".repeat(65)] {
        let refused = Record::seal(&mut ring, name, 1, 9, &Policy::default(), &value(b"x"));
        assert!(matches!(refused, Err(EnvelopeError::Name)), "{name:?}");
    }
    assert!(Record::seal(&mut ring, &"a".repeat(64), 1, 9, &Policy::default(), &value(b"x")).is_ok());
}

#[test]
fn padding_that_is_not_zeros_within_a_block_is_refused() {
    assert_eq!(unpad(&pad(b"abc")), Some(b"abc".as_slice()));
    let mut bad = pad(b"abc");
    *bad.last_mut().unwrap() = 1;
    assert_eq!(unpad(&bad), None);
    assert_eq!(unpad(&[0; 64]), None);
    assert_eq!(unpad(&[255, 255, 0]), None);
}
