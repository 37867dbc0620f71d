use super::*;

fn done(text: &str) -> Migrated {
    let migrated = migrate(text, Path::new("openclaw.json")).unwrap();
    let config = Config::parse(&migrated.text, Path::new("moltbot.json"), &|_| None);
    config.unwrap_or_else(|error| panic!("what was migrated loads: {error}\n{}", migrated.text));
    migrated
}

fn what<'m>(migrated: &'m Migrated, path: &str) -> &'m str {
    let found = migrated.changes.iter().find(|change| change.path == path);
    found.map_or_else(|| panic!("nothing about {path}: {:?}", migrated.changes), |change| &change.what)
}

/// As upstream's wizard writes one, with what people add to it.
const UPSTREAM: &str = r#"{
  // by hand
  meta: { lastTouchedVersion: "2026.1.30", lastTouchedAt: "2026-01-31T00:00:00Z" },
  wizard: { lastRunAt: "2026-01-31" },
  gateway: { mode: "local", bind: "lan", port: 19001, auth: { mode: "token", token: "clear-token", allowTailscale: true },
    tailscale: { mode: "funnel" }, controlUi: { allowInsecureAuth: true }, reload: { mode: "hybrid", debounceMs: 300 } },
  logging: { redactSensitive: "off", file: "/tmp/x.log", redactPatterns: ["a+"] },
  models: { providers: { anthropic: { apiKey: "sk-ant-clear", baseUrl: "https://api.anthropic.com" }, bare: { models: [] } } },
  agents: { defaults: { model: { primary: "anthropic/claude-x" }, workspace: "~/clawd", sandbox: { mode: "off", docker: { network: "bridge", memory: "2g", image: "mine:1" } } },
    list: [ { id: "main", tools: { deny: ["browser"] } } ] },
  channels: {
    telegram: { enabled: true, dmPolicy: "open", botToken: "123:clear", allowFrom: ["*", 42, "tg:43"], groupPolicy: "open",
      accounts: { second: { botToken: "456:clear" } } },
    discord: { token: "${DISCORD_BOT_TOKEN}", dm: { policy: "open", allowFrom: ["99"] } },
    nostr: { relay: "wss://x" },
  },
  tools: { elevated: { enabled: true, allowFrom: { telegram: ["42"] } }, exec: { host: "gateway" } },
  commands: { bash: true, native: "auto" },
  plugins: { entries: { "a.b": { enabled: true } } },
}"#;

#[test]
fn upstreams_configuration_becomes_one_that_loads_and_every_step_is_said() {
    let migrated = done(UPSTREAM);
    let value: Value = serde_json::from_str(&migrated.text).unwrap();
    assert_eq!(value["gateway"]["port"], 19_001);
    assert_eq!(value["channels"]["telegram"]["dmPolicy"], "pairing");
    assert_eq!(value["channels"]["telegram"]["groupPolicy"], "allowlist");
    assert_eq!(value["channels"]["discord"]["dm"]["policy"], "pairing");
    assert_eq!(value["logging"]["redactSensitive"], "tools");
    assert_eq!(value["logging"]["redactPatterns"], json!(["a+"]));
    let anthropic = &value["models"]["providers"]["anthropic"];
    assert_eq!(anthropic["apiKey"], "vault:anthropic.apikey");
    assert_eq!(value["agents"]["defaults"]["sandbox"]["docker"]["image"], "mine:1");
    for (path, part) in [
        ("gateway.bind", "loopback only"),
        ("gateway.tailscale.mode", "internet"),
        ("gateway.auth.token", "moves into the vault"),
        ("gateway.controlUi.allowInsecureAuth", "left out"),
        ("wizard", "not known here"),
        ("logging.file", "not known here"),
        ("agents.defaults.sandbox.mode", "every command runs in a sandbox"),
        ("agents.defaults.sandbox.docker.network", "no network"),
        ("agents.defaults.sandbox.docker.memory", "between"),
        ("models.providers.bare.baseUrl", "left out"),
        ("agents.defaults.model", "not among models.providers"),
        ("channels.telegram.dmPolicy", "open -> pairing"),
        ("channels.telegram.groupPolicy", "open -> allowlist"),
        ("channels.nostr", "not known here"),
        ("channels.discord.token", "into the vault"),
        ("tools.elevated.enabled", "no command runs on the host"),
        ("commands.bash", "left out"),
        ("plugins", "not known here"),
        ("logging.redactSensitive", "off -> tools"),
    ] {
        assert!(what(&migrated, path).contains(part), "{path}: {}", what(&migrated, path));
    }
    let mut secrets: Vec<(&str, &str)> = migrated.secrets.iter().map(|found| (&*found.path, &*found.value)).collect();
    secrets.sort_unstable();
    assert_eq!(
        secrets,
        [
            ("channels.telegram.accounts.second.botToken", "456:clear"),
            ("channels.telegram.botToken", "123:clear"),
            ("gateway.auth.token", "clear-token"),
            ("models.providers.anthropic.apiKey", "sk-ant-clear"),
        ]
    );
    assert!(!migrated.text.contains("clear"), "no secret is left: {}", migrated.text);
    assert!(!format!("{migrated:?}").contains("sk-ant-clear"));
    let allowed: Vec<(&str, &str)> = migrated.allowed.iter().map(|(on, id)| (&**on, &**id)).collect();
    assert_eq!(allowed, [("discord", "99"), ("telegram", "42"), ("telegram", "tg:43")]);
}

#[test]
fn migration_of_ours_changes_nothing() {
    let ours = "{ gateway: { port: 5 }, egress: { allow: ['a:1'] }, models: { providers: { a: { baseUrl: 'https://x', apiKey: 'vault:a' } } } }";
    let migrated = done(ours);
    assert_eq!(migrated.changes, []);
    assert_eq!(done(&migrated.text).text, migrated.text);
}

#[test]
fn what_is_no_configuration_is_an_error() {
    for text in ["", "[]", "{", "nonsense"] {
        assert!(migrate(text, Path::new("x")).is_err(), "{text}");
    }
}

proptest::proptest! {
    #[test]
    fn anything_that_is_json_ends(key in "[a-zA-Z.]{1,10}", inner in "[a-zA-Z]{1,10}", value in "(true|null|[0-9]{1,5}|'[a-z*]{0,9}'|\\[1,'a'\\]|\\{\\})") {
        for around in ["gateway", "channels", "agents", "tools", "session", "logging"] {
            let text = format!("{{ {around}: {{ '{key}': {{ '{inner}': {value} }}, '{inner}': {value} }} }}");
            let _ = migrate(&text, Path::new("x"));
        }
    }
}
