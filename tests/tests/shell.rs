//! `moltbot shell`: the same commands as on the command line, from a script and on a terminal.

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use system_tests::client::Client;
use system_tests::{As, PATIENCE, Sandbox, System, programs, skip};

fn script(system: &System, text: &str) -> (bool, String, String) {
    let mut command = system.command(&programs().join("moltbot"));
    command.arg("--state-dir").arg(system.state()).arg("shell");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn script_runs_line_by_line_and_ends_at_the_first_that_fails() {
    let system = System::start(As::User, &Sandbox::Native);
    let (ok, out, err) =
        script(&system, "# mine\n\nstatus --json\nmoltbot config get gateway.bind\nexit\nno such thing\n");
    assert!(ok, "{err}");
    let mut lines = out.lines();
    let status: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    assert_eq!((status["ready"].as_bool(), lines.next()), (Some(true), Some("loopback")));

    let (ok, out, err) = script(&system, "config get gateway.bind\nconfig get no.such.key\nstatus\n");
    assert!(!ok && out == "loopback\n" && err.contains("no.such.key"), "{out}{err}");
    let (ok, _, err) = script(&system, "stat 'us\n");
    assert!(!ok && err.contains("quote"), "{err}");
    let (ok, _, err) = script(&system, "statsu\n");
    assert!(!ok && err.contains("status"), "clap names what was meant: {err}");
    let (ok, out, _) = script(&system, "help config set\n");
    assert!(ok && out.contains("--dry-run"), "{out}");
}

/// Whether this program is here, and its word for where it is not.
fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        skip(&format!("{program} is not here"));
    }
    found
}

/// What a shell of others' answers to these lines, in which `moltbot` is ours.
fn others(shell: &str, lines: &str) -> String {
    let path = format!("{}:{}", programs().display(), std::env::var("PATH").unwrap());
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(shell);
    command.args(["-c", lines]).env("PATH", path).env("HOME", home.path()).stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success() && output.stderr.is_empty(), "{shell}: {}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn real_shells_complete_commands_and_options_by_our_scripts() {
    if has("bash") {
        let complete = "source <(moltbot completion bash); COMP_WORDS=(moltbot approvals approve --u); COMP_CWORD=3; \
                        _moltbot moltbot --u approve; echo \"${COMPREPLY[@]}\"";
        assert_eq!(others("bash", complete).trim(), "--uses");
    }
    if has("fish") {
        let options = others("fish", "moltbot completion fish | source; complete -C 'moltbot logs verify --'");
        assert!(options.contains("--from-key") && !options.contains("--uses"), "{options}");
        let commands = others("fish", "moltbot completion fish | source; complete -C 'moltbot security '");
        assert!(commands.contains("audit") && !commands.contains("approve"), "{commands}");
    }
    if has("zsh") {
        let loads = "autoload -U compinit; compinit -D; source <(moltbot completion zsh); print ${_comps[moltbot]}";
        assert_eq!(others("zsh", loads).trim(), "_moltbot");
    }
}

#[test]
fn real_man_has_nothing_to_say_against_our_pages() {
    if !has("man") {
        return;
    }
    let pages = tempfile::tempdir().unwrap();
    let made = Command::new(programs().join("moltbot")).arg("man").arg(pages.path()).status().unwrap();
    assert!(made.success());
    let mut count = 0;
    for page in std::fs::read_dir(pages.path()).unwrap() {
        let page = page.unwrap().path();
        let mut man = Command::new("man");
        let shown = man.args(["--warnings", "-E", "UTF-8", "-l"]).arg(&page).env("MANWIDTH", "80").output().unwrap();
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(shown.stderr.is_empty(), "{}: {}", page.display(), String::from_utf8_lossy(&shown.stderr));
        assert!(text.contains("SYNOPSIS") && text.contains("moltbot"), "{}", page.display());
        count += 1;
    }
    assert!(count > 90, "{count}");
}

/// A terminal with the shell on it.
struct Terminal {
    child: std::process::Child,
    master: std::fs::File,
    seen: String,
}

impl Terminal {
    fn open(system: &System) -> Self {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave = std::fs::OpenOptions::new().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        let mut command = system.command(&programs().join("moltbot"));
        command.arg("--state-dir").arg(system.state()).arg("shell").env("TERM", "xterm");
        let io = || Stdio::from(slave.try_clone().unwrap());
        let child = command.stdin(io()).stdout(io()).stderr(io()).spawn().unwrap();
        rustix::io::ioctl_fionbio(&master, true).unwrap();
        Self { child, master: master.into(), seen: String::new() }
    }

    fn until(&mut self, wanted: &str) {
        let begun = Instant::now();
        let mut bytes = [0u8; 4_096];
        while !self.seen.contains(wanted) {
            assert!(begun.elapsed() < PATIENCE, "no {wanted:?} in {:?}", self.seen);
            match self.master.read(&mut bytes) {
                Ok(count) => self.seen += &String::from_utf8_lossy(&bytes[..count]),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        self.seen = self.seen.split_once(wanted).unwrap().1.to_owned();
    }

    /// What follows, up to what ends a word.
    fn word(&mut self) -> String {
        let digits = |seen: &str| seen.chars().take_while(char::is_ascii_digit).collect::<String>();
        while digits(&self.seen).len() == self.seen.len() {
            let mut bytes = [0u8; 1];
            if let Ok(1..) = self.master.read(&mut bytes) {
                self.seen.push(char::from(bytes[0]));
            }
        }
        digits(&self.seen)
    }

    fn say(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn terminal_completes_keeps_history_and_tells_of_what_happens() {
    let system = System::start(As::User, &Sandbox::Native);
    let mut terminal = Terminal::open(&system);
    terminal.until("Tab completes");
    terminal.until("moltbot> ");
    terminal.say("config get gateway.bi\t\x15");
    terminal.say("lockdown stat\t\r");
    terminal.until("lockdown status");
    terminal.until("moltbot> ");
    // A role dies while nobody types.
    system_tests::signal(system.pid("egress"), rustix::process::Signal::KILL);
    terminal.until("egress");
    terminal.say("config set gateway.auth.token hunter2hunter2\r");
    terminal.until("vault.short");
    terminal.say("exit\r");
    let status = system_tests::wait_for("the shell's end", || terminal.child.try_wait().unwrap());
    assert!(status.success());
    let kept = system.state().join("shell_history");
    let history = std::fs::read_to_string(&kept).unwrap();
    assert!(history.contains("lockdown status") && !history.contains("hunter2"), "{history}");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&kept).unwrap());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn what_waits_is_told_of_beside_the_line_that_is_typed_and_its_end_too() {
    let mut system = System::prepare(As::User, &Sandbox::Native);
    system.set_exec(json!({ "ask": "always" }));
    system.up();
    let mut terminal = Terminal::open(&system);
    terminal.until("moltbot> ");
    terminal.say("lockdown sta");
    terminal.until("lockdown sta");
    let mut client = Client::logged_in(system.port(), &system.token());
    client.send("1", "chat.send", &json!({ "sessionKey": "main", "message": "/exec ls /", "idempotencyKey": "r1" }));
    terminal.until("waits for your word: `ls /` of agent:main:main; approvals show a-");
    let id = format!("a-{}", terminal.word());
    // What was typed is there again.
    terminal.until("lockdown sta");
    terminal.say("tus\r");
    terminal.until("open");
    assert!(system.moltbot(&["approvals", "deny", &id]).status.success());
    terminal.until(&format!("{id} waits no more"));
    let mut stranger = Client::logged_in(system.port(), &system.token());
    let said = json!({ "channel": "telegram", "senderId": "8734062810", "senderName": "Mallory", "message": "hello",
        "idempotencyKey": "r2" });
    stranger.send("1", "channels.inbound", &said);
    assert_eq!(stranger.answer("1")["payload"]["status"], "pairing");
    terminal.until("pairing.request");
}
