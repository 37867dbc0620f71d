use super::*;
use proptest::prelude::*;

pub(crate) const TELEGRAM: &str = "\
# what the bot needs
verb inject
role egress
purpose telegram bot
header authorization
prefix \"Bearer \"
host api.telegram.org
method POST
method GET
path /bot
rate 30/60
budget 1000
ttl 20
";

#[test]
fn policy_reads_and_writes_one_canonical_form() {
    let policy = Policy::parse(TELEGRAM).unwrap();
    let grant = policy.grant.as_ref().unwrap();
    assert_eq!((grant.verb, grant.role, grant.port, grant.ttl), (Verb::Inject, Role::Egress, 443, 20));
    assert_eq!(grant.methods, ["GET", "POST"]);
    assert_eq!(grant.prefix, "Bearer ");
    let canonical = policy.to_string();
    assert_eq!(Policy::parse(&canonical).unwrap(), policy);
    assert_eq!(Policy::parse(&canonical).unwrap().to_string(), canonical);
}

#[test]
fn empty_policy_allows_nothing() {
    for text in ["", "\n# nothing\n"] {
        assert_eq!(Policy::parse(text).unwrap(), Policy::default());
    }
    assert_eq!(Policy::default().to_string(), "");
    assert!(Policy::parse("reveal yes").unwrap().grant.is_none());
}

#[test]
fn reveal_is_no_verb_of_any_role() {
    let text = TELEGRAM.replace("verb inject", "verb reveal");
    assert!(matches!(Policy::parse(&text), Err(PolicyError::Value(2, "verb", _))));
    for (verb, role) in [("inject", "gateway"), ("sign", "sandboxd"), ("verify", "egress")] {
        let text = TELEGRAM.replace("verb inject", &format!("verb {verb}")).replace("egress", role);
        assert!(matches!(Policy::parse(&text), Err(PolicyError::Value(3, "role", _))), "{verb} {role}");
    }
}

#[test]
fn field_that_is_unknown_or_twice_or_idle_or_missing_refuses_the_whole() {
    let with = |line: &str| Policy::parse(&format!("{TELEGRAM}{line}\n")).unwrap_err();
    assert_eq!(with("hosts x.org"), PolicyError::Unknown(14, "hosts".into()));
    assert_eq!(with("ttl 30"), PolicyError::Again(14, "ttl"));
    assert_eq!(Policy::parse("ttl 30").unwrap_err(), PolicyError::Missing("ttl", "a verb"));
    let without = |field: &str| {
        let text: String = TELEGRAM.lines().filter(|line| !line.starts_with(field)).map(|l| format!("{l}\n")).collect();
        Policy::parse(&text).unwrap_err()
    };
    for field in ["host", "method", "path", "header"] {
        assert_eq!(without(field), PolicyError::Missing("inject", field));
    }
    assert_eq!(without("role"), PolicyError::Missing("inject", "a role"));
    let idle = Policy::parse("verb verify\nrole gateway\nhost x.org\n").unwrap_err();
    assert_eq!(idle, PolicyError::Superfluous("verify", "host"));
    assert!(Policy::parse("verb verify\nrole gateway\n").is_ok());
}

#[test]
fn refresh_names_where_the_new_secret_goes_and_no_header() {
    let text = "verb refresh\nrole egress\nhost auth.test\nmethod POST\npath /token\ninto model.key\nclient me\n";
    let policy = Policy::parse(text).unwrap();
    let grant = policy.grant.as_ref().unwrap();
    assert_eq!((grant.verb, grant.into.as_str(), grant.client.as_str()), (Verb::Refresh, "model.key", "me"));
    assert_eq!(Policy::parse(&policy.to_string()).unwrap(), policy);
    assert_eq!(
        Policy::parse(&text.replace("into model.key\n", "")).unwrap_err(),
        PolicyError::Missing("refresh", "into")
    );
    assert!(matches!(Policy::parse(&format!("{text}header x\n")), Err(PolicyError::Superfluous("refresh", "header"))));
    assert!(matches!(Policy::parse(&format!("{TELEGRAM}into x\n")), Err(PolicyError::Superfluous("inject", "into"))));
    assert!(Policy::parse(&text.replace("model.key", "no name!")).is_err());
}

#[test]
fn credential_goes_into_a_header_or_a_path_and_never_both() {
    let text = TELEGRAM.replace("header authorization\nprefix \"Bearer \"\n", "slot /bot{secret}\n");
    let text = text.replace("path /bot\n", "path /sendMessage\n");
    let policy = Policy::parse(&text).unwrap();
    let Some(CredentialSlot::Path { before, after }) = policy.grant.as_ref().map(Grant::place) else {
        panic!("no slot")
    };
    assert_eq!((before.as_str(), after.as_str()), ("/bot", ""));
    assert!(policy.to_string().contains("slot /bot{secret}\n"), "{policy}");
    assert_eq!(Policy::parse(&policy.to_string()).unwrap(), policy);
    for (line, field) in [("header x", "header"), ("prefix y", "prefix")] {
        assert_eq!(Policy::parse(&format!("{text}{line}\n")).unwrap_err(), PolicyError::Superfluous("inject", field));
    }
    assert!(matches!(Policy::parse(&text.replace("{secret}", "")), Err(PolicyError::Value(5, "slot", _))));
    for verb in ["sign", "refresh"] {
        let text = format!("{}into x\n", text.replace("verb inject", &format!("verb {verb}")));
        assert!(matches!(Policy::parse(&text), Err(PolicyError::Superfluous(_, "slot"))), "{verb}");
    }
    assert!(matches!(
        Policy::parse("verb verify\nrole gateway\nslot /a{secret}\n"),
        Err(PolicyError::Superfluous(_, "slot"))
    ));
}

#[test]
fn bounds_of_a_day_have_one_form_and_dollars_need_their_price() {
    let with = |lines: &str| Policy::parse(&format!("{TELEGRAM}{lines}"));
    let policy = with("day-bytes 5\nday-tokens 7\nday-usd 02.50\nprice 3/15");
    assert!(matches!(policy, Err(PolicyError::Value(16, "day-usd", _))));
    let policy = with("day-bytes 5\nday-tokens 7\nday-usd 2.50\nprice 3/0.075").unwrap();
    let day = policy.grant.as_ref().unwrap().day;
    assert_eq!((day.bytes, day.tokens, day.microdollars), (Some(5), Some(7), Some(2_500_000)));
    assert_eq!(day.price, Some((3_000_000, 75_000)));
    assert!(policy.to_string().contains("day-bytes 5\nday-tokens 7\nday-usd 2.5\nprice 3/0.075\n"), "{policy}");
    assert_eq!(Policy::parse(&policy.to_string()).unwrap(), policy);
    assert_eq!(with("day-usd 1").unwrap_err(), PolicyError::Missing("day-usd", "price"));
    assert_eq!(with("price 1/1").unwrap_err(), PolicyError::Missing("price", "day-usd"));
    for bad in ["0", "1.", ".5", "1.0000001", "-1", "1e3", "", "99999999"] {
        assert!(with(&format!("day-usd {bad}\nprice 1/1")).is_err(), "{bad}");
    }
    let idle = Policy::parse("verb verify\nrole gateway\nday-bytes 1\n").unwrap_err();
    assert_eq!(idle, PolicyError::Superfluous("verify", "day-bytes"));
}

#[test]
fn value_out_of_its_bounds_is_refused_with_its_line() {
    for (field, bad) in [
        ("host", "*.telegram.org"),
        ("host", "API.telegram.org"),
        ("host", "127.0.0.1"),
        ("host", "a..b"),
        ("method", "get"),
        ("path", "bot"),
        ("path", "/a/../b"),
        ("path", "/a%2Fb"),
        ("path", "/a?b"),
        ("approval", "maybe"),
        ("honey", "1"),
    ] {
        let refused = Policy::parse(&format!("{TELEGRAM}{field} {bad}\n")).unwrap_err();
        assert!(matches!(refused, PolicyError::Value(14, name, _) if name == field), "{field} {bad}: {refused}");
    }
    for (field, good, bad) in [
        ("ttl", "20", "61"),
        ("ttl", "20", "0"),
        ("ttl", "20", "+2"),
        ("rate", "30/60", "30"),
        ("budget", "1000", "007"),
    ] {
        let text = TELEGRAM.replace(&format!("{field} {good}"), &format!("{field} {bad}"));
        assert!(matches!(Policy::parse(&text), Err(PolicyError::Value(..))), "{field} {bad}");
    }
    assert_eq!(Policy::parse(&" ".repeat(MAX_TEXT + 1)), Err(PolicyError::TooLong));
    let hosts: String = (0..17).map(|n| format!("host h{n}.org\n")).collect();
    assert!(matches!(Policy::parse(&hosts), Err(PolicyError::Again(17, "host"))));
}

proptest! {
    #[test]
    fn whatever_parses_has_one_form_and_never_panics(lines in prop::collection::vec(("(verb|role|into|client|host|method|path|header|prefix|slot|ttl|rate|budget|day-bytes|day-usd|price|port|purpose|reveal|honey|approval|x)", "(inject|sign|verify|refresh|egress|gateway|a.org|GET|/a|/a\\{secret\\}|yes|no|5|5/5|0.5/7|[ -~]{0,9})"), 0..12)) {
        let text: String = lines.iter().map(|(field, value)| format!("{field} {value}\n")).collect();
        if let Ok(policy) = Policy::parse(&text) {
            let canonical = policy.to_string();
            prop_assert!(canonical.len() <= MAX_TEXT);
            prop_assert_eq!(Policy::parse(&canonical).unwrap(), policy);
        }
    }
}
