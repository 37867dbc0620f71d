//! Everything that the hardening guide and its companions tell an operator to type works, as typed.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use system_tests::client::Client;
use system_tests::{As, Sandbox, System, programs};

/// Lines of the `bash` blocks of a page.
fn commands(page: &str) -> Vec<&str> {
    let blocks = page.split("```bash\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.flat_map(str::lines).filter(|line| !line.trim().is_empty() && !line.starts_with('#')).collect()
}

/// A system whose state directory is the usual one of a home of its own, with somebody to revoke, something to grep for and
/// something to migrate; and that home.
fn at_home() -> (System, PathBuf) {
    let mut system = System::prepare(As::User, &Sandbox::Native);
    let home = system.state().parent().unwrap().join("home");
    std::fs::create_dir(&home).unwrap();
    std::os::unix::fs::symlink(system.state(), home.join(".moltbot")).unwrap();
    let old = home.join(".openclaw");
    std::fs::create_dir(&old).unwrap();
    std::fs::write(old.join("openclaw.json"), "{}").unwrap();
    if system_tests::is_root() {
        std::os::unix::fs::chown(&home, Some(system_tests::USER), Some(system_tests::USER)).unwrap();
    }
    system.up();
    let _ = system.says(&["allowlist", "add", "telegram", "8734062810", "--name", "somebody"]);
    let _ = system.says(&["chat", "/exec echo eval curl"]);
    // A login that fails, for the log.
    let answer = Client::connect(system.port()).log_in(4, 4, "wrong-token-wrong-token-wrong-token");
    assert_eq!(answer["ok"], false);
    (system, home)
}

/// Types lines into a shell in that home.
fn type_into(shell: &str, lines: &str, system: &System, home: &Path) {
    let mut command = system.command(shell.as_ref());
    let path = format!("{}:{}", programs().display(), std::env::var("PATH").unwrap());
    command.args(["-c", lines]).env("PATH", path).env("HOME", home).env("ANTHROPIC_API_KEY", "sk-test");
    let output = command.env_remove("MOLTBOT_STATE_DIR").stdin(Stdio::null()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{lines}\n{out}\n{err}\n{}", system.log());
}

#[test]
fn every_command_of_the_guide_works_as_typed() {
    let guide = commands(include_str!("../../docs/security/hardening-guide.md"));
    let page = commands(include_str!("../../docs/security.mdx"));
    assert!(guide.len() > 25 && page.len() == 3, "{} and {}", guide.len(), page.len());
    let (system, home) = at_home();
    for line in page.into_iter().chain(guide) {
        type_into("sh", line, &system, &home);
    }
}

/// What the plan of this hardening tells an operator to type, line by line, in the order of its sections: the environment,
/// the file of secrets, the audit, a token that leaked, what happened, the incident, the migration; which asks, at a terminal,
/// what `--yes` says here.
const PLAN: &str = r#"
export MOLTBOT_GATEWAY_TOKEN="$(openssl rand -base64 32)"
export ANTHROPIC_API_KEY="sk-ant-..."
export OPENAI_API_KEY="sk-..."
export TELEGRAM_BOT_TOKEN="123456:ABC..."
export DISCORD_BOT_TOKEN="..."
cat > ~/.moltbot/secrets.env << 'EOF'
export MOLTBOT_GATEWAY_TOKEN="your-token"
export ANTHROPIC_API_KEY="your-key"
EOF
chmod 600 ~/.moltbot/secrets.env
[ -f ~/.moltbot/secrets.env ] && source ~/.moltbot/secrets.env
moltbot security audit --deep
moltbot security audit --fix
export MOLTBOT_GATEWAY_TOKEN="$(openssl rand -base64 32)"
moltbot config set gateway.auth.token "$MOLTBOT_GATEWAY_TOKEN"
moltbot gateway restart
cat ~/.moltbot/logs/auth-audit.jsonl | grep '"success":false'
cat ~/.moltbot/logs/command-audit.jsonl | grep -E '(eval|wget|curl)'
moltbot sessions reset --all
moltbot pairing list
moltbot pairing revoke telegram 8734062810
moltbot security audit --deep
moltbot security audit --fix
moltbot security migrate --yes
"#;

#[test]
fn every_command_of_the_plan_works_as_typed() {
    let (system, home) = at_home();
    type_into("bash", &format!("set -euo pipefail\n{PLAN}"), &system, &home);
    assert_eq!(std::fs::read_to_string(home.join(".moltbot/secrets.env")).unwrap().lines().count(), 2);
}
