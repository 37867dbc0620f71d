use super::*;
use crate::auth::AskError;
use crate::auth::tests::Kept;
use crate::keys::Master;
use crate::lease::Leases;
use crate::lend::Desk;
use crate::state::State;
use crate::state::tests::Dirs;
use proto::audit::Record;
use proto::bounded::BoundedStr;
use proto::ids::SessionKey;
use proto::secret::Secret;
use proto::transcripts::{TranscriptId, TranscriptKey, TranscriptRequest, TranscriptVerb};
use proto::vault::{VaultAnswer, VaultReply};

const NOW: u64 = 1_795_431_600;

/// A table with something in every field, for tests of the store.
pub(crate) fn some(ring: &mut Keyring) -> Transcripts {
    let mut transcripts = Transcripts::default();
    for n in 1..=3 {
        transcripts.add(ring, [n; 16], "agent:main:main", Begins::Open, 7, &Key::new([n; 32])).unwrap();
    }
    transcripts
}

struct World {
    dirs: Dirs,
    state: State,
    log: Kept,
}

fn key_of(session: &str) -> SessionKey {
    SessionKey(BoundedStr::truncated(session))
}

impl World {
    fn new() -> Self {
        let dirs = Dirs::new();
        let state = dirs.open().unwrap();
        Self { dirs, state, log: Kept::default() }
    }

    fn with<T>(&mut self, act: impl FnOnce(&mut Desk<'_, Kept>) -> T) -> T {
        let mut leases = Leases::default();
        act(&mut Desk { state: &mut self.state, leases: &mut leases, log: &mut self.log, now_ms: 1 })
    }

    fn ask(&mut self, request: TranscriptRequest) -> Result<TranscriptKey, AskError> {
        match self.with(|desk| desk.on_transcript(&request, NOW))? {
            VaultReply::Transcript(key) => Ok(key),
            VaultReply::Accepted => Ok(TranscriptKey::new([0; 32])),
            other => panic!("{other:?}"),
        }
    }

    fn make(&mut self, session: &str, id: u8) -> Result<TranscriptKey, AskError> {
        self.ask(TranscriptRequest::Make { session: key_of(session), id: TranscriptId([id; 16]) })
    }

    fn open(&mut self, session: &str, id: u8) -> Result<TranscriptKey, AskError> {
        self.ask(TranscriptRequest::Open { session: key_of(session), id: TranscriptId([id; 16]) })
    }

    fn verb(&mut self, verb: &TranscriptVerb) -> Result<VaultAnswer, AskError> {
        self.with(|desk| desk.on_transcript_verb(1000, verb))
    }

    fn reveal(&mut self, id: u8) -> TranscriptKey {
        match self.verb(&TranscriptVerb::Reveal { id: TranscriptId([id; 16]) }).unwrap() {
            VaultAnswer::Transcript(key) => key,
            _ => panic!("another answer"),
        }
    }

    fn last(&self) -> (String, bool) {
        match self.log.records.last().unwrap() {
            Record::Secret { verb, granted, .. } => (verb.to_string(), *granted),
            other => panic!("{other:?}"),
        }
    }
}

fn rule<T>(outcome: Result<T, AskError>) -> String {
    match outcome.map(drop).unwrap_err() {
        AskError::Refused(refusal) => refusal.rule.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn key_that_was_made_is_opened_again_after_a_restart_and_after_every_rotation() {
    let mut world = World::new();
    let made = world.make("a", 1).unwrap();
    assert_eq!(world.last(), ("transcript.make".into(), true));
    world.state = world.dirs.open().unwrap();
    assert!(world.open("a", 1).unwrap() == made);
    assert_eq!(world.last(), ("transcript.open".into(), true));
    world.state.rotate_keys(NOW).unwrap();
    world.state.set_passphrase(Some(&Secret::new(b"correct horse battery".to_vec()).unwrap())).unwrap();
    assert!(world.open("a", 1).unwrap() == made);
    world.state.set_passphrase(None).unwrap();
    world.state = world.dirs.open().unwrap();
    assert!(world.open("a", 1).unwrap() == made);
    assert!(world.make("b", 2).unwrap() != made);
}

#[test]
fn lines_are_counted_upwards_alone_without_a_record_and_survive_an_orderly_end() {
    let mut world = World::new();
    world.make("a", 1).unwrap();
    let told = |world: &mut World, id: u8, lines: u64| {
        let World { state, log, .. } = world;
        let mut desk = Desk { state, leases: &mut Leases::default(), log, now_ms: 1 };
        match desk.on_transcript(&TranscriptRequest::Wrote { id: TranscriptId([id; 16]), lines }, 7)? {
            VaultReply::Lines(known) => Ok(known),
            _ => panic!("another answer"),
        }
    };
    let (records, generation) = (world.log.records.len(), world.state.generation());
    assert_eq!(told(&mut world, 1, 5).unwrap(), 5);
    assert_eq!(told(&mut world, 1, 0).unwrap(), 5, "nobody takes lines back");
    assert_eq!(rule(told(&mut world, 9, 1)), "transcript.unknown");
    assert_eq!((world.log.records.len(), world.state.generation()), (records, generation), "a word is cheap");
    world.state.settle().unwrap();
    world.state.settle().unwrap();
    assert_eq!(world.state.generation(), generation + 1);
    world.state = world.dirs.open().unwrap();
    assert_eq!(told(&mut world, 1, 3).unwrap(), 5);
    // After enough words it is on disk by itself, also under the next term of the ring.
    for lines in 6..6 + 64 {
        told(&mut world, 1, lines).unwrap();
    }
    world.state.rotate_keys(8).unwrap();
    world.state = world.dirs.open().unwrap();
    assert_eq!(told(&mut world, 1, 0).unwrap(), 69);
}

#[test]
fn closed_foreign_and_unknown_transcripts_are_not_opened_and_each_attempt_is_recorded() {
    let mut world = World::new();
    let old = world.make("a", 1).unwrap();
    world.make("b", 3).unwrap();
    // A new one closes the one before, of this conversation and no other.
    world.make("a", 2).unwrap();
    for (session, id, expected) in [
        ("a", 1, "transcript.closed"),
        ("a", 3, "transcript.foreign"),
        ("b", 2, "transcript.foreign"),
        ("a", 9, "transcript.unknown"),
    ] {
        assert_eq!(rule(world.open(session, id)), expected);
        assert_eq!(world.last(), ("transcript.open".into(), false));
    }
    assert_eq!(rule(world.make("a", 2)), "transcript.exists");
    assert_eq!(rule(world.make("", 4)), "transcript.session");
    assert_eq!(rule(world.make("a b", 4)), "transcript.session");
    world.open("b", 3).unwrap();
    world.ask(TranscriptRequest::Close { id: TranscriptId([3; 16]) }).unwrap();
    world.state = world.dirs.open().unwrap();
    assert_eq!(rule(world.open("b", 3)), "transcript.closed");
    // The operator reads what gateway may not, recorded.
    assert!(world.reveal(1) == old);
    assert_eq!(world.last(), ("sessions.show".into(), true));
}

#[test]
fn destroyed_key_is_gone_from_the_store_and_for_everybody() {
    let mut world = World::new();
    world.make("a", 1).unwrap();
    let destroy = TranscriptVerb::Destroy { id: TranscriptId([1; 16]) };
    world.verb(&destroy).map(drop).unwrap();
    assert_eq!(world.last(), ("sessions.delete".into(), true));
    world.state = world.dirs.open().unwrap();
    assert_eq!(world.state.contents().transcripts.iter().count(), 0);
    assert_eq!(rule(world.open("a", 1)), "transcript.unknown");
    assert_eq!(rule(world.verb(&TranscriptVerb::Reveal { id: TranscriptId([1; 16]) })), "transcript.unknown");
    assert_eq!(rule(world.verb(&destroy)), "transcript.unknown");
    assert_eq!(world.last(), ("sessions.delete".into(), false));
}

#[test]
fn what_cannot_be_recorded_or_stored_has_not_happened() {
    let mut world = World::new();
    world.make("a", 1).unwrap();
    let destroy = TranscriptVerb::Destroy { id: TranscriptId([1; 16]) };
    world.log.broken = true;
    assert_eq!(rule(world.make("b", 2)), "audit.unwritable");
    assert_eq!(rule(world.open("a", 1)), "audit.unwritable");
    assert_eq!(rule(world.verb(&destroy)), "audit.unwritable");
    world.log.broken = false;
    let block = world.dirs.dir.path().join("vault/vault.db.new");
    std::fs::write(&block, b"").unwrap();
    assert_eq!(rule(world.make("b", 2)), "vault.unwritable");
    assert_eq!(rule(world.verb(&destroy)), "vault.unwritable");
    assert_eq!(world.last(), ("sessions.delete".into(), false));
    std::fs::remove_file(block).unwrap();
    world.open("a", 1).unwrap();
    world.make("b", 2).unwrap();
}

#[test]
fn table_is_bounded_and_fits_into_a_store_with_its_longest_names() {
    let mut world = World::new();
    let mut ring = Keyring::make(&Master::from_bytes([1; 32]), [3; 16], 7).unwrap();
    let mut transcripts = Transcripts::default();
    let session = "s".repeat(MAX_SESSION);
    for n in 0..u128::try_from(MOST).unwrap() {
        transcripts.check_new(&session, &n.to_be_bytes()).unwrap();
        transcripts.add(&mut ring, n.to_be_bytes(), &session, Begins::Open, 7, &Key::new([1; 32])).unwrap();
    }
    assert_eq!(transcripts.check_new(&session, &[0xff; 16]), Err(TranscriptError::Full));
    let mut into = Writer::new(1024);
    transcripts.encode(&mut into);
    let bytes = into.finish();
    assert!(bytes.len() < crate::snapshot::MAX / 2, "{}", bytes.len());
    assert!(Transcripts::decode(&mut Reader::new(&bytes)) == Some(transcripts));
    world.make("a", 1).unwrap();
    let VaultAnswer::Transcripts(rows) = world.verb(&TranscriptVerb::List { after: None }).unwrap() else {
        panic!("no rows")
    };
    assert_eq!((rows.len(), rows[0].open, rows[0].session.0.as_str()), (1, true, "a"));
}

#[test]
fn wrapped_key_of_one_transcript_is_not_taken_for_anothers() {
    let mut ring = Keyring::make(&Master::from_bytes([1; 32]), [3; 16], 7).unwrap();
    let mut transcripts = some(&mut ring);
    let other = transcripts.entries[&[2; 16]].clone();
    transcripts.entries.insert([1; 16], other);
    assert!(transcripts.key(&ring, &[1; 16]).is_err());
    assert_eq!(transcripts.key(&ring, &[2; 16]).unwrap().unwrap().expose(), &[2; 32]);
    let entry = transcripts.entries.get_mut(&[2; 16]).unwrap();
    entry.session = "agent:main:other".to_owned();
    assert!(transcripts.key(&ring, &[2; 16]).is_err());
}

#[test]
fn imported_transcript_is_the_operators_alone_and_closes_none() {
    let mut world = World::new();
    let open = world.make("a", 1).unwrap();
    let import = |id| TranscriptVerb::Import { session: key_of("a"), id: TranscriptId([id; 16]) };
    let VaultAnswer::Transcript(imported) = world.verb(&import(2)).unwrap() else { panic!("another answer") };
    assert_eq!(world.last(), ("sessions.import".into(), true));
    assert!(world.reveal(2) == imported && imported != open);
    assert_eq!(rule(world.open("a", 2)), "transcript.closed");
    assert!(world.open("a", 1).unwrap() == open, "the one that was open still is");
    assert_eq!(rule(world.verb(&import(2))), "transcript.exists");
    assert_eq!(world.last(), ("sessions.import".into(), false));
    world.state = world.dirs.open().unwrap();
    assert!(world.reveal(2) == imported);
}
