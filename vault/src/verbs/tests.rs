use super::*;
use crate::auth::tests::Kept;
use crate::lease::Leases;
use crate::permit::tests::TELEGRAM;
use crate::state::State;
use crate::state::tests::Dirs;
use proto::audit::Record;

struct World {
    dirs: Dirs,
    state: State,
    leases: Leases,
    log: Kept,
}

impl World {
    fn new() -> Self {
        let dirs = Dirs::new();
        let state = dirs.open().unwrap();
        Self { dirs, state, leases: Leases::default(), log: Kept::default() }
    }

    fn ask(&mut self, verb: VaultVerb) -> Result<VaultAnswer, AskError> {
        let Self { state, leases, log, .. } = self;
        Desk { state, leases, log, now_ms: 1 }.on_verb(1000, verb)
    }

    fn put(&mut self, name: &str, value: &str, rotate: bool) -> Result<VaultAnswer, AskError> {
        let value = Secret::new(value.as_bytes().to_vec()).unwrap();
        self.ask(VaultVerb::PutSecret { name: BoundedStr::truncated(name), value, rotate })
    }

    fn policy(&mut self, name: &str, text: &str) -> Result<VaultAnswer, AskError> {
        self.ask(VaultVerb::SetPolicy { name: BoundedStr::truncated(name), text: BoundedStr::truncated(text) })
    }

    fn reveal(&mut self, name: &str) -> Result<VaultAnswer, AskError> {
        self.ask(VaultVerb::RevealSecret { name: BoundedStr::truncated(name) })
    }

    fn last(&self) -> (&str, &str, bool) {
        match self.log.records.last().unwrap() {
            Record::Secret { verb, requester, granted, .. } => (verb, requester, *granted),
            other => panic!("{other:?}"),
        }
    }
}

fn rule(outcome: Result<VaultAnswer, AskError>) -> String {
    match outcome.map(drop).unwrap_err() {
        AskError::Refused(refusal) => refusal.rule.to_string(),
        other => panic!("{other:?}"),
    }
}

fn done(outcome: Result<VaultAnswer, AskError>) -> u64 {
    match outcome.unwrap() {
        VaultAnswer::Done(number) => number,
        _ => panic!("another answer"),
    }
}

#[test]
fn each_verb_is_recorded_with_who_asked() {
    let mut world = World::new();
    assert_eq!(done(world.put("bot", "one", false)), 1);
    assert_eq!(world.last(), ("secrets.set", "operator:1000", true));
    assert_eq!(done(world.put("bot", "two", true)), 2);
    assert_eq!(done(world.policy("bot", TELEGRAM)), 3);
    assert_eq!(world.last(), ("secrets.policy.set", "operator:1000", true));
    assert_eq!(done(world.ask(VaultVerb::RotateKeys)), 2);
    assert_eq!(world.last(), ("vault.rotate", "operator:1000", true));
    world.ask(VaultVerb::RemoveSecret { name: BoundedStr::truncated("bot") }).map(drop).unwrap();
    assert_eq!(world.last(), ("secrets.remove", "operator:1000", true));
    let shown = format!("{:?}", world.log.records);
    assert!(!shown.contains("one") && !shown.contains("two"), "no value is in a record");
}

#[test]
fn value_of_a_configuration_is_taken_over_once_and_undoes_no_rotation() {
    let mut world = World::new();
    let adopt = |world: &mut World, name: &str, value: &str| {
        let value = Secret::new(value.as_bytes().to_vec()).unwrap();
        world.ask(VaultVerb::AdoptSecret { name: BoundedStr::truncated(name), value, policy: BoundedStr::default() })
    };
    assert_eq!(done(adopt(&mut world, "bot", "one")), 1);
    assert_eq!(world.last(), ("secrets.adopt", "operator:1000", true));
    assert_eq!(done(adopt(&mut world, "bot", "one")), 0);
    assert_eq!(done(world.put("bot", "two", true)), 2);
    assert_eq!(done(adopt(&mut world, "bot", "one")), 0, "what was rotated away does not come back");
    assert_eq!(world.state.open_secret("bot").unwrap().expose(), b"two");
    assert_eq!(done(adopt(&mut world, "bot", "three")), 3, "another value is meant");
    // It survives a start, and what is removed is forgotten whole.
    world.state = world.dirs.open().unwrap();
    assert_eq!(done(adopt(&mut world, "bot", "three")), 0);
    world.ask(VaultVerb::RemoveSecret { name: BoundedStr::truncated("bot") }).map(drop).unwrap();
    assert_eq!(done(adopt(&mut world, "bot", "three")), 1);
    // What the operator put in by hand is what it is, wherever it stands as well.
    assert_eq!(done(world.put("hand", "four", false)), 1);
    assert_eq!(done(adopt(&mut world, "hand", "four")), 0);
    // The gateway token is held to what it must be.
    assert_eq!(rule(adopt(&mut world, "gateway.token", "short")), "vault.short");
    assert_eq!(rule(adopt(&mut world, "gateway.token", &"ab".repeat(20))), "vault.weak");
    assert_eq!(rule(adopt(&mut world, "", "x")), "vault.name");
    assert_eq!(done(adopt(&mut world, "gateway.token", "abcdefghijklmnopqrstuvwxyz123456")), 2);
    assert!(!format!("{:?}", world.log.records).contains("three"), "no value is in a record");
}

#[test]
fn policy_that_comes_with_a_configuration_is_for_a_new_name_alone_and_stands_in_the_record() {
    let mut world = World::new();
    let adopt = |world: &mut World, value: &str, policy: &str| {
        let value = Secret::new(value.as_bytes().to_vec()).unwrap();
        let (name, policy) = (BoundedStr::truncated("bot"), BoundedStr::truncated(policy));
        world.ask(VaultVerb::AdoptSecret { name, value, policy })
    };
    assert_eq!(rule(adopt(&mut world, "one", "verb reveal")), "vault.policy");
    assert!(world.state.record("bot").is_none(), "a policy that is none leaves nothing behind");
    assert_eq!(done(adopt(&mut world, "one", TELEGRAM)), 1);
    assert_eq!(world.state.record("bot").unwrap().policy(), Policy::parse(TELEGRAM).unwrap());
    let Some(Record::Secret { detail, .. }) = world.log.records.last() else { panic!("no record") };
    assert!(detail.starts_with("version 1; verb inject; role egress; ") && detail.contains("host "), "{detail}");
    // What the operator says of it holds from then on, also where that is nothing.
    assert_eq!(done(world.policy("bot", "")), 2);
    assert_eq!(done(adopt(&mut world, "two", TELEGRAM)), 3);
    assert_eq!(world.state.record("bot").unwrap().policy(), Policy::default());
    world.state = world.dirs.open().unwrap();
    assert_eq!(world.state.record("bot").unwrap().policy(), Policy::default());
}

#[test]
fn verb_that_cannot_be_recorded_changes_nothing() {
    let mut world = World::new();
    world.log.broken = true;
    assert_eq!(rule(world.put("bot", "one", false)), "audit.unwritable");
    assert_eq!(rule(world.ask(VaultVerb::RotateKeys)), "audit.unwritable");
    assert!(world.state.record("bot").is_none() && world.state.generation() == 1);
    assert!(world.dirs.open().unwrap().record("bot").is_none());
    world.log.broken = false;
    assert_eq!(done(world.put("bot", "one", false)), 1);
}

#[test]
fn secret_is_shown_only_where_its_policy_says_so() {
    let mut world = World::new();
    world.put("bot", "one", false).map(drop).unwrap();
    assert_eq!(rule(world.reveal("bot")), "vault.reveal");
    assert_eq!(world.last(), ("secrets.reveal", "operator:1000", false));
    world.policy("bot", TELEGRAM).map(drop).unwrap();
    assert_eq!(rule(world.reveal("bot")), "vault.reveal");
    world.policy("bot", "reveal yes\nhoney yes").map(drop).unwrap();
    assert_eq!(rule(world.reveal("bot")), "vault.honey");
    world.policy("bot", "reveal yes").map(drop).unwrap();
    assert!(matches!(world.reveal("bot").unwrap(), VaultAnswer::Revealed(value) if value.expose() == b"one"));
    assert_eq!(world.last(), ("secrets.reveal", "operator:1000", true));
}

#[test]
fn wrong_name_value_or_policy_is_refused_by_its_own_rule_and_changes_nothing() {
    let mut world = World::new();
    world.put("bot", "one", false).map(drop).unwrap();
    let generation = world.state.generation();
    for name in ["", "Bot", "9bot", "bot/../x", "b\0t"] {
        assert_eq!(rule(world.put(name, "x", false)), "vault.name", "{name}");
    }
    assert_eq!(rule(world.put("other", "", false)), "vault.empty");
    assert_eq!(rule(world.put("bot", "two", false)), "vault.exists");
    assert_eq!(rule(world.put("none", "two", true)), "vault.no_such_secret");
    assert_eq!(rule(world.policy("none", "")), "vault.no_such_secret");
    assert_eq!(rule(world.policy("bot", "hosts x.org")), "vault.policy");
    assert_eq!(rule(world.reveal("none")), "vault.no_such_secret");
    assert_eq!(rule(world.ask(VaultVerb::ApproveUse { name: BoundedStr::truncated("bot") })), "vault.approval");
    assert_eq!(rule(world.put(GATEWAY_TOKEN, "short", true)), "vault.short");
    assert_eq!(rule(world.policy(GATEWAY_TOKEN, "")), "vault.reserved");
    let name = BoundedStr::truncated(GATEWAY_TOKEN);
    assert_eq!(rule(world.ask(VaultVerb::RemoveSecret { name })), "vault.reserved");
    assert_eq!(world.state.generation(), generation);
    assert_eq!(rule(world.put(GATEWAY_TOKEN, &"a".repeat(31), true)), "vault.short");
    assert_eq!(rule(world.put(GATEWAY_TOKEN, &"x".repeat(43), true)), "vault.weak");
    assert_eq!(done(world.put(GATEWAY_TOKEN, "abcdefghijklmnopqrstuvwxyz123456", true)), 2);
}

#[test]
fn failure_after_its_record_is_recorded_too() {
    let mut world = World::new();
    let block = world.dirs.dir.path().join("vault/vault.db.new");
    std::fs::write(&block, b"").unwrap();
    assert_eq!(rule(world.put("bot", "one", false)), "vault.unwritable");
    assert_eq!(world.last(), ("secrets.set", "operator:1000", false));
    assert!(world.state.record("bot").is_none());
    std::fs::remove_file(block).unwrap();
    assert_eq!(done(world.put("bot", "one", false)), 1);
}

#[test]
fn leases_are_revoked_even_where_that_cannot_be_recorded() {
    let mut world = World::new();
    let grant = Policy::parse(TELEGRAM).unwrap().grant.unwrap();
    let to = proto::vault::Destination { host: BoundedStr::truncated("api.telegram.org"), port: 443 };
    let id = proto::vault::LeaseId([1; 16]);
    world.leases.give(id, proto::ids::Role::Egress, "bot", 1, &grant, &to, [0; 32], 1);
    world.log.broken = true;
    assert_eq!(rule(world.ask(VaultVerb::RevokeLeases)), "audit.unwritable");
    world.log.broken = false;
    assert_eq!(done(world.ask(VaultVerb::RevokeLeases)), 0);
}

#[test]
fn unlock_forgets_every_lockout_for_good() {
    let mut world = World::new();
    let party = crate::lockout::Party::parse("192.0.2.1").unwrap();
    for _ in 0..5 {
        world.state.lockouts().failed(party, 100);
    }
    world.state.persist().unwrap();
    assert!(world.dirs.open().unwrap().lockouts().locked(party, 100).is_some());
    assert_eq!(done(world.ask(VaultVerb::ForgetLockouts)), 1);
    assert_eq!(world.dirs.open().unwrap().lockouts().locked(party, 100), None);
}

#[test]
fn list_goes_page_by_page_and_shows_no_value() {
    let mut world = World::new();
    let policy = Policy::parse(TELEGRAM).unwrap();
    for n in 0..70 {
        // Two of them are one.
        let value = Secret::new(format!("value {}", if n == 1 { 0 } else { n }).into_bytes()).unwrap();
        world.state.put(&format!("n{n:03}"), &value, Some(&policy), 7).unwrap();
    }
    let mut page =
        |after: &str| match world.ask(VaultVerb::ListSecrets { after: BoundedStr::truncated(after) }).unwrap() {
            VaultAnswer::Secrets(rows) => rows.into_vec(),
            _ => panic!("another answer"),
        };
    let first = page("");
    assert_eq!((first.len(), first[0].name.as_str(), first[1].verb.as_str()), (64, GATEWAY_TOKEN, "inject"));
    assert_eq!(page(first[63].name.as_str()).len(), 7);
    assert_eq!(first[1].budget, Some(1000));
    let shared: Vec<&str> = first.iter().filter(|row| row.shared).map(|row| row.name.as_str()).collect();
    assert_eq!(shared, ["n000", "n001"]);
}

#[test]
fn equal_values_are_found_anew_whenever_a_secret_changed() {
    let mut world = World::new();
    let put = |world: &mut World, name: &str, value: &str| {
        world.state.put(name, &Secret::new(value.as_bytes().to_vec()).unwrap(), None, 7).map(drop).unwrap();
    };
    let shared = |world: &mut World| -> Vec<String> {
        match world.ask(VaultVerb::ListSecrets { after: BoundedStr::default() }).unwrap() {
            VaultAnswer::Secrets(rows) => {
                rows.iter().filter(|row| row.shared).map(|row| row.name.to_string()).collect()
            }
            _ => panic!("another answer"),
        }
    };
    put(&mut world, "a", "one");
    put(&mut world, "b", "two");
    assert!(shared(&mut world).is_empty());
    put(&mut world, "b", "one");
    assert_eq!(shared(&mut world), ["a", "b"]);
    // As it is sealed anew, and as one of them goes.
    world.state.rotate_keys(8).unwrap();
    assert_eq!(shared(&mut world), ["a", "b"]);
    world.state.remove("a").unwrap();
    assert!(shared(&mut world).is_empty());
}
