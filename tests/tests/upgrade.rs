//! What runs is what is in the log: each program's SHA-256 is recorded before it is started for the first time, and a restart
//! takes a new one in without refusing anybody.

use serde_json::Value;
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use system_tests::client::Client;
use system_tests::{As, Sandbox, System, is_root, programs, skip, wait_for};

fn sha256(path: &Path) -> String {
    Sha256::digest(std::fs::read(path).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Programs of this test's own, which it may exchange.
fn own_programs() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("moltbot-upgrade.").tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for entry in std::fs::read_dir(programs()).unwrap().flatten() {
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    dir
}

/// Puts another program in the place of this one, as a package manager does: what it says of itself stays.
fn exchange(path: &Path) -> String {
    let next = path.with_extension("new");
    std::fs::copy(path, &next).unwrap();
    std::fs::OpenOptions::new().append(true).open(&next).unwrap().write_all(b"another build").unwrap();
    std::fs::rename(&next, path).unwrap();
    sha256(path)
}

struct Installed {
    system: System,
    programs: tempfile::TempDir,
}

impl Installed {
    fn new(who: As) -> Self {
        Self { system: System::prepare(who, &Sandbox::Native), programs: own_programs() }
    }

    fn program(&self, name: &str) -> PathBuf {
        self.programs.path().join(name)
    }

    fn moltbot(&self, args: &[&str]) -> Value {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn run(&self, args: &[&str]) -> std::process::Output {
        let mut command = self.system.command(&self.program("moltbot"));
        command.arg("--state-dir").arg(self.system.state()).arg("--json").args(args).output().unwrap()
    }

    fn records(&self) -> Vec<Value> {
        self.system.records("system-audit")
    }

    /// Position of the first record that `is`.
    fn position(&self, is: impl Fn(&Value) -> bool) -> Option<usize> {
        self.records().iter().position(is)
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let _ = self.run(&["down"]);
    }
}

fn executable(record: &Value, role: &str, sha256: &str) -> bool {
    record["event"] == "executable" && record["role"] == role && record["detail"] == format!("sha256:{sha256}")
}

fn every_program_is_recorded_before_it_is_started(who: As) {
    let installed = Installed::new(who);
    let _ = installed.moltbot(&["up", "--port", "0"]);
    for role in ["auditd", "vault", "sandboxd", "dialer", "egress", "gateway"] {
        let hash = sha256(&installed.program(&format!("moltbot-{role}")));
        let recorded = installed.position(|record| executable(record, role, &hash));
        let attested = installed.position(|record| record["event"] == "attested" && record["role"] == role);
        assert!(recorded.is_some() && recorded < attested, "{role}: {recorded:?} {attested:?}");
    }
    // Known programs are not recorded anew at the next start, and an exchanged one is.
    let _ = installed.moltbot(&["down"]);
    let before = installed.records().len();
    let hash = exchange(&installed.program("moltbot-egress"));
    let _ = installed.moltbot(&["up", "--port", "0"]);
    let records = installed.records().split_off(before);
    let recorded: Vec<&Value> = records.iter().filter(|record| record["event"] == "executable").collect();
    assert!(recorded.len() == 1 && executable(recorded[0], "egress", &hash), "{recorded:?}");
}

fn restart_takes_a_new_program_in_and_records_it_first(who: As) {
    let installed = Installed::new(who);
    let _ = installed.moltbot(&["up", "--port", "0"]);
    let before = sha256(&installed.program("moltbot-gateway"));
    // Its own death does not bring the new program in: nobody has asked for it.
    let hash = exchange(&installed.program("moltbot-gateway"));
    assert_ne!(before, hash);
    let pid = u32::try_from(installed.moltbot(&["gateway", "restart", "vault"])["pid"].as_u64().unwrap()).unwrap();
    assert!(system_tests::is_alive(pid));
    let restarted = installed.moltbot(&["gateway", "restart", "gateway"]);
    let pid = restarted["pid"].as_u64().unwrap();
    let verb = installed.position(|record| {
        record["verb"] == "restart" && record["detail"] == format!("gateway, new executable sha256:{hash}")
    });
    let attested = installed
        .position(|record| record["event"] == "attested" && record["epoch"] == 2 && record["role"] == "gateway");
    assert!(verb.is_some() && verb < attested, "{verb:?} {attested:?}");
    if is_root() {
        assert_eq!(sha256(Path::new(&format!("/proc/{pid}/exe"))), hash);
    }
    // The same program again is a restart like any other.
    let _ = installed.moltbot(&["gateway", "restart"]);
    let last = installed.records().into_iter().rfind(|record| record["verb"] == "restart").unwrap();
    assert_eq!(last["detail"], "gateway");
}

#[test]
fn every_program_is_recorded_before_it_is_started_as_root() {
    if !is_root() {
        return skip("not root");
    }
    every_program_is_recorded_before_it_is_started(As::Root);
}

#[test]
fn restart_takes_a_new_program_in_and_records_it_first_as_root() {
    if !is_root() {
        return skip("not root");
    }
    restart_takes_a_new_program_in_and_records_it_first(As::Root);
}

#[test]
fn every_program_is_recorded_before_it_is_started_as_user() {
    // The programs are root's where root runs the tests, which is as good as the user's own.
    every_program_is_recorded_before_it_is_started(As::User);
}

#[test]
fn restart_takes_a_new_program_in_and_records_it_first_as_user() {
    restart_takes_a_new_program_in_and_records_it_first(As::User);
}

#[test]
fn program_that_others_may_change_is_not_taken_in() {
    let installed = Installed::new(As::User);
    let _ = installed.moltbot(&["up", "--port", "0"]);
    let path = installed.program("moltbot-egress");
    let _ = exchange(&path);
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let output = installed.run(&["gateway", "restart", "egress"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("others can change it"), "{said}");
    assert_eq!(installed.moltbot(&["status"])["ready"], true);
}

/// One request on a connection of its own; what failed, where something did.
fn health(port: u16) -> Result<(), std::io::Error> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    write!(stream, "GET /health HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    if text.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(std::io::Error::other(text)) }
}

#[test]
fn restart_of_gateway_drops_no_connection() {
    let system = System::start(As::User, &Sandbox::Native);
    let (port, token) = (system.port(), system.token());
    let (over, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    let failures: Vec<String> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut failures = Vec::new();
                    while !over.load(Ordering::Acquire) {
                        match health(port) {
                            Ok(()) => drop(answered.fetch_add(1, Ordering::Relaxed)),
                            Err(error) => failures.push(error.to_string()),
                        }
                    }
                    failures
                })
            })
            .collect();
        for epoch in 2..=4 {
            let before = answered.load(Ordering::Relaxed);
            wait_for("answers", || (answered.load(Ordering::Relaxed) > before + 20).then_some(()));
            let mut client = Client::logged_in(port, &token);
            let _ = system.says(&["gateway", "restart"]);
            assert_eq!(client.closed().0, 1012, "who is connected is told to come again");
            assert_eq!(system.role("gateway")["epoch"], epoch);
            assert!(Client::logged_in(port, &token).chat("/help", "after").contains("/exec"));
        }
        over.store(true, Ordering::Release);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    assert!(
        failures.is_empty(),
        "{} of {}: {:?}",
        failures.len(),
        answered.into_inner(),
        &failures[..failures.len().min(5)]
    );
}
