use super::*;
use std::path::Path;

fn ids(text: &str) -> Vec<(String, Severity)> {
    let config = Config::understand(text, Path::new("moltbot.json"), &|_| None).unwrap();
    findings(&config).into_iter().map(|found| (found.id, found.severity)).collect()
}

#[test]
fn findings_that_do_not_refuse_fire_on_what_they_are_about_and_are_silent_beside_it() {
    for (fires, silent, id, severity) in [
        (
            "{ channels: { telegram: { allowFrom: ['*'] } } }",
            "{ channels: { telegram: { allowFrom: [12] } } }",
            "channels.telegram.allowlist.wildcard",
            Severity::Critical,
        ),
        (
            "{ channels: { telegram: { groups: { '-1': { enabled: false, allowFrom: ['*'] } } } } }",
            "{ channels: { telegram: { groups: { '*': { enabled: false, allowFrom: [1] } } } } }",
            "channels.telegram.allowlist.wildcard",
            Severity::Critical,
        ),
        (
            "{ channels: { discord: { guilds: { '1': { enabled: false, users: ['*'] } } } } }",
            "{ channels: { discord: { guilds: { '1': { enabled: false, users: ['2'] } } } } }",
            "channels.discord.allowlist.wildcard",
            Severity::Critical,
        ),
        (
            "{ channels: { telegram: { dm: { allowFrom: ['@alice'] } } } }",
            "{ channels: { telegram: { dm: { allowFrom: ['tg:5', 6] } }, irc: { allowFrom: ['alice'] } } }",
            "channels.telegram.allowlist.mutable_id",
            Severity::Warn,
        ),
        (
            "{ tools: { elevated: { allowFrom: { telegram: ['*'] } } } }",
            "{ tools: { elevated: { allowFrom: { telegram: ['1'] } } } }",
            "tools.elevated.allowFrom.telegram.wildcard",
            Severity::Critical,
        ),
        (
            "{ logging: { redactSensitive: 'off' } }",
            "{ logging: { redactSensitive: 'tools' } }",
            "logging.redact_off",
            Severity::Warn,
        ),
        (
            "{ session: { dmScope: 'main' }, channels: { irc: { allowFrom: [1, 2] } } }",
            "{ session: { dmScope: 'per-peer' }, channels: { irc: { allowFrom: [1, 2] } } }",
            "channels.irc.dm.scope_main_multiuser",
            Severity::Warn,
        ),
        (
            "{ gateway: { tailscale: { mode: 'serve' } } }",
            "{ gateway: { tailscale: { mode: 'off' } } }",
            "gateway.tailscale_serve",
            Severity::Info,
        ),
        (
            "{ channels: { signal: { dm: { enabled: false } } } }",
            "{ channels: { signal: {} } }",
            "channels.signal.dm.disabled",
            Severity::Info,
        ),
        (
            "{ agents: { defaults: { sandbox: { workspaceAccess: 'rw' } } } }",
            "{ agents: { defaults: { sandbox: { workspaceAccess: 'ro' } } } }",
            "sandbox.workspace_rw",
            Severity::Info,
        ),
        (
            "{ agents: { defaults: { sandbox: { mode: 'off', dangerouslyAllowOff: true } } } }",
            "{ agents: { defaults: { sandbox: { mode: 'all' } } } }",
            "sandbox.mode_off",
            Severity::Critical,
        ),
        (
            "{ agents: { defaults: { sandbox: { dangerouslyAllowOff: true } } } }",
            "{ agents: { defaults: { sandbox: { dangerouslyAllowOff: false } } } }",
            "sandbox.dangerously_allow_off",
            Severity::Warn,
        ),
        (
            "{ agents: { defaults: { sandbox: { mode: 'off' } } } }",
            "{ agents: { defaults: { sandbox: { docker: { runtime: 'runsc', setupCommand: 'mkdir a' } } } } }",
            "sandbox.mode_off",
            Severity::Refused,
        ),
    ] {
        assert_eq!(ids(fires), [(id.to_owned(), severity)], "{fires}");
        assert_eq!(ids(silent), [], "{silent}");
    }
    for (model, allow, expected) in [
        ("gpt-3.5-turbo", "", vec![("models.legacy", Severity::Warn)]),
        ("claude-2.1", "", vec![("models.legacy", Severity::Warn)]),
        ("claude-instant-1.2", "", vec![("models.legacy", Severity::Warn)]),
        ("claude-haiku-4-5", "", vec![("models.weak_tier", Severity::Warn)]),
        ("gpt-5-mini", "", vec![("models.weak_tier", Severity::Warn)]),
        ("llama3.1:8b", "", vec![("models.small_params", Severity::Info)]),
        ("gemma-3n-e4b", "'example.com:443'", vec![("models.small_params", Severity::Warn)]),
        ("SmolLM2-1.7B-Instruct", "", vec![("models.small_params", Severity::Info)]),
        ("deepseek-v3-671b", "", vec![]),
        ("claude-opus-4-5", "'example.com:443'", vec![]),
        ("gpt-5", "", vec![]),
        ("bigb", "", vec![]),
    ] {
        let text = format!(
            "{{ models: {{ providers: {{ p: {{ baseUrl: 'https://p.example', apiKey: 'vault:p.key', models: [{{ id: '{model}' }}] }} }} }},
                agents: {{ defaults: {{ model: 'p/{model}' }} }}, egress: {{ allow: [{allow}] }} }}"
        );
        let expected: Vec<_> = expected.into_iter().map(|(id, severity)| (id.to_owned(), severity)).collect();
        assert_eq!(ids(&text), expected, "{model}");
    }
    let many = (0..26).map(|id| id.to_string()).collect::<Vec<_>>().join(",");
    let long = ids(&format!("{{ tools: {{ elevated: {{ allowFrom: {{ irc: [{many}] }} }} }} }}"));
    assert_eq!(long, [("tools.elevated.allowFrom.irc.large".to_owned(), Severity::Warn)]);
}

#[test]
fn wishes_that_nothing_carries_out_are_refused_and_their_neighbours_are_not() {
    for (fires, silent, id) in [
        (
            "{ gateway: { auth: { mode: 'password', password: 'vault:x' } } }",
            "{ gateway: { auth: { mode: 'password', password: 'vault:gateway.password' } } }",
            "gateway.auth.password_elsewhere",
        ),
        (
            "{ channels: { irc: { dmPolicy: 'pairing', dm: { policy: 'allowlist' } } } }",
            "{ channels: { irc: { dmPolicy: 'pairing', dm: { policy: 'pairing' } } } }",
            "channels.irc.dm.policy_twice",
        ),
        (
            "{ channels: { irc: { allowFrom: ['a b'] } } }",
            "{ channels: { irc: { allowFrom: ['a-b'] } } }",
            "channels.irc.allowlist.id",
        ),
        (
            "{ channels: { telegram: { botToken: 'vault:' } } }",
            "{ channels: { telegram: { botToken: 'vault:telegram.bottoken' } } }",
            "channels.secret_reference",
        ),
        (
            "{ tools: { elevated: { enabled: true } } }",
            "{ tools: { elevated: { enabled: false } } }",
            "tools.elevated.enabled",
        ),
        (
            "{ tools: { browser: { enabled: true } } }",
            "{ tools: { browser: { enabled: false } } }",
            "tools.browser.enabled",
        ),
        (
            "{ tools: { canvas: { enabled: true } } }",
            "{ tools: { canvas: { enabled: false } } }",
            "tools.canvas.enabled",
        ),
        ("{ logging: { keepFiles: 0 } }", "{ logging: { keepFiles: 1 } }", "logging.keep_nothing"),
        ("{ logging: { keepDays: 0 } }", "{ logging: { keepDays: 1 } }", "logging.keep_nothing"),
    ] {
        assert_eq!(ids(fires), [(id.to_owned(), Severity::Refused)], "{fires}");
        assert_eq!(ids(silent), [], "{silent}");
    }
    // Where no key of a secret belongs at all.
    let stray = ids("{ meta: { token: 'abcdefgh' } }");
    assert_eq!(stray, [("config.secrets.in_config".to_owned(), Severity::Critical)]);
    assert_eq!(ids("{ meta: { lastTouchedVersion: 'abcdefgh' } }"), []);
    let off = |backend: &str| {
        let text = format!(
            "{{ agents: {{ defaults: {{ sandbox: {{ mode: 'off', dangerouslyAllowOff: true, backend: '{backend}' }} }} }} }}"
        );
        ids(&text).iter().any(|(id, severity)| (&**id, *severity) == ("sandbox.mode_off_docker", Severity::Refused))
    };
    assert!(off("docker") && !off("native"));
    for scope in ["agent", "shared"] {
        let text = format!("{{ agents: {{ defaults: {{ sandbox: {{ scope: '{scope}' }} }} }} }}");
        assert_eq!(ids(&text), [("sandbox.scope_shared".to_owned(), Severity::Warn)], "{scope}");
    }
    assert_eq!(ids("{ agents: { defaults: { sandbox: { scope: 'session' } } } }"), []);
}

#[test]
fn score_is_the_plans() {
    let with = |critical: usize, warn: usize, info: usize| {
        let one = |severity| Finding {
            id: String::new(),
            severity,
            path: String::new(),
            title: String::new(),
            detail: String::new(),
            remediation: String::new(),
        };
        let all = std::iter::repeat_n(one(Severity::Critical), critical)
            .chain(std::iter::repeat_n(one(Severity::Warn), warn))
            .chain(std::iter::repeat_n(one(Severity::Info), info));
        score(&all.collect::<Vec<_>>())
    };
    assert_eq!((with(1, 3, 5), with(10, 20, 0), with(0, 0, 0)), (60, 0, 100));
    let ratings = [90, 89, 80, 79, 70, 69, 50, 49, 0].map(rating);
    let words = ["EXCELLENT", "GOOD", "GOOD", "ACCEPTABLE", "ACCEPTABLE", "NEEDS IMPROVEMENT", "NEEDS IMPROVEMENT"];
    assert_eq!(ratings[..7], words);
    assert_eq!(ratings[7..], ["CRITICAL", "CRITICAL"]);
}
