use super::*;
use crate::days::{Amount, Days};
use crate::lockout::{Entry, Party};
use crate::permit::Policy;
use crate::taints::Taints;
use proto::secret::Secret;

pub(crate) fn contents(master: &Master, secrets: u32) -> Contents {
    let mut ring = Keyring::make(master, [3; 16], 7).unwrap();
    let mut records = BTreeMap::new();
    for n in 0..secrets {
        let (name, value) =
            (format!("secret.{n:02}"), Secret::new(format!("a secret number {n}").into_bytes()).unwrap());
        let record = Record::seal(&mut ring, &name, 1, 7, &Policy::default(), &value).unwrap();
        records.insert(name, record);
    }
    let entry = Entry { first: 1, failures: 3, until: 0 };
    let lockouts = Table::restore([(Party::V4(9), entry), (Party::V6(10), entry)]);
    let mut budgets = Budgets::default();
    budgets.count("secret.00", 1);
    let senders = crate::senders::tests::some();
    let transcripts = crate::transcripts::tests::some(&mut ring);
    let memory = crate::witness::memory::Memory::default();
    let devices = Devices::default();
    let (password, renew) = (None, false);
    let mut adopted = Adopted::default();
    adopted.note("secret.00", &Secret::new(b"a secret number 0".to_vec()).unwrap());
    let mut taints = Taints::default();
    taints.add("agent:main:main", "a page was read");
    let mut days = Days::default();
    days.add("secret.00", 20_000, Amount { bytes: 1, read: 2, written: 3, nanodollars: 4 });
    Contents {
        ring,
        records,
        lockouts,
        budgets,
        password,
        devices,
        renew,
        senders,
        transcripts,
        adopted,
        taints,
        days,
        memory,
    }
}

pub(crate) fn place(generation: u64, contents: &Contents) -> Place {
    Place { vault: [3; 16], generation, root: contents.root(), previous: [9; 32] }
}

fn sealed(secrets: u32) -> (Master, Contents, Place, Vec<u8>) {
    let master = Master::from_bytes([1; 32]);
    let contents = contents(&master, secrets);
    let place = place(41, &contents);
    let file = seal(&[], &master, &place, &contents).unwrap();
    (master, contents, place, file)
}

fn refused(master: &Master, file: &[u8]) -> SnapshotError {
    unseal(master, file).map(|_| ()).unwrap_err()
}

#[test]
fn snapshot_round_trip_returns_everything_and_hides_it_on_disk() {
    let (master, contents, place, file) = sealed(3);
    let (found_place, found) = unseal(&master, &file).unwrap();
    assert_eq!(found_place, place);
    assert_eq!(
        (&found.records, &found.lockouts, &found.budgets, &found.senders, &found.transcripts),
        (&contents.records, &contents.lockouts, &contents.budgets, &contents.senders, &contents.transcripts)
    );
    assert_eq!(found.records["secret.01"].open(&found.ring).unwrap().expose(), b"a secret number 1");
    assert!(!file.windows(7).any(|window| window == b"a secre" || window == b"secret."));
    assert_ne!(file, seal(&[], &master, &place, &contents).unwrap(), "the salt is fresh");
}

#[test]
fn every_flipped_bit_of_fifty_secrets_is_refused_with_its_own_error() {
    let (master, _, _, mut file) = sealed(50);
    for bit in 0..file.len() * 8 {
        let at = bit / 8;
        file[at] ^= 1 << (bit % 8);
        let error = refused(&master, &file);
        let expected = match at {
            0..8 => error == SnapshotError::Format,
            8..24 => error == SnapshotError::Foreign,
            80..84 => matches!(error, SnapshotError::Length { .. }),
            _ => error == SnapshotError::Altered,
        };
        assert!(expected, "byte {at}: {error}");
        file[at] ^= 1 << (bit % 8);
    }
    assert!(unseal(&master, &file).is_ok());
}

#[test]
fn every_truncation_and_every_addition_is_refused_as_one() {
    let (master, _, _, mut file) = sealed(5);
    for cut in 0..file.len() {
        let expected = if cut < 8 { SnapshotError::Format } else { refused(&master, &file[..cut]) };
        assert_eq!(refused(&master, &file[..cut]), expected);
        assert!(cut < 8 || matches!(expected, SnapshotError::Length { found, .. } if found == cut), "{cut}");
    }
    file.push(0);
    assert!(matches!(refused(&master, &file), SnapshotError::Length { .. }));
}

#[test]
fn every_flipped_bit_of_the_key_makes_the_store_foreign() {
    let (_, _, _, file) = sealed(1);
    for bit in 0..256 {
        let mut key = [1; 32];
        key[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(refused(&Master::from_bytes(key), &file), SnapshotError::Foreign);
    }
}

#[test]
fn parts_of_two_snapshots_of_one_vault_make_no_third() {
    let (master, contents, place, old) = sealed(5);
    let next = Place { generation: 42, previous: place.root, ..place };
    let new = seal(&[], &master, &next, &contents).unwrap();
    assert_eq!(old.len(), new.len());
    for range in [0..HEADER, HEADER..old.len() - 64, old.len() - 32..old.len()] {
        let mut mixed = new.clone();
        mixed[range.clone()].copy_from_slice(&old[range]);
        assert_eq!(refused(&master, &mixed), SnapshotError::Altered);
    }
}

/// What only somebody with the master key can make, to see that the inside is checked as well.
#[test]
fn records_out_of_order_or_twice_or_not_of_the_root_are_refused() {
    let (master, contents, place, _) = sealed(3);
    let wrong_root = Place { root: [0; 32], ..place };
    let file = seal(&[], &master, &wrong_root, &contents).unwrap();
    assert!(matches!(refused(&master, &file), SnapshotError::Inside(what) if what.contains("root")));
    let mut into = Writer::new(4096);
    encode(&place, &contents, &mut into);
    let body = into.finish();
    let first = contents.records["secret.00"].encode();
    let at = body.windows(first.len()).position(|window| window == &first[..]).unwrap();
    let second = contents.records["secret.01"].encode();
    for (one, two) in [(&second, &first), (&first, &first)] {
        let mut bad = body.to_vec();
        bad[at..at + first.len()].copy_from_slice(one);
        bad[at + 4 + first.len()..at + 4 + first.len() + two.len()].copy_from_slice(two);
        let decoded = decode(&bad, &master, place.vault).map(|_| ());
        assert!(matches!(decoded, Err(SnapshotError::Inside(what)) if what.contains("records")));
    }
    assert!(decode(&body, &master, place.vault).is_ok());
}

#[test]
fn store_that_would_be_too_large_is_refused_before_it_is_written() {
    let master = Master::from_bytes([1; 32]);
    let mut contents = Contents { days: Days::default(), ..contents(&master, 0) };
    let value = Secret::new(vec![b'x'; Secret::MAX]).unwrap();
    for n in 0..MAX / Secret::MAX + 1 {
        let name = format!("s{n:04}");
        let record = Record::seal(&mut contents.ring, &name, 1, 7, &Policy::default(), &value).unwrap();
        contents.records.insert(name, record);
    }
    let place = place(1, &contents);
    assert!(matches!(seal(&[], &master, &place, &contents), Err(SnapshotError::Full(_))));
    let length = loop {
        contents.records.pop_last();
        match seal(&[], &master, &Place { root: contents.root(), ..place }, &contents) {
            Ok(file) => break file.len(),
            Err(error) => assert!(matches!(error, SnapshotError::Full(_))),
        }
    };
    let uses: usize = contents.records.keys().map(|name| Budgets::length(name) + Days::length(name)).sum();
    assert!((ASKED - 2 * Secret::MAX..=ASKED + 1024).contains(&(length + uses)), "{length}");
    // However full it is, what is counted without anybody's word has room: as many failures, uses and strangers as there may be.
    let entry = Entry { first: 1, failures: 3, until: 9 };
    contents.lockouts = Table::restore((0..u32::MAX).map(|party| (Party::V4(party), entry)));
    contents.senders = crate::senders::tests::full_of_strangers();
    for name in contents.records.keys() {
        contents.budgets.count(name, u64::MAX);
        let most = u64::MAX;
        contents.days.add(name, most, Amount { bytes: most, read: most, written: most, nanodollars: most });
    }
    assert_eq!(
        Writer::length_of(|into| contents.days.encode(into)),
        contents.records.keys().map(|name| Days::length(name)).sum::<usize>() + 4
    );
    let place = Place { root: contents.root(), ..place };
    let file = seal(&[], &master, &place, &contents).unwrap();
    let counted = file.len() - length;
    assert!(counted > 115_000 && file.len() <= MAX, "{counted}");
    assert_eq!(unseal(&master, &file).unwrap().1.lockouts, contents.lockouts, "and opens");
}

proptest::proptest! {
    #[test]
    fn arbitrary_bytes_never_open_and_never_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..600)) {
        let master = Master::from_bytes([1; 32]);
        proptest::prop_assert!(unseal(&master, &bytes).is_err());
        let _ = decode(&bytes, &master, [3; 16]);
        let _ = Record::decode(&bytes);
    }
}
