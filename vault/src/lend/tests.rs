use super::*;
use crate::auth::tests::Kept;
use crate::permit::Policy;
use crate::permit::tests::TELEGRAM;
use crate::state::tests::Dirs;
use proto::bounded::BoundedBytes;
use proto::vault::CredentialSlot;

const NOW: u64 = 5_000_000;

struct World {
    dirs: Dirs,
    state: State,
    leases: Leases,
    log: Kept,
}

impl World {
    fn new(policy: &str) -> Self {
        let dirs = Dirs::new();
        let mut state = dirs.open().unwrap();
        let policy = Policy::parse(policy).unwrap();
        state.put("bot", &Secret::new(b"value".to_vec()).unwrap(), Some(&policy), 1).unwrap();
        Self { dirs, state, leases: Leases::default(), log: Kept::default() }
    }

    fn ask(&mut self, request: LeaseRequest) -> Result<LeaseReply, AskError> {
        let Self { state, leases, log, .. } = self;
        Desk { state, leases, log, now_ms: NOW }.on_lease(request)
    }

    fn last(&self) -> (&str, bool, &str) {
        match self.log.records.last().unwrap() {
            Record::Secret { verb, granted, detail, .. } => (verb, *granted, detail),
            other => panic!("{other:?}"),
        }
    }
}

fn there() -> Destination {
    Destination { host: BoundedStr::truncated("api.telegram.org"), port: 443 }
}

fn lease(name: &str) -> LeaseRequest {
    let (method, path) = (BoundedStr::truncated("POST"), BoundedStr::truncated("/bot/send"));
    LeaseRequest::Lease {
        session: proto::ids::SessionKey(BoundedStr::truncated("agent:main:main")),
        credential: BoundedStr::truncated(name),
        to: there(),
        method,
        path,
        digest: [1; 32],
    }
}

fn id(reply: LeaseReply) -> LeaseId {
    match reply {
        LeaseReply::Leased {
            lease,
            slot: CredentialSlot::Header { name, prefix },
            ttl_ms: 20_000,
            bytes: None,
            ..
        } if name.as_str() == "authorization" => {
            assert_eq!(prefix.as_str(), "Bearer ");
            lease
        }
        _ => panic!("not leased"),
    }
}

fn rule<T>(outcome: Result<T, AskError>) -> String {
    match outcome.map(drop).unwrap_err() {
        AskError::Refused(refusal) => refusal.rule.to_string(),
        other => panic!("{other:?}"),
    }
}

fn redeem(lease: LeaseId) -> LeaseRequest {
    LeaseRequest::Redeem { lease, to: there(), digest: [1; 32] }
}

#[test]
fn secret_that_changed_since_is_not_what_was_leased() {
    for change in ["rotate", "policy", "remove"] {
        let mut world = World::new(TELEGRAM);
        let lent = id(world.ask(lease("bot")).unwrap());
        let value = Secret::new(b"new".to_vec()).unwrap();
        match change {
            "rotate" => world.state.put("bot", &value, None, 2).map(drop),
            "policy" => world.state.set_policy("bot", &Policy::default(), 2).map(drop),
            _ => world.state.remove("bot"),
        }
        .unwrap();
        assert_eq!(rule(world.ask(redeem(lent))), "vault.no_lease", "{change}");
        assert!(!world.last().1);
    }
    let mut world = World::new(TELEGRAM);
    let lent = id(world.ask(lease("bot")).unwrap());
    assert!(matches!(world.ask(redeem(lent)), Ok(LeaseReply::Redeemed(value)) if value.expose() == b"value"));
}

#[test]
fn nothing_is_leased_or_redeemed_that_cannot_be_recorded() {
    let mut world = World::new(TELEGRAM);
    let lent = id(world.ask(lease("bot")).unwrap());
    world.log.broken = true;
    assert_eq!(rule(world.ask(lease("bot"))), "audit.unwritable");
    assert_eq!(rule(world.ask(redeem(lent))), "audit.unwritable");
    world.log.broken = false;
    assert_eq!(rule(world.ask(redeem(lent))), "vault.no_lease", "one try is one use");
    let lent = id(world.ask(lease("bot")).unwrap());
    assert!(world.ask(redeem(lent)).is_ok());
}

#[test]
fn budget_outlives_a_restart() {
    let mut world = World::new(&TELEGRAM.replace("budget 1000", "budget 2"));
    for _ in 0..2 {
        world.state = world.dirs.open().unwrap();
        world.ask(lease("bot")).map(drop).unwrap();
    }
    world.state = world.dirs.open().unwrap();
    assert_eq!(rule(world.ask(lease("bot"))), "vault.budget");
    world.state.put("bot", &Secret::new(b"new".to_vec()).unwrap(), None, 2).unwrap();
    assert!(world.ask(lease("bot")).is_ok());
}

#[test]
fn secret_that_was_given_for_another_goes_where_its_policy_says_and_nowhere_else() {
    let text = TELEGRAM
        .replace("verb inject", "verb refresh")
        .replace("header authorization\nprefix \"Bearer \"\n", "into key\nclient me\n");
    let value = |text: &str| Secret::new(text.as_bytes().to_vec()).unwrap();
    let mut world = World::new(&text);
    let policy = Policy::parse(TELEGRAM).unwrap();
    let store = |lease| LeaseRequest::Store { lease, access: value("access-1"), refresh: Some(value("refresh-2")) };
    let redeemed = |world: &mut World| {
        let Ok(LeaseReply::Leased { lease: lent, renews: Some(client), counted: false, .. }) = world.ask(lease("bot"))
        else {
            panic!("not leased")
        };
        assert_eq!(client.as_str(), "me");
        assert!(matches!(world.ask(redeem(lent)), Ok(LeaseReply::Redeemed(_))));
        lent
    };
    let lent = redeemed(&mut world);
    assert_eq!(rule(world.ask(store(lent))), "vault.no_grant", "there is no such secret: none is made");
    assert!(!world.last().1);
    world.state.put("key", &value("access-0"), Some(&policy), 1).unwrap();
    let lent = redeemed(&mut world);
    assert!(matches!(world.ask(store(lent)), Ok(LeaseReply::Stored(2))));
    assert_eq!((world.last().0, world.last().1), ("refresh", true));
    assert_eq!(rule(world.ask(store(lent))), "vault.no_lease", "once is once");
    assert_eq!(world.state.open_secret("key").unwrap().expose(), b"access-1");
    assert_eq!(world.state.open_secret("bot").unwrap().expose(), b"refresh-2");
    assert_eq!(world.state.record("key").unwrap().policy(), policy, "it is used as the one before");
    // A lease of another verb stores nothing.
    let Ok(LeaseReply::Leased { lease: lent, renews: None, .. }) = world.ask(lease("key")) else {
        panic!("not leased")
    };
    assert!(world.ask(redeem(lent)).is_ok());
    assert_eq!(rule(world.ask(store(lent))), "vault.verb");
    let lent = redeemed(&mut world);
    world.log.broken = true;
    assert_eq!(rule(world.ask(store(lent))), "audit.unwritable");
    assert_eq!(world.state.open_secret("key").unwrap().expose(), b"access-1");
}

#[test]
fn secret_that_a_role_had_given_anew_begins_no_rate_and_no_budget() {
    let value = |text: &str| Secret::new(text.as_bytes().to_vec()).unwrap();
    let refreshes = |bounds: &str| {
        let text = TELEGRAM
            .replace("verb inject", "verb refresh")
            .replace("header authorization\nprefix \"Bearer \"\n", "into key\n");
        text.replace("rate 30/60\nbudget 1000\n", bounds)
    };
    for (bounds, denial) in [("rate 2/60\n", "vault.rate"), ("budget 2\n", "vault.budget")] {
        let mut world = World::new(&refreshes(bounds));
        let policy = Policy::parse(&TELEGRAM.replace("rate 30/60\nbudget 1000\n", bounds)).unwrap();
        world.state.put("key", &value("access-0"), Some(&policy), 1).unwrap();
        // A fallen egress says that a server gave it what it had anyway.
        for round in 0..2 {
            world.ask(lease("key")).map(drop).unwrap();
            let Ok(LeaseReply::Leased { lease: lent, .. }) = world.ask(lease("bot")) else { panic!("not leased") };
            assert!(matches!(world.ask(redeem(lent)), Ok(LeaseReply::Redeemed(_))));
            let store = LeaseRequest::Store { lease: lent, access: value("access-0"), refresh: Some(value("value")) };
            assert!(matches!(world.ask(store), Ok(LeaseReply::Stored(version)) if version == round + 2));
            // Nor does a start begin what is on disk.
            if denial == "vault.budget" {
                world.state = world.dirs.open().unwrap();
            }
        }
        assert_eq!(rule(world.ask(lease("key"))), denial);
        assert_eq!(rule(world.ask(lease("bot"))), denial);
        // The twin: the operator's word begins both.
        world.state.put("key", &value("new"), None, 2).unwrap();
        world.leases.forget("key");
        assert!(world.ask(lease("key")).is_ok());
    }
}

#[test]
fn what_a_day_may_move_and_cost_outlives_a_restart_and_a_rotation() {
    let spent = |lease| LeaseRequest::Spent { lease, bytes: 100, read: 1_000, written: 100 };
    for bound in ["day-bytes 150", "day-tokens 2200", "day-usd 0.009\nprice 3/15"] {
        let mut world = World::new(&format!("{TELEGRAM}{bound}\n"));
        for _ in 0..2 {
            let Ok(LeaseReply::Leased { lease: lent, counted: true, .. }) = world.ask(lease("bot")) else {
                panic!("not leased")
            };
            assert_eq!(rule(world.ask(spent(lent))), "vault.no_lease", "nothing was sent with it yet");
            assert!(world.ask(redeem(lent)).is_ok());
            assert!(matches!(world.ask(spent(lent)), Ok(LeaseReply::Counted)));
            assert_eq!(rule(world.ask(spent(lent))), "vault.no_lease", "once is once");
        }
        assert_eq!(rule(world.ask(lease("bot"))), "vault.day", "{bound}");
        assert!(!world.last().1 && world.last().2.starts_with("vault.day"));
        world.state = world.dirs.open().unwrap();
        world.state.put("bot", &Secret::new(b"new".to_vec()).unwrap(), None, 2).unwrap();
        assert_eq!(rule(world.ask(lease("bot"))), "vault.day", "{bound}");
        let policy = Policy::parse(&format!("{TELEGRAM}day-bytes 1000000\n")).unwrap();
        world.state.set_policy("bot", &policy, 3).unwrap();
        assert!(world.ask(lease("bot")).is_ok());
    }
    let mut world = World::new(TELEGRAM);
    assert!(matches!(world.ask(lease("bot")), Ok(LeaseReply::Leased { counted: false, .. })));
}

#[test]
fn honey_secret_gives_nobody_anything_and_is_recorded_as_such() {
    let mut world = World::new(&format!("{TELEGRAM}honey yes\n"));
    assert!(matches!(world.ask(lease("bot")), Err(AskError::Honey(name)) if name == "bot"));
    assert_eq!(world.last().0, "honey");
    world.log.broken = true;
    assert!(matches!(world.ask(lease("bot")), Err(AskError::Honey(_))), "broker hears of it all the same");
}

#[test]
fn signature_is_made_without_the_key_leaving() {
    let text = TELEGRAM.replace("verb inject", "verb sign").replace("header authorization\nprefix \"Bearer \"\n", "");
    let mut world = World::new(&text);
    let Ok(LeaseReply::Leased { lease: lent, .. }) = world.ask(lease("bot")) else { panic!("not leased") };
    assert_eq!(rule(world.ask(redeem(lent))), "vault.lease_bound", "a secret that signs is not given out");
    let Ok(LeaseReply::Leased { lease: lent, .. }) = world.ask(lease("bot")) else { panic!("not leased") };
    let message = BoundedBytes::new(b"message".to_vec()).unwrap();
    let signed = world.ask(LeaseRequest::Sign { lease: lent, to: there(), digest: [1; 32], message }).unwrap();
    let mut expected = Hmac::<Sha256>::new_from_slice(b"value").unwrap();
    expected.update(b"message");
    let expected: [u8; 32] = expected.finalize().into_bytes().into();
    assert!(matches!(signed, LeaseReply::Signed(code) if code == expected));
}

#[test]
fn release_is_recorded_and_ends_the_lease() {
    let mut world = World::new(TELEGRAM);
    let lent = id(world.ask(lease("bot")).unwrap());
    assert!(matches!(world.ask(LeaseRequest::Release { lease: lent }), Ok(LeaseReply::Released)));
    assert_eq!(world.last().0, "release");
    let records = world.log.records.len();
    assert!(matches!(world.ask(LeaseRequest::Release { lease: lent }), Ok(LeaseReply::Released)));
    assert_eq!(world.log.records.len(), records, "nothing happened, so nothing is written");
    assert_eq!(rule(world.ask(redeem(lent))), "vault.no_lease");
}

#[test]
fn refusal_names_the_rule_and_is_recorded() {
    let mut world = World::new("");
    assert_eq!(rule(world.ask(lease("bot"))), "vault.no_grant");
    assert!(!world.last().1 && world.last().2.starts_with("vault.no_grant"));
    assert_eq!(rule(world.ask(lease("none"))), "vault.no_such_credential");
    assert_eq!(rule(World::new(&format!("{TELEGRAM}approval yes\n")).ask(lease("bot"))), "vault.approval");
}
