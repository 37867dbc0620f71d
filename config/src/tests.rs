use super::*;
use rules::{findings, rating, score};

const FILE: &str = "/etc/moltbot.json";

fn parse(text: &str) -> Result<Config, String> {
    let env = |name: &str| (name == "WHERE").then(|| "native".to_owned());
    Config::parse(text, Path::new(FILE), &env).map_err(|error| error.to_string())
}

#[test]
fn empty_object_is_the_defaults() {
    assert_eq!(parse("{}").unwrap(), Config::default());
    assert_eq!(Config::default().gateway.port, DEFAULT_PORT);
}

#[test]
fn json5_with_comments_and_variables_is_read() {
    let text = "{ // mine\n gateway: { port: 0x4D2, bind: 'loopback', auth: { mode: 'token' } }, agents: { defaults: { sandbox: { backend: '${WHERE}' } } },\n egress: { allow: ['api.example.org:443',], } }";
    let config = parse(text).unwrap();
    assert_eq!((config.gateway.port, config.sandbox_backend()), (1234, Backend::Native));
    assert_eq!(config.egress.allow, ["api.example.org:443"]);
}

#[test]
fn effective_configuration_reads_as_itself() {
    let config = parse(
        "{ agents: { defaults: { sandbox: { docker: { memory: '64m', cpus: 0.5 } } } }, commands: { native: 'auto' } }",
    )
    .unwrap();
    assert_eq!(parse(&config.redacted_json()).unwrap(), config);
}

#[test]
fn bad_files_are_refused_with_place_and_reason() {
    for (text, place, reason) in [
        ("", "1:1", "a configuration is an object"),
        ("[]", "1:1", "a configuration is an object"),
        ("{", "1:1", "object"),
        ("{ gateway: {} egress: {} }", "1:14", "expected comma"),
        ("{\n  gatewy: {} }", "2:3", "did you mean gateway?"),
        ("{ gateway: { prot: 1 } }", "1:14", "gateway.prot: \"prot\": there is no such key; did you mean port?"),
        ("{ gateway: { zzzzzz: 1 } }", "1:14", "known here: mode, port"),
        ("{ gateway: { port: 70000 } }", "1:14", "70000"),
        ("{ gateway: { port: 'x' } }", "1:14", "gateway.port"),
        ("{ gateway: {}, gateway: {} }", "1:16", "is there twice"),
        ("{ gateway: { bind: 'lan' } }", "1:14", "gateway.bind_not_loopback"),
        ("{ gateway: { bind: 'lopback' } }", "1:14", "did you mean loopback?"),
        ("{ gateway: { mode: 'remote' } }", "1:14", "gateway.mode_remote"),
        ("{ gateway: { tailscale: { mode: 'funnel' } } }", "1:27", "gateway.tailscale_funnel"),
        ("{ gateway: { trustedProxies: ['10.0.0.1'] } }", "1:14", "gateway.trusted_proxies"),
        ("{ gateway: { controlUi: { allowInsecureAuth: true } } }", "1:27", "gateway.control_ui.insecure_auth"),
        (
            "{ gateway: { controlUi: { dangerouslyDisableDeviceAuth: true } } }",
            "1:27",
            "gateway.control_ui.device_auth_disabled",
        ),
        ("{ gateway: { auth: { token: 'vault:x' } } }", "1:22", "name vault:gateway.token"),
        ("{ gateway: { auth: { mode: 'password', password: 'vault:x' } } }", "1:40", "moltbot gateway password set"),
        ("{ gateway: { auth: { token: 'Bearer ${NO_SUCH}' } } }", "1:22", "NO_SUCH"),
        ("{ gateway: { auth: { allowTailscale: true } } }", "1:22", "gateway.auth.allow_tailscale"),
        ("{ agents: { defaults: { sandbox: { mode: 'off' } } } }", "1:36", "sandbox.mode_off"),
        ("{ agents: { defaults: { sandbox: { docker: { network: 'host' } } } } }", "1:46", "sandbox.docker.sealed"),
        ("{ agents: { defaults: { sandbox: { docker: { capDrop: [] } } } } }", "1:46", "sandbox.docker.sealed"),
        ("{ agents: { defaults: { sandbox: { docker: { binds: ['/:/h'] } } } } }", "1:46", "sandbox.docker.sealed"),
        ("{ agents: { defaults: { sandbox: { pool: 9 } } } }", "1:36", "8 containers at most"),
        ("{ agents: { defaults: { sandbox: { native: { freeSpace: '1m' } } } } }", "1:46", "at least 64m stay free"),
        ("{ agents: { defaults: { sandbox: { native: { memory: '1m' } } } } }", "1:46", "at least 16m of memory"),
        ("{ agents: { defaults: { timeoutSeconds: 0 } } }", "1:25", "1 to 86400 seconds"),
        ("{ agents: { list: [{ id: 'a' }, { id: 'B' }] } }", "1:35", "begins with a letter or digit"),
        ("{ agents: { list: [{ id: 'a' }, { id: 'a' }] } }", "1:35", "two agents have this id"),
        ("{ agents: { list: [{ id: 'a', default: true }] } }", "1:31", "speaks to main"),
        ("{ agents: { list: [{ id: 'a', model: 'x/y' }] } }", "1:31", "not among models.providers"),
        ("{ agents: { list: [{ id: 'a', sandbox: {} }] } }", "1:31", "there is no such key"),
        ("{ session: { reset: { atHour: 24 } } }", "1:23", "0 to 23"),
        ("{ session: { resetByType: { dm: { atHour: 24 } } } }", "1:35", "0 to 23"),
        ("{ session: { resetByChannel: { telegram: { idleMinutes: 0 } } } }", "1:3", "no minutes"),
        ("{ session: { resetByType: { direct: {} } } }", "1:29", "there is no such key"),
        ("{ session: { reset: { mode: 'weekly' } } }", "1:23", "weekly"),
        ("{ session: { idleMinutes: 0 } }", "1:3", "no minutes"),
        ("{ session: { reset: { idleMinutes: 0 } } }", "1:3", "no minutes"),
        ("{ agents: { defaults: { sandbox: { prune: { idleHours: 0 } } } } }", "1:45", "between one hour"),
        ("{ agents: { defaults: { sandbox: { docker: { memory: '8g' } } } } }", "1:46", "between 16m and 512m"),
        ("{ agents: { defaults: { sandbox: { docker: { memory: 'lots' } } } } }", "1:46", "is not a size"),
        ("{ agents: { defaults: { sandbox: { docker: { cpus: '4' } } } } }", "1:46", "1.0 of a processor"),
        ("{ agents: { defaults: { sandbox: { docker: { socket: 'x' } } } } }", "1:46", "absolute"),
        ("{ channels: { telegram: { dmPolicy: 'open' } } }", "1:27", "pairing"),
        ("{ channels: { telegram: { dm: { policy: 'open' } } } }", "1:33", "breaking-changes-phase1"),
        ("{ channels: { defaults: { dmPolicy: 'open' } } }", "1:27", "channels.defaults.dm.open"),
        ("{ channels: { discord: { groupPolicy: 'open' } } }", "1:26", "channels.groups.open"),
        ("{ channels: { telegram: { groupAllowFrom: [5] } } }", "1:27", "channels.groups.not_served"),
        (
            "{ channels: { telegram: { groups: { '-100': { allowFrom: [5] } } } } }",
            "1:37",
            "channels.groups.not_served",
        ),
        ("{ channels: { discord: { guilds: { '7': {} } } } }", "1:36", "channels.groups.not_served"),
        (
            "{ channels: { telegram: { dmPolicy: 'pairing', dm: { policy: 'allowlist' } } } }",
            "1:54",
            "different things",
        ),
        ("{ channels: { telegram: { botToken: 'vault:NO' } } }", "1:27", "vault:telegram.bottoken"),
        ("{ tools: { elevated: { enabled: true } } }", "1:24", "no command runs on the host"),
        ("{ tools: { browser: { enabled: true } } }", "1:23", "there is no browser"),
        ("{ commands: { bash: true } }", "1:15", "commands.bash"),
        ("{ commands: { useAccessGroups: false } }", "1:15", "allowlists hold"),
        ("{ logging: { keepFiles: 0 } }", "1:3", "1 at least"),
        ("{ logging: { keepDays: 0 } }", "1:3", "1 at least"),
        ("{ logging: { maxFileBytes: 65535 } }", "1:14", "logging.file_size"),
        ("{ logging: { maxFileBytes: 1073741825 } }", "1:14", "logging.file_size"),
        ("{ logging: { maxFileDays: 0 } }", "1:14", "logging.file_age"),
        ("{ logging: { maxFileDays: 3651 } }", "1:14", "logging.file_age"),
        ("{ egress: { allow: ['*:443'] } }", "1:21", "egress.allow[0]"),
        ("{ egress: { allow: ['a:1', 'host'] } }", "1:28", "egress.allow[1]"),
        ("{ egress: { local: ['localhost:80'] } }", "1:21", "egress.local[0]"),
        ("{ egress: { resolver: 'dns' } }", "1:13", "egress.resolver.not_address"),
        ("{ egress: { ca: 'ca.pem' } }", "1:13", "egress.ca.not_absolute"),
        ("{ agents: { defaults: { model: 'a/b' } } }", "1:25", "models.unknown"),
        ("{ agents: { defaults: { model: 5 } } }", "1:25", "expected \"provider/model\", or an object"),
        (
            "{ models: { providers: { a: { baseUrl: 'https://x', apiKey: 'vault:NO' } } } }",
            "1:53",
            "models.secret_reference",
        ),
        ("{ models: { providers: { a: { baseUrl: 'x' } } } }", "1:31", "models.provider.base_url"),
        ("{ models: { providers: { a: {} } } }", "1:26", "models.provider.base_url"),
        ("{ models: { providers: { a: { baseUrl: 'https://x/?k=1' } } } }", "1:31", "models.provider.base_url"),
        ("{ models: { providers: { 'a b': { baseUrl: 'https://x' } } } }", "1:26", "models.provider.id"),
        ("{ models: { providers: { a: { baseUrl: 'https://x', models: [{}] } } } }", "1:62", "models.model.id"),
        ("{ models: { providers: { a: { api: 'telepathy' } } } }", "1:31", "anthropic-messages"),
        ("{ session: { dmScope: '${NO_SUCH}' } }", "1:14", "NO_SUCH"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(reason), "{text}: {error}");
        assert!(error.contains(&format!("{FILE}:{place}: ")), "{text}: {error}");
    }
}

#[test]
fn providers_are_reached_without_being_listed_again_and_their_keys_are_names() {
    let text = "{ models: { providers: {
        a: { baseUrl: 'https://api.anthropic.com', apiKey: 'vault:a.key', api: 'anthropic-messages', models: [{ id: 'c/d' }] },
        h: { baseUrl: 'https://here.test:4443/v1', models: [] },
        o: { baseUrl: 'http://localhost:11434/v1', api: 'openai-completions', models: [{ id: 'l', maxTokens: 9 }] },
    } }, agents: { defaults: { model: { primary: 'a/c/d', fallbacks: ['o/l'] } } },
    egress: { local: ['https://here.test:4443'] } }";
    let config = parse(text).unwrap();
    assert_eq!(config.allowed(), ["api.anthropic.com:443"]);
    assert_eq!(
        (config.local(false), config.local(true)),
        (vec!["localhost:11434".into()], vec!["here.test:4443".into()])
    );
    assert!(config.redacted_json().contains("vault:a.key"));
    assert_eq!(parse(&config.redacted_json()).unwrap(), config);
}

#[test]
fn groups_that_let_nobody_in_are_carried_out_as_they_are_written() {
    let text = "{ channels: { defaults: { groupPolicy: 'disabled' },
        telegram: { groupPolicy: 'allowlist', groupAllowFrom: [], groups: { '-100': { enabled: false, allowFrom: [5] } } },
        discord: { guilds: {} } } }";
    assert_eq!(parse(text).unwrap().channels.iter().count(), 2);
}

#[test]
fn policy_of_a_key_is_the_one_request_that_its_provider_is_asked_by() {
    let provider = |base: &str, api: &str| {
        let text = format!(
            "{{ models: {{ providers: {{ a: {{ baseUrl: '{base}', api: '{api}', apiKey: 'clear-key' }} }} }} }}"
        );
        parse(&text).unwrap().key_policy("a.apikey")
    };
    assert_eq!(
        provider("https://API.anthropic.com/", "anthropic-messages").unwrap(),
        "verb inject\nrole egress\nheader x-api-key\nhost api.anthropic.com\nport 443\nmethod POST\npath /v1/messages\n"
    );
    assert_eq!(
        provider("https://api.example.org:8443/openai/v1/", "openai-completions").unwrap(),
        "verb inject\nrole egress\nheader authorization\nprefix \"Bearer \"\nhost api.example.org\nport 8443\nmethod POST\npath /openai/v1/chat/completions\n"
    );
    // Without TLS, at an address, or behind a path that could be read in two ways: nothing.
    for base in [
        "http://localhost:11434/v1",
        "https://192.0.2.1",
        "https://[::1]:8443",
        "https://x.test/a/../b",
        "https://x.test/%2e",
    ] {
        assert_eq!(provider(base, "openai-completions"), None, "{base}");
    }
    // A key of several is nobody's, and so is any other secret.
    let two = "{ models: { providers: { a: { baseUrl: 'https://a.test', apiKey: 'vault:k' },
        b: { baseUrl: 'https://b.test', apiKey: 'vault:k' }, c: { baseUrl: 'https://c.test', apiKey: 'vault:c' } } },
        channels: { telegram: { botToken: 'vault:telegram.bottoken' } } }";
    let config = parse(two).unwrap();
    assert_eq!((config.key_policy("k"), config.key_policy("telegram.bottoken")), (None, None));
    assert!(config.key_policy("c").unwrap().contains("host c.test\n"), "the twin");
}

#[test]
fn every_problem_is_named_at_once() {
    let error = parse("{ gateway: { bind: 'lan' },\n tools: { canvas: { enabled: true } } }").unwrap_err();
    assert_eq!(error.lines().count(), 2, "{error}");
}

#[test]
fn template_of_the_guide_loads_as_it_stands_with_its_variable_and_without() {
    let text = include_str!("../../docs/security/secure-config-template.json");
    let env = |name: &str| (name == "MOLTBOT_GATEWAY_TOKEN").then(|| "t".repeat(40));
    assert_eq!(Config::parse(text, Path::new(FILE), &env).unwrap(), parse(text).unwrap());
    let config = Config::parse(text, Path::new(FILE), &env).unwrap();
    assert_eq!(config.channels.telegram.as_ref().unwrap().dm_policy(&config.channels.defaults), DmPolicy::Pairing);
    assert_eq!(config.agents.defaults.sandbox.docker.memory, Size(512 << 20));
    assert_eq!(config.agents.defaults.sandbox.docker.cpus, Cpus(1_000));
    let ids: Vec<String> = findings(&config).into_iter().map(|found| found.id).collect();
    assert_eq!(ids, ["gateway.tailscale_serve", "config.secrets.in_environment"]);
}

#[test]
fn vault_is_told_who_may_write_and_what_is_off_is_off() {
    let lines = |text: &str| parse(text).unwrap().senders();
    assert_eq!(lines("{}"), ["* mode pairing"]);
    let text = "{ channels: { defaults: { dmPolicy: 'allowlist' },
        telegram: { dmPolicy: 'pairing', allowFrom: [5], dm: { allowFrom: ['tg:6'] } }, discord: { enabled: false },
        signal: { dm: { enabled: false } }, irc: {} } }";
    let told = [
        "* mode allowlist",
        "telegram mode pairing",
        "telegram allow 5",
        "telegram allow tg:6",
        "discord mode disabled",
        "signal mode disabled",
        "irc mode allowlist",
    ];
    assert_eq!(lines(text), told);
    assert!(parse("{ channels: { irc: { allowFrom: ['a b'] } } }").unwrap_err().contains("allowlist.id"));
    let many: Vec<u32> = (0..260).collect();
    let many = serde_json::json!({ "channels": { "telegram": { "allowFrom": many } } }).to_string();
    assert!(parse(&many).unwrap_err().contains("channels.too_many"));
}

const CLEAR: &str = "{ // mine
  gateway: { auth: { token: 'clear-token', password: 'clear-password' } },
  channels: { telegram: { botToken: 'clear-bot' }, discord: { token: '${DISCORD}' } },
  models: { providers: { 'a.b': { baseUrl: 'https://x', apiKey: 'clear-key' }, c: { baseUrl: 'https://y', apiKey: 'vault:mine' } } } }";

#[test]
fn loaded_configuration_names_its_secrets_and_holds_none() {
    let config = parse(CLEAR).unwrap();
    let shown = format!("{config:?}{}", config.redacted_json());
    assert!(!shown.contains("clear-"), "{shown}");
    let key = |id: &str| config.models.providers[id].api_key.clone().unwrap();
    assert_eq!((key("a.b"), key("c")), ("vault:models.providers.a.b.apikey".to_owned(), "vault:mine".to_owned()));
    let ids: Vec<_> = findings(&config).into_iter().map(|found| (found.id, found.severity)).collect();
    for (id, severity) in [
        ("gateway.auth.token_in_config", Severity::Critical),
        ("config.secrets.gateway_password_in_config", Severity::Critical),
        ("channels.secret_in_config", Severity::Critical),
        ("models.secret_in_config", Severity::Critical),
        ("config.secrets.in_environment", Severity::Info),
    ] {
        assert!(ids.contains(&(id.to_owned(), severity)), "{id}: {ids:?}");
    }
    assert_eq!(ids.len(), 5, "a reference is no finding: {ids:?}");

    // Their values are for whoever moves them, and what is left of the file then loads without a finding.
    let held = secrets::held(CLEAR, Path::new(FILE), &|name| (name == "DISCORD").then(|| "clear-env".to_owned()));
    let held = held.unwrap();
    let mut text = CLEAR.to_owned();
    for one in held.iter().filter(|one| one.origin == secrets::Origin::File) {
        text = secrets::take(&text, &one.path, &one.name).unwrap();
    }
    assert!(!text.contains("clear-") && text.contains("// mine") && text.contains("'${DISCORD}'"), "{text}");
    assert_eq!(Config { secrets: Vec::new(), ..parse(&text).unwrap() }, Config { secrets: Vec::new(), ..config });
    let mut told: Vec<_> = held.iter().map(|one| (one.name.as_str(), one.value.as_deref().unwrap())).collect();
    told.sort_unstable();
    let expected = [
        ("discord.token", "clear-env"),
        ("gateway.password", "clear-password"),
        ("gateway.token", "clear-token"),
        ("models.providers.a.b.apikey", "clear-key"),
        ("telegram.bottoken", "clear-bot"),
    ];
    assert_eq!(told, expected);
}

#[test]
fn names_that_would_be_one_stay_two() {
    let text = "{ models: { providers: { A: { baseUrl: 'https://x', apiKey: '1' }, a: { baseUrl: 'https://y', apiKey: '2' } } } }";
    let config = parse(text).unwrap();
    let mut keys: Vec<_> = config.models.providers.values().filter_map(|one| one.api_key.clone()).collect();
    keys.sort();
    assert_eq!(keys, ["vault:a.apikey", "vault:a.apikey-2"]);
}

#[test]
fn secret_in_an_included_file_and_a_password_in_the_environment_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("moltbot.json");
    std::fs::write(dir.path().join("more.json5"), "{ telegram: { botToken: 'clear' } }").unwrap();
    let load = |text: &str| Config::parse(text, &file, &|_| Some("x".to_owned())).map_err(|error| error.to_string());
    let error = load("{ channels: { $include: 'more.json5' } }").unwrap_err();
    assert!(error.contains("more.json5:1:") && error.contains("secrets set telegram.bottoken"), "{error}");
    std::fs::write(dir.path().join("more.json5"), "{ telegram: { botToken: 'vault:telegram.bottoken' } }").unwrap();
    assert!(load("{ channels: { $include: 'more.json5' } }").is_ok(), "the twin");
    let error = load("{ gateway: { auth: { password: '${P}' } } }").unwrap_err();
    assert!(error.contains("gateway.auth.password_in_environment"), "{error}");
    let error = load("{ gateway: { auth: { token: 'vault:other' } } }").unwrap_err();
    assert!(error.contains("gateway.auth.token_elsewhere"), "{error}");
}

#[test]
fn missing_file_is_the_defaults_and_an_unreadable_one_is_an_error() {
    assert_eq!(Config::load(Path::new("/nonexistent/moltbot.json")).unwrap(), Config::default());
    assert!(matches!(Config::load(Path::new("/")), Err(ConfigError::Read { .. })));
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(MAX_FILE + 1).unwrap();
    assert!(matches!(Config::load(file.path()), Err(ConfigError::TooLarge { .. })));
}

#[test]
fn fresh_installation_has_a_hundred_points() {
    let all = findings(&Config::default());
    assert_eq!((score(&all), rating(score(&all))), (100, "EXCELLENT"), "{all:?}");
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[\\x20-\\x7e\\n\u{e9}\u{1f600}]{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn nothing_that_is_nearly_a_configuration_makes_it_panic(
        key in "[a-zA-Z$]{0,12}", value in "(true|null|-?[0-9]{1,20}|'[^']{0,20}'|\\[[0-9,]*\\]|\\{\\})"
    ) {
        for around in ["", "gateway", "channels", "agents", "logging"] {
            let text = if around.is_empty() { format!("{{ '{key}': {value} }}") } else { format!("{{ {around}: {{ '{key}': {value} }} }}") };
            if let Err(error) = parse(&text) {
                assert!(error.starts_with(FILE), "{error}");
            }
        }
    }
}

#[cfg(feature = "schema")]
#[test]
fn every_key_of_the_schema_is_described() {
    fn look(value: &serde_json::Value, at: &str) {
        if let Some(members) = value.get("properties").and_then(|found| found.as_object()) {
            for (key, member) in members {
                let at = format!("{at}.{key}");
                assert!(member.get("description").is_some() || member.get("$ref").is_some(), "{at} says nothing");
                look(member, &at);
            }
        }
    }
    let schema = json_schema();
    look(&schema, "");
    for (name, part) in schema["$defs"].as_object().unwrap() {
        look(part, name);
    }
}

#[test]
fn patterns_beyond_the_bounds_are_refused_and_those_within_them_are_taken() {
    let with = |count: usize, length: usize| {
        parse(&serde_json::json!({ "logging": { "redactPatterns": vec!["x".repeat(length); count] } }).to_string())
    };
    assert!(with(32, 512).is_ok());
    assert!(with(33, 1).unwrap_err().contains("at most 32"));
    assert!(with(1, 513).unwrap_err().contains("redactPatterns[0]"));
}
