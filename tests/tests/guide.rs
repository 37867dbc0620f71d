//! Everything that the hardening guide and its companions tell an operator to type works, as typed.

use std::process::Stdio;
use system_tests::client::Client;
use system_tests::{As, Sandbox, System, programs};

/// Lines of the `bash` blocks of a page.
fn commands(page: &str) -> Vec<&str> {
    let blocks = page.split("```bash\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.flat_map(str::lines).filter(|line| !line.trim().is_empty() && !line.starts_with('#')).collect()
}

#[test]
fn every_command_of_the_guide_works_as_typed() {
    let guide = commands(include_str!("../../docs/security/hardening-guide.md"));
    let page = commands(include_str!("../../docs/security.mdx"));
    assert!(guide.len() > 25 && page.len() == 3, "{} and {}", guide.len(), page.len());
    let mut system = System::prepare(As::User, &Sandbox::Native);
    // The guide names the usual state directory, so this one is it: below a home of the test's own.
    let home = system.state().parent().unwrap().join("home");
    std::fs::create_dir(&home).unwrap();
    std::os::unix::fs::symlink(system.state(), home.join(".moltbot")).unwrap();
    // Somebody to revoke, something to grep for, something to migrate.
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
    for line in page.into_iter().chain(guide) {
        let mut command = system.command("sh".as_ref());
        let path = format!("{}:{}", programs().display(), std::env::var("PATH").unwrap());
        command.args(["-c", line]).env("PATH", path).env("HOME", &home).env("ANTHROPIC_API_KEY", "sk-test");
        let output = command.env_remove("MOLTBOT_STATE_DIR").stdin(Stdio::null()).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{line}\n{out}\n{err}\n{}", system.log());
    }
}
