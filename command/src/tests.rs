use crate::decide::{Ask, Class, Decision, Facts, Place, Policy, Settings};
use crate::lex::{Unclear, lex_counted};
use crate::plan::{Arg, Plan};
use crate::rules::{Outcome, RuleError, read};
use proptest::prelude::*;

const FACTS: Facts<'_> = Facts { session: "agent:main:main", place: Place::Docker, tainted: false };

fn policy(ask: Ask, rules: serde_json::Value) -> Policy {
    let rules = rules.as_array().cloned().unwrap_or_default();
    Policy::new(&Settings { ask, rules, ..Settings::default() }).unwrap()
}

fn decide(text: &str) -> Decision {
    static POLICY: std::sync::OnceLock<Policy> = std::sync::OnceLock::new();
    POLICY.get_or_init(|| policy(Ask::OnMiss, serde_json::json!([]))).decide(text, &FACTS)
}

fn words(text: &str) -> Vec<Vec<String>> {
    let plan = Plan::of(text).unwrap();
    let words = |program: &crate::plan::Program| {
        std::iter::once(program.path.clone()).chain(program.args.iter().map(|arg| arg.text().to_owned())).collect()
    };
    plan.programs().map(words).collect()
}

#[test]
fn words_quotes_and_joins_are_read_as_the_shell_reads_them() {
    assert_eq!(words(r#"cat 'a b' "c\"d\x" e\ f"#), [["/usr/bin/cat", "a b", "c\"d\\x", "e f"]]);
    assert_eq!(words("ls | wc -l && pwd; id\n\ntrue # and no more").len(), 5);
    assert_eq!(words("find . -name a{} \\; 2>/dev/null")[0], ["/usr/bin/find", ".", "-name", "a{}", ";"]);
    assert_eq!(words("echo a\\\nb 'c\\\nd' \"e\\\nf\"")[0], ["/usr/bin/echo", "ab", "c\\\nd", "ef"]);
    assert_eq!(words("grep 'x$' a && grep \"x$\" a && echo $ a#b")[2], ["/usr/bin/echo", "$", "a#b"]);
    assert_eq!(words("./tool x")[0][0], "/workspace/tool");
    assert_eq!(words("/bin/ls")[0][0], "/usr/bin/ls");
}

#[test]
fn what_is_not_literal_is_not_understood_and_says_why() {
    for (text, why) in [
        ("echo $HOME", Unclear::Dollar),
        ("echo \"$(id)\"", Unclear::Dollar),
        ("echo \"ok $\\\n(id -u)\"", Unclear::Dollar),
        ("echo $'a'", Unclear::Dollar),
        ("echo $\"a\"", Unclear::Dollar),
        ("echo `id`", Unclear::Backquote),
        ("(ls)", Unclear::Parenthesis),
        ("cat <(ls)", Unclear::Parenthesis),
        ("f() { ls; }", Unclear::Parenthesis),
        ("cat a{b,c}", Unclear::Brace),
        ("{ ls; }", Unclear::Brace),
        ("ls ~", Unclear::Tilde),
        ("ls a=~", Unclear::Tilde),
        ("ls [ab]", Unclear::Bracket),
        ("ls & id", Unclear::Background),
        ("ls |& cat", Unclear::Redirect),
        ("ls &> a", Unclear::Redirect),
        ("ls >& a", Unclear::Redirect),
        ("ls 3> a", Unclear::Redirect),
        ("ls >| a", Unclear::Redirect),
        ("ls > a*", Unclear::Redirect),
        ("cat << E\na\nE", Unclear::HereDocument),
        ("cat <<< a", Unclear::HereDocument),
        ("ls &&", Unclear::Missing),
        ("ls | | wc", Unclear::Missing),
        ("; ls", Unclear::Missing),
        ("if true", Unclear::Reserved),
        ("! ls", Unclear::Reserved),
        ("time ls", Unclear::Reserved),
        ("A=b ls", Unclear::Assignment),
        ("A+=b", Unclear::Assignment),
        ("cd /", Unclear::Builtin),
        ("eval id", Unclear::Builtin),
        ("'eval' id", Unclear::Builtin),
        ("%1", Unclear::Program),
        ("\"ls \" -l", Unclear::Program),
        ("../../bin/sh", Unclear::Program),
        ("l*", Unclear::Program),
        ("ls 'a", Unclear::Quote),
        ("ls \\", Unclear::Backslash),
        ("", Unclear::Empty),
        ("# a", Unclear::Empty),
        ("ls\r\nid", Unclear::Control),
        ("ls \u{0}", Unclear::Control),
        ("ls \u{200b}", Unclear::Deceptive),
        ("\u{ff4c}\u{ff53}", Unclear::Deceptive),
    ] {
        assert_eq!(Plan::of(text), Err(why), "{text:?}");
    }
    assert_eq!(Plan::of(&"ls;".repeat(65)), Err(Unclear::Many));
    assert!(Plan::of(&"ls;".repeat(64)).is_ok());
    assert_eq!(Plan::of(&"a".repeat(crate::MAX_COMMAND + 1)), Err(Unclear::Long));
}

#[test]
fn pattern_is_allowed_where_it_can_only_become_files_of_the_workspace() {
    assert_eq!(decide("cat src/*.rs").outcome, Outcome::Allow);
    let plan = Plan::of("cat src/'*'*.r?").unwrap();
    assert_eq!(plan.programs().next().unwrap().args, [Arg::Pattern("src/**.r?".into(), vec![5, 8])]);
    assert_eq!(plan.shell(), "'/usr/bin/cat' 'src/*'*'.r'?''");
    for text in ["head *", "cat .*", "cat ../*", "cat /etc/pass*", "find . -name *.rs", "cat ?x"] {
        assert_eq!(decide(text).outcome, Outcome::Ask, "{text}");
    }
}

#[test]
fn strictest_program_of_a_pipeline_decides_and_is_named() {
    let allowed = decide("cat a | sort -n | head -3");
    assert_eq!((allowed.outcome, allowed.rule.as_str()), (Outcome::Allow, "cat"));
    let asked = decide("cat a | sh");
    assert_eq!((asked.outcome, asked.rule.as_str()), (Outcome::Ask, "miss"));
    let denied = decide("cat a | sh; rm -rf /");
    assert_eq!((denied.outcome, denied.rule.as_str()), (Outcome::Deny, "rm-root"));
    assert!(denied.why[1].contains("no rule is about it"), "{:?}", denied.why);
}

#[test]
fn choice_of_the_operator_bends_ask_and_never_deny() {
    let outcome = |ask, text: &str| policy(ask, serde_json::json!([])).decide(text, &FACTS).outcome;
    for (text, off, miss, always) in [
        ("ls", Outcome::Allow, Outcome::Allow, Outcome::Ask),
        ("touch a", Outcome::Allow, Outcome::Ask, Outcome::Ask),
        ("echo $x", Outcome::Allow, Outcome::Ask, Outcome::Ask),
        ("sudo ls", Outcome::Deny, Outcome::Deny, Outcome::Deny),
        ("ls \u{202e}x", Outcome::Deny, Outcome::Deny, Outcome::Deny),
    ] {
        assert_eq!(
            (outcome(Ask::Off, text), outcome(Ask::OnMiss, text), outcome(Ask::Always, text)),
            (off, miss, always),
            "{text}"
        );
    }
}

#[test]
fn rule_of_the_operator_holds_for_whom_it_says_and_the_strictest_wins() {
    let policy = policy(
        Ask::OnMiss,
        serde_json::json!([
            { "id": "make-dirs", "program": "mkdir", "options": "-p", "operands": "path*", "redirects": true,
              "sessions": ["main"], "agents": ["main"], "backends": ["native"],
              "match": ["mkdir -p a/b"], "noMatch": ["mkdir -m 777 a", "mkdir /a"] },
            { "id": "no-cat", "program": "/bin/../usr/bin/cat".replace("/bin/../", "/"), "options": "*", "decision": "deny",
              "sessions": ["tainted", "cron"], "match": ["cat a"], "noMatch": ["ls"] },
        ]),
    );
    let outcome = |session, place, text| policy.decide(text, &Facts { session, place, tainted: false }).outcome;
    assert_eq!(outcome("agent:main:main", Place::Native, "mkdir -p a > log"), Outcome::Allow);
    assert_eq!(outcome("agent:main:main", Place::Docker, "mkdir -p a"), Outcome::Ask);
    assert_eq!(outcome("agent:other:main", Place::Native, "mkdir -p a"), Outcome::Ask);
    assert_eq!(outcome("agent:main:irc:group:x", Place::Native, "mkdir -p a"), Outcome::Ask);
    assert_eq!(outcome("agent:main:main", Place::Native, "cat a"), Outcome::Allow);
    assert_eq!(outcome("agent:main:irc:group:x", Place::Native, "cat a"), Outcome::Deny);
    assert_eq!(outcome("agent:main:cron:nightly", Place::Native, "cat a"), Outcome::Deny);
}

#[test]
fn session_has_the_class_of_its_key_and_is_tainted_where_that_says_nothing() {
    for (session, class) in [
        ("agent:main:main", Class::Main),
        ("agent:main:irc:dm:x", Class::Paired),
        ("agent:main:cron:x", Class::Cron),
        ("agent:main:irc:group:x", Class::Tainted),
        ("agent:main:main:x", Class::Tainted),
        ("main", Class::Tainted),
        ("", Class::Tainted),
    ] {
        assert_eq!(Facts { session, place: Place::Docker, tainted: false }.class(), class, "{session}");
    }
}

#[test]
fn strangers_words_bring_a_person_in_where_nobody_is_asked_otherwise() {
    let policy = Policy::from_json(r#"{"ask":"off"}"#).unwrap();
    let outcome =
        |session, tainted, text| policy.decide(text, &Facts { session, place: Place::Native, tainted }).outcome;
    for (session, tainted, expected) in [
        ("agent:main:main", false, Outcome::Allow),
        ("agent:main:work", false, Outcome::Allow),
        ("agent:main:cron:nightly", false, Outcome::Allow),
        ("agent:main:main", true, Outcome::Ask),
        ("agent:main:telegram:7", false, Outcome::Ask),
        ("agent:main:irc:dm:x", false, Outcome::Ask),
        ("hook:1", false, Outcome::Ask),
        ("", false, Outcome::Ask),
    ] {
        assert_eq!(outcome(session, tainted, "touch a"), expected, "{session} {tainted}");
        assert_eq!(outcome(session, tainted, "ls"), Outcome::Allow, "{session}: a rule allows it");
    }
}

#[test]
fn rule_whose_example_comes_out_the_other_way_is_refused_by_name() {
    let rule = |program: &str, options: &str, decision: &str, yes: &str, no: &str| {
        let rule = serde_json::json!([{ "id": "mine", "program": program, "options": options, "decision": decision,
            "operands": "path*", "match": [yes], "noMatch": [no] }]);
        read(&rule.to_string())
    };
    assert!(rule("ls", "-l", "allow", "ls -l a", "ls -a").is_ok());
    for (outcome, part) in [
        (rule("ls", "-l", "allow", "ls -a", "ls -x"), "should match and does not"),
        (rule("ls", "-l", "allow", "ls", "ls -l"), "matches and should not"),
        (rule("ls", "-l", "allow", "ls $x", "ls -a"), "is not understood"),
        (rule("ls", "*", "allow", "ls", "cat"), "what is allowed is listed"),
        (rule("ls", "-l:colour", "ask", "ls", "cat"), "colour"),
        (rule("ls", "l", "ask", "ls", "cat"), "no option"),
        (rule("./ls", "", "ask", "ls", "cat"), "program"),
        (rule("/bin/ls", "", "ask", "ls", "cat"), "in /usr/bin"),
        (read("[{}]"), "program"),
        (read("{"), "read"),
        (read("[{\"program\":\"ls\",\"match\":[],\"noMatch\":[]}]"), "examples"),
        (read("[{\"program\":\"ls\",\"colour\":1,\"match\":[],\"noMatch\":[]}]"), "colour"),
    ] {
        let error: RuleError = outcome.unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn every_built_in_rule_stands_its_examples() {
    let rules = crate::rules::built_in().unwrap();
    assert!(rules.len() > 80);
    assert!(rules.iter().all(|rule| rule.examples() >= 2));
    let mut names: Vec<&str> = rules.iter().map(|rule| rule.id.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), rules.len(), "two rules of one name");
}

#[test]
fn different_plans_have_different_digests() {
    let commands = [
        "ls a b",
        "ls 'a b'",
        "ls a; ls b",
        "ls a && ls b",
        "ls a || ls b",
        "ls a | ls b",
        "ls a >b",
        "ls a 2>b",
        "ls a >>b",
        "ls a*",
        "ls 'a*'",
        "ls 2>&1",
        "ls >&2",
    ];
    let digests: std::collections::BTreeSet<_> = commands.iter().map(|text| Plan::of(text).unwrap().digest()).collect();
    assert_eq!(digests.len(), commands.len());
    assert_eq!(Plan::of("ls  'a'  b # x").unwrap().digest(), Plan::of("/bin/ls a \"b\"").unwrap().digest());
}

/// Pieces that shells make much of.
const PIECES: [&str; 44] = [
    "ls", "cat", " ", " ", "\t", "\n", "'", "\"", "\\", "$", "`", "(", ")", "{", "}", "[", "]", "*", "?", "~", "=",
    "!", "#", "|", "&", ";", "<", ">", "<<", "0", "2", "é", "\u{200b}", "\r", "\0", "%", "-", "--", "/", "..", "if",
    "eval", "x=y", ",",
];

proptest! {
    #[test]
    fn any_text_ends_in_as_many_steps_as_it_has_characters(text in "\\PC*") {
        let (_, steps) = lex_counted(&text);
        prop_assert!(steps <= text.chars().count() + 1);
        let _ = decide(&text);
    }

    #[test]
    fn any_pieces_end_and_what_is_planned_is_planned_again_from_its_own_text(
        at in proptest::collection::vec(0..PIECES.len(), 0..60)
    ) {
        let text: String = at.iter().map(|at| PIECES[*at]).collect();
        let (_, steps) = lex_counted(&text);
        prop_assert!(steps <= text.chars().count() + 1);
        if let Ok(plan) = Plan::of(&text) {
            prop_assert_eq!(Plan::of(&plan.shell()).unwrap(), plan);
        }
    }
}

#[test]
fn long_and_deep_text_ends_in_as_many_steps_as_it_has_characters() {
    for piece in ["'", "\"", "(", "{", "$(", "`", "\\\n", "a|", "a;", "a&&", "<<", "!", "[", "\n", "#\n"] {
        let text = piece.repeat(60_000 / piece.len());
        let (_, steps) = lex_counted(&text);
        assert!(steps <= text.chars().count() + 1, "{piece}");
        let _ = decide(&text);
    }
}

mod proposals {
    use crate::decide::{Facts, Place, Policy};
    use crate::propose::propose;
    use crate::rules::Outcome;

    const FACTS: Facts<'static> = Facts { session: "agent:main:main", place: Place::Docker, tainted: false };

    fn policy() -> Policy {
        Policy::from_json("{}").unwrap()
    }

    fn with(command: &str) -> Policy {
        let rules = propose(&policy(), command, &FACTS).unwrap();
        policy().with(&serde_json::Value::from(rules).to_string()).unwrap()
    }

    fn allows(policy: &Policy, command: &str) -> bool {
        policy.decide(command, &FACTS).outcome == Outcome::Allow
    }

    #[test]
    fn proposed_rule_lets_its_command_run_and_little_beside_it() {
        for (command, also, never) in [
            ("systemctl --no-pager status 3", "systemctl status 4", "systemctl stop 3"),
            ("convert -a in/a.png out/b.png", "convert in/c.png x.png", "convert -b in/a.png out/b.png"),
            ("frob --level=3 a.txt", "frob --level=4 b.txt", "frob --level=x a.txt"),
            ("frob a.txt > out", "frob b.txt > other", "frob a.txt b.txt"),
            ("frob a.txt | frob --x", "frob --x", "frob a.txt --y"),
        ] {
            assert!(
                !allows(&policy(), command) && !allows(&policy(), also),
                "{command}: a proposal must change something"
            );
            let more = with(command);
            assert!(allows(&more, command) && allows(&more, also), "{command}");
            assert!(!allows(&more, never), "{command} lets {never} run");
            let main = |session| more.decide(command, &Facts { session, place: Place::Docker, tainted: false }).outcome;
            assert_eq!(main("agent:main:telegram:dm:5"), Outcome::Ask, "another class of conversation");
            assert_eq!(main("agent:other:main"), Outcome::Ask, "another agent");
        }
    }

    #[test]
    fn no_rule_is_proposed_for_what_runs_others_nor_for_what_none_is_needed() {
        for command in [
            "python3.11 -c x",
            "bash x",
            "env ls",
            "find . -newer a",
            "git status --x",
            "npm test",
            "sh -c 'rm x'",
            "timeout 3 x",
            "frob -n5",
            "frob ../a",
            "frob /etc/passwd",
            "frob *.rs",
            "ls",
            "echo $(id)",
            "ls | sh",
        ] {
            assert!(propose(&policy(), command, &FACTS).is_err(), "{command}");
        }
    }
}
