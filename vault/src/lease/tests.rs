use super::*;
use crate::permit::tests::TELEGRAM;
use proptest::prelude::*;
use proto::bounded::BoundedStr;

const NOW: u64 = 5_000_000;
const ID: LeaseId = LeaseId([9; 16]);

fn grant(extra: &str) -> Grant {
    Policy::parse(&format!("{TELEGRAM}{extra}")).unwrap().grant.unwrap()
}

fn to(host: &str, port: u16) -> Destination {
    Destination { host: BoundedStr::truncated(host), port }
}

fn telegram() -> Destination {
    to("api.telegram.org", 443)
}

fn asked(role: Role, to: &Destination, method: &str, path: &str) -> Result<(), Denial> {
    grant("").allows(role, Wish { to, method, path })
}

#[test]
fn request_that_the_policy_names_in_every_part_is_allowed_and_no_other() {
    let there = telegram();
    for path in ["/bot", "/bot/send", "/bot?chat=1", "/bot/a/b?x=%2F.."] {
        assert_eq!(asked(Role::Egress, &there, "POST", path), Ok(()), "{path}");
    }
    for role in [Role::Gateway, Role::Sandboxd, Role::Dialer, Role::Auditd, Role::Launcher, Role::Broker] {
        assert_eq!(asked(role, &there, "POST", "/bot"), Err(Denial::Verb));
    }
    for (host, port) in [
        ("api.telegram.org", 80),
        ("API.telegram.org", 443),
        ("api.telegram.org.", 443),
        ("api.telegram.org.evil.org", 443),
        ("telegram.org", 443),
        ("", 443),
    ] {
        assert_eq!(asked(Role::Egress, &to(host, port), "POST", "/bot"), Err(Denial::Destination), "{host}:{port}");
    }
    for method in ["PUT", "post", "POST ", ""] {
        assert_eq!(asked(Role::Egress, &there, method, "/bot"), Err(Denial::Method), "{method}");
    }
    for path in [
        "",
        "bot",
        "/",
        "/bots",
        "/Bot",
        "/bot/../admin",
        "/bot/./x",
        "/bot/..",
        "/bot//x",
        "/bot%2f..%2fadmin",
        "/bot/%2e%2e/x",
        "/bot/%252e%252e/x",
        "/bot/..;/x",
        "/bot\\..\\x",
        "/bot#x",
        "/bot /x",
        "/bot\r\nx",
        "/bot?a b",
        "/bot?a#b",
        "/bot/\u{e9}",
    ] {
        assert_eq!(asked(Role::Egress, &there, "POST", path), Err(Denial::Path), "{path}");
    }
}

#[test]
fn empty_policy_grants_nothing() {
    assert_eq!(granted(&Policy::default()).map(drop), Err(Denial::NoGrant));
    assert!(granted(&Policy::parse(TELEGRAM).unwrap()).is_ok());
}

fn given(ttl: &str) -> Leases {
    let mut leases = Leases::default();
    let grant = grant("");
    let grant = Grant { ttl: ttl.parse().unwrap(), ..grant };
    leases.give(ID, Role::Egress, "bot", 3, &grant, &telegram(), [1; 32], NOW);
    leases
}

#[test]
fn lease_is_taken_once_for_what_it_was_given() {
    let mut leases = given("20");
    let lease = leases.take(ID, Role::Egress, Verb::Inject, &telegram(), &[1; 32], NOW + 19_999).unwrap();
    assert_eq!((lease.name.as_str(), lease.version), ("bot", 3));
    let again = leases.take(ID, Role::Egress, Verb::Inject, &telegram(), &[1; 32], NOW);
    assert_eq!(again, Err((Denial::NoLease, None)));
}

#[test]
fn lease_that_is_shown_wrongly_is_over() {
    let other = to("api.telegram.org", 444);
    for (role, verb, to, digest) in [
        (Role::Gateway, Verb::Inject, telegram(), [1; 32]),
        (Role::Egress, Verb::Sign, telegram(), [1; 32]),
        (Role::Egress, Verb::Inject, other, [1; 32]),
        (Role::Egress, Verb::Inject, telegram(), [2; 32]),
    ] {
        let mut leases = given("20");
        assert_eq!(leases.take(ID, role, verb, &to, &digest, NOW), Err((Denial::Bound, Some("bot".to_owned()))));
        let right = leases.take(ID, Role::Egress, Verb::Inject, &telegram(), &[1; 32], NOW);
        assert_eq!(right, Err((Denial::NoLease, None)));
    }
    let mut leases = given("20");
    let unknown = leases.take(LeaseId([8; 16]), Role::Egress, Verb::Inject, &telegram(), &[1; 32], NOW);
    assert_eq!(unknown, Err((Denial::NoLease, None)));
    assert!(leases.take(ID, Role::Egress, Verb::Inject, &telegram(), &[1; 32], NOW).is_ok(), "a guess costs nobody");
}

#[test]
fn lease_lives_as_long_as_its_policy_says_and_never_over_a_minute() {
    for (ttl, lives) in [("1", 1_000), ("20", 20_000), ("60", 60_000), ("999", 60_000)] {
        let late = given(ttl).take(ID, Role::Egress, Verb::Inject, &telegram(), &[1; 32], NOW + lives);
        assert_eq!(late, Err((Denial::NoLease, None)), "{ttl}");
        assert!(given(ttl).take(ID, Role::Egress, Verb::Inject, &telegram(), &[1; 32], NOW + lives - 1).is_ok());
    }
}

#[test]
fn ended_and_released_leases_are_gone() {
    let mut leases = given("20");
    leases.approve("bot", 3);
    assert_eq!(leases.end_all(NOW), (1, vec!["bot".to_owned()]));
    assert_eq!(leases.end_all(NOW), (0, Vec::new()));
    assert_eq!(leases.spend("bot", 3, &Grant { approval: true, ..grant("") }, 0, NOW), Err(Denial::Approval));
    let mut leases = given("20");
    assert!(!leases.release(ID, Role::Gateway), "another role's");
    assert!(leases.release(ID, Role::Egress) && !leases.release(ID, Role::Egress));
    assert_eq!(given("20").end_all(NOW + 20_000), (0, Vec::new()), "an expired one is not counted");
}

#[test]
fn rate_counts_within_its_window() {
    let (mut leases, grant) = (Leases::default(), grant(""));
    for _ in 0..30 {
        leases.spend("bot", 1, &grant, 0, NOW).unwrap();
    }
    assert_eq!(leases.spend("bot", 1, &grant, 0, NOW + 59_999), Err(Denial::Rate));
    assert_eq!(leases.spend("other", 1, &grant, 0, NOW), Ok(()));
    assert_eq!(leases.spend("bot", 1, &grant, 0, NOW + 60_000), Ok(()));
}

#[test]
fn budget_is_for_good_and_an_approval_is_for_one_use_of_one_version() {
    let mut leases = Leases::default();
    assert_eq!(leases.spend("bot", 1, &grant(""), 1_000, NOW), Err(Denial::Budget));
    assert_eq!(leases.spend("bot", 1, &grant(""), 999, NOW), Ok(()));
    let asks = grant("approval yes\n");
    assert_eq!(leases.spend("bot", 1, &asks, 0, NOW), Err(Denial::Approval));
    leases.approve("bot", 1);
    assert_eq!(leases.spend("bot", 2, &asks, 0, NOW), Err(Denial::Approval));
    assert_eq!(leases.spend("bot", 1, &asks, 0, NOW), Ok(()));
    assert_eq!(leases.spend("bot", 1, &asks, 0, NOW), Err(Denial::Approval));
}

#[test]
fn leases_are_bounded() {
    let mut leases = Leases::default();
    for n in 0..CAPACITY {
        assert!(leases.has_room(NOW));
        let id = LeaseId(u128::try_from(n).unwrap().to_le_bytes());
        leases.give(id, Role::Egress, "bot", 1, &grant(""), &telegram(), [0; 32], NOW);
    }
    assert!(!leases.has_room(NOW));
    assert!(leases.has_room(NOW + 20_000));
}

proptest! {
    /// Against a plain model: whatever is asked in whatever order, a lease gives at most once, in time, for what it is bound to.
    #[test]
    fn no_lease_gives_twice_or_late_or_elsewhere(steps in prop::collection::vec((0u8..4, 0u8..4, 0u64..30_000, prop::bool::ANY, prop::bool::ANY), 1..120)) {
        let (mut leases, mut model, mut now) = (Leases::default(), BTreeMap::new(), NOW);
        for (step, id, wait, good_digest, good_host) in steps {
            now += wait;
            let lease = LeaseId([id; 16]);
            match step {
                0 => {
                    leases.give(lease, Role::Egress, "bot", 1, &grant(""), &telegram(), [id; 32], now);
                    model.insert(id, now + 20_000);
                }
                1 => {
                    leases.end_all(now);
                    model.clear();
                }
                _ => {
                    let host = to(if good_host { "api.telegram.org" } else { "evil.org" }, 443);
                    let digest = if good_digest { [id; 32] } else { [99; 32] };
                    let taken = leases.take(lease, Role::Egress, Verb::Inject, &host, &digest, now);
                    let lives = model.remove(&id).is_some_and(|until| until > now);
                    prop_assert_eq!(taken.is_ok(), lives && good_digest && good_host);
                }
            }
        }
    }
}
