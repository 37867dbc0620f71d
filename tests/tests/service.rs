//! Moltbot as the service of a manager that speaks sd_notify(3): the test is the manager, at a socket of its own.

use rustix::process::Signal;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use system_tests::{As, Sandbox, System, programs, signal, wait_for};

struct Service {
    system: System,
    broker: Child,
    manager: UnixDatagram,
    log: Arc<Mutex<Vec<String>>>,
}

impl Service {
    /// Starts broker as a manager does, to be heard from within `watchdog`; its log is a journal's where `journal`.
    fn start(watchdog: Duration, journal: bool) -> Self {
        let system = System::prepare(As::User, &Sandbox::Native);
        let path = system.state().with_file_name("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut command = system.command(&programs().join("moltbot-broker"));
        command.arg("--state-dir").arg(system.state()).args(["--port", "0"]).stdin(Stdio::null());
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        let (reader, writer) = std::io::pipe().unwrap();
        let stat = rustix::fs::fstat(&writer).unwrap();
        let named = if journal { format!("{}:{}", stat.st_dev, stat.st_ino) } else { "1:1".to_owned() };
        let broker = command.env("JOURNAL_STREAM", named).stderr(writer).spawn().unwrap();
        drop(command);
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        Self { system, broker, manager, log }
    }

    fn hear(&self) -> String {
        let mut words = [0u8; 512];
        let count = self.manager.recv(&mut words).expect("a word within half a minute");
        String::from_utf8_lossy(&words[..count]).into_owned()
    }

    /// Words until this one.
    fn until(&self, wanted: &str) -> Vec<String> {
        let mut heard = Vec::new();
        loop {
            heard.push(self.hear());
            if heard.last().is_some_and(|word| word.starts_with(wanted)) {
                return heard;
            }
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.broker.kill();
        let _ = self.broker.wait();
    }
}

#[test]
fn manager_hears_ready_then_life_then_the_stop() {
    let mut service = Service::start(Duration::from_secs(2), true);
    let heard = service.until("READY=1");
    assert_eq!(service.system.status()["ready"], true, "it said so when it was so: {heard:?}");
    for _ in 0..2 {
        assert_eq!(service.hear(), "WATCHDOG=1");
    }
    // A role that hangs is broker's business: it is found, killed and replaced, and the service lives on.
    let hung = service.system.pid("egress");
    signal(hung, Signal::STOP);
    service.system.wait_epoch("egress", 2);
    let _ = service.until("WATCHDOG=1");
    signal(service.broker.id(), Signal::TERM);
    let _ = service.until("STOPPING=1");
    assert!(service.broker.wait().unwrap().success());
    // Each line of the log has its priority in front, and nothing that is no line of its own.
    let lines = wait_for("the log", || {
        let lines = service.log.lock().unwrap().clone();
        lines.iter().any(|line| line.contains("ready on")).then_some(lines)
    });
    for line in lines {
        let rest = ["<1>", "<4>", "<6>"].iter().find_map(|priority| line.strip_prefix(priority));
        assert!(rest.is_some_and(|rest| rest.contains(": ") && !rest.chars().any(char::is_control)), "{line:?}");
    }
}

#[test]
fn broker_that_hangs_says_nothing() {
    let service = Service::start(Duration::from_secs(1), false);
    let _ = service.until("WATCHDOG=1");
    signal(service.broker.id(), Signal::STOP);
    // What was on its way when it stopped.
    service.manager.set_read_timeout(Some(Duration::from_millis(1_500))).unwrap();
    while service.manager.recv(&mut [0; 64]).is_ok() {}
    let silence = service.manager.recv(&mut [0; 64]);
    assert!(silence.is_err(), "a manager would end it by now");
    signal(service.broker.id(), Signal::CONT);
    service.manager.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let _ = service.until("WATCHDOG=1");
}
