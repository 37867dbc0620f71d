//! Credentials in clear, moved into the vault of a running Moltbot and written over where they lay.

use serde_json::{Value, json};
use std::path::Path;
use system_tests::{As, System, in_both_layouts};

const BOT: &str = "123456789:AAplain-bot-token";
const MODEL: &str = "sk-plain-key-of-a-model";
const OAUTH: &str = "plain-refresh-token";

/// The state directory of an older gateway.
fn make(system: &System, dir: &Path) {
    for part in ["credentials", "agents/main/agent"] {
        std::fs::create_dir_all(dir.join(part)).unwrap();
    }
    let config = format!(
        "{{\n  // my bot\n  channels: {{ telegram: {{ botToken: '{BOT}', tokenFile: '/x' }} }},\n  models: {{ providers: {{ a: {{ apiKey: '{MODEL}' }} }} }},\n  gateway: {{ auth: {{ token: '${{OPENCLAW_GATEWAY_TOKEN}}' }} }},\n}}\n"
    );
    std::fs::write(dir.join("openclaw.json"), &config).unwrap();
    std::fs::write(dir.join("openclaw.json.bak"), &config).unwrap();
    std::fs::write(dir.join(".env"), format!("HOME=/x\nexport OPENAI_API_KEY=\"{MODEL}\"\n")).unwrap();
    let profiles =
        json!({ "version": 1, "profiles": { "openai:default": { "type": "oauth", "refresh": OAUTH, "expires": 5 } } });
    std::fs::write(dir.join("agents/main/agent/auth-profiles.json"), profiles.to_string()).unwrap();
    let allowed = json!({ "version": 1, "allowFrom": ["8734062810", "*"] });
    std::fs::write(dir.join("credentials/telegram-allowFrom.json"), allowed.to_string()).unwrap();
    if system_tests::is_root() && system.who() == As::User {
        for path in [
            "",
            "openclaw.json",
            "openclaw.json.bak",
            ".env",
            "agents",
            "agents/main",
            "agents/main/agent",
            "agents/main/agent/auth-profiles.json",
            "credentials",
            "credentials/telegram-allowFrom.json",
        ] {
            std::os::unix::fs::chown(dir.join(path), Some(system_tests::USER), Some(system_tests::USER)).unwrap();
        }
    }
}

fn holding(dir: &Path, words: &str) -> usize {
    let mut count = 0;
    for entry in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            count += holding(&entry, words);
        } else if entry.is_file() {
            let bytes = std::fs::read(&entry).unwrap();
            count += usize::from(bytes.windows(words.len()).any(|window| window == words.as_bytes()));
        }
    }
    count
}

fn import(system: &System, dir: &Path, more: &[&str]) -> (bool, Value) {
    let dir = dir.to_str().unwrap();
    let output = system.moltbot(&[&["--json", "secrets", "import", dir], more].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    // Where something is left, the list comes first and the error after it.
    let first = text.lines().next().unwrap_or_default();
    (output.status.success(), serde_json::from_str(first).unwrap())
}

in_both_layouts! {
    fn credentials_in_clear_are_in_the_vault_and_nowhere_else_after_an_import(system: System) {
        let dir = system.state().parent().unwrap().join("old");
        std::fs::create_dir(&dir).unwrap();
        make(&system, &dir);
        assert_eq!((holding(&dir, BOT), holding(&dir, MODEL), holding(&dir, OAUTH)), (2, 3, 1));
        let before = std::fs::read(dir.join("openclaw.json")).unwrap();

        let (ok, plan) = import(&system, &dir, &["--dry-run"]);
        assert!(ok && plan["secrets"].as_array().unwrap().len() == 6, "{plan}");
        assert!(!plan.to_string().contains(BOT), "a plan shows no value");
        assert_eq!(std::fs::read(dir.join("openclaw.json")).unwrap(), before);
        assert!(!system.moltbot(&["secrets", "import", dir.to_str().unwrap()]).status.success(), "not without a yes");
        assert_eq!(holding(&dir, BOT), 2);

        // The wildcard is what is left alone.
        let (ok, done) = import(&system, &dir, &["--yes"]);
        assert!(!ok && done["left"].as_array().unwrap().len() == 1 && done.to_string().contains("allowlist.wildcard"), "{done}");
        assert_eq!(done["moved"], json!(["a.apikey", "auth.main.profiles.openai.default.refresh", "telegram.bottoken"]));
        assert_eq!((holding(&dir, BOT), holding(&dir, MODEL), holding(&dir, OAUTH)), (0, 0, 0));
        assert_eq!(holding(system.state(), BOT), 0);
        let text = std::fs::read_to_string(dir.join("openclaw.json")).unwrap();
        assert!(text.contains("// my bot") && text.contains("vault:telegram.bottoken"), "{text}");
        assert!(text.contains("${OPENCLAW_GATEWAY_TOKEN}") && text.contains("tokenFile: '/x'"), "{text}");
        let env = std::fs::read_to_string(dir.join(".env")).unwrap();
        assert!(env.starts_with("HOME=/x\n# OPENAI_API_KEY is in the vault"), "{env}");

        // What is in the vault is what was in the file.
        let policy = system.state().parent().unwrap().join("policy");
        std::fs::write(&policy, "reveal yes\n").unwrap();
        let _ = system.says(&["secrets", "policy", "telegram.bottoken", "--file", policy.to_str().unwrap()]);
        assert_eq!(system.says(&["secrets", "reveal", "telegram.bottoken"]).trim(), BOT);
        let allowed = system.says(&["--json", "allowlist", "list"]);
        assert!(allowed.contains("8734062810") && !allowed.contains('*'), "{allowed}");
        let sets = system.records("secret-audit").into_iter().filter(|record| record["verb"] == "secrets.set").count();
        assert_eq!(sets, 3);

        // A second time there is nothing to do, and a name that is taken is not written over unasked.
        let (ok, again) = import(&system, &dir, &["--dry-run"]);
        assert!(ok && again["secrets"].as_array().unwrap().is_empty(), "{again}");
        make(&system, &dir);
        let (ok, refused) = import(&system, &dir, &["--yes"]);
        assert!(!ok && refused["moved"].as_array().unwrap().is_empty(), "{refused}");
        assert_eq!(holding(&dir, BOT), 2, "what the vault did not take stays where it is");
        let (_, replaced) = import(&system, &dir, &["--yes", "--replace"]);
        assert_eq!(replaced["moved"].as_array().unwrap().len(), 3);
        assert_eq!(holding(&dir, BOT), 0);
    }
}
