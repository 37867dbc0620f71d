//! File verbs and directories in the native sandbox, at a sealed launcher.

use proto::audit::RunEnd;
use proto::bounded::{BoundedBytes, BoundedStr};
use proto::channel::{CallError, Client};
use proto::edge::{Refusal, SandboxdLauncher};
use proto::ids::Role;
use proto::runner::{Frames, FromFiles, frame};
use proto::sandbox::{Bounds, FileReply, FileVerb, LaunchReply, LaunchRequest, WorkspaceName, shell};
use proto::topology::{EdgeId, role};
use rustix::pipe::{PipeFlags, pipe_with};
use std::io::Read;
use std::os::fd::AsFd;
use std::time::Duration;
use system_tests::play_broker::Sealed;

const PATIENCE: Duration = Duration::from_secs(60);

struct Launcher {
    sealed: Sealed,
    client: Client<SandboxdLauncher>,
}

fn launcher() -> Launcher {
    let sealed = Sealed::start(Role::Launcher);
    sealed.make_ready();
    let mut client = Client::<SandboxdLauncher>::new(role::Sandboxd);
    client.attach(sealed.grant(EdgeId::SandboxdLauncher).0);
    Launcher { sealed, client }
}

fn workspace() -> WorkspaceName {
    WorkspaceName(BoundedStr::truncated(&"fedcba9876543210".repeat(2)))
}

impl Launcher {
    /// How it ended, and what it wrote.
    fn ask(&mut self, request: &LaunchRequest) -> (Result<RunEnd, Refusal>, Vec<u8>) {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            std::fs::File::from(read).read_to_end(&mut bytes).unwrap();
            bytes
        });
        let answer = self.client.call(request, &[write.as_fd(), write.as_fd()], PATIENCE);
        drop(write);
        let end = match answer {
            Ok((LaunchReply::Ended(end), _)) => Ok(end),
            Err(CallError::Refused(refusal)) => Err(refusal),
            other => panic!("{other:?}"),
        };
        (end, reader.join().unwrap())
    }

    fn run(&mut self, command: &str, cwd: &str) -> (Result<RunEnd, Refusal>, String) {
        let (words, cwd) = (shell(command).unwrap(), BoundedStr::truncated(cwd));
        let (end, bytes) = self.ask(&LaunchRequest::Run {
            workspace: workspace(),
            agent: None,
            words,
            cwd,
            timeout_s: 60,
            bounds: Bounds::default(),
        });
        (end, String::from_utf8_lossy(&bytes).into_owned())
    }

    fn file(&mut self, verb: &FileVerb) -> (Result<FileReply, Refusal>, Vec<u8>) {
        let verb = BoundedBytes::new(frame(verb).unwrap()).unwrap();
        let (end, bytes) = self.ask(&LaunchRequest::File {
            workspace: workspace(),
            agent: None,
            verb,
            timeout_s: 60,
            bounds: Bounds::default(),
        });
        assert_eq!(end, Ok(RunEnd::Exited(0)), "{}", String::from_utf8_lossy(&bytes));
        let (mut frames, mut data) = (Frames::default(), Vec::new());
        frames.push(&bytes);
        while let Some(word) = frames.take::<FromFiles>().unwrap() {
            match word {
                FromFiles::Data(bytes) => data.extend_from_slice(&bytes),
                FromFiles::Ended(outcome) => return (outcome, data),
            }
        }
        panic!("no outcome");
    }
}

fn read(path: &str) -> FileVerb {
    FileVerb::Read { path: BoundedStr::truncated(path), offset: 0, limit: u64::MAX }
}

#[test]
fn files_and_commands_of_a_native_sandbox_see_the_same_workspace_and_nothing_else() {
    let mut launcher = launcher();
    // More than a pipe holds, so that nobody can have waited for a reader.
    let text = "line\n".repeat(24_000);
    let bytes = BoundedBytes::new(text.as_bytes()).unwrap();
    let write = FileVerb::Write { path: BoundedStr::truncated("a/b"), bytes, append: false };
    assert_eq!(launcher.file(&write).0, Ok(FileReply::Written));
    assert_eq!(launcher.run("wc -l < a/b", "").1.trim(), "24000");
    assert_eq!(launcher.run("ln -s /etc/passwd link; ln -s .. up", "").0, Ok(RunEnd::Exited(0)));
    assert_eq!(launcher.file(&read("a/b")), (Ok(FileReply::Read { size: 120_000 }), text.into_bytes()));
    for (path, rule) in
        [("link", "file.link"), ("../x", "file.outside"), ("/etc/passwd", "file.outside"), ("up/x", "file.link")]
    {
        assert_eq!(launcher.file(&read(path)).0.unwrap_err().rule.as_str(), rule, "{path}");
    }
    launcher.sealed.assert_alive();
}

#[test]
fn command_begins_in_a_directory_of_the_workspace_and_in_no_other() {
    let mut launcher = launcher();
    assert_eq!(launcher.run("mkdir -p a/b; : > a/b/mark; ln -s a link", "").0, Ok(RunEnd::Exited(0)));
    for cwd in ["a/b", "/workspace/a/b"] {
        assert_eq!(launcher.run("ls", cwd), (Ok(RunEnd::Exited(0)), "mark\n".to_owned()), "{cwd}");
    }
    for cwd in ["..", "/", "/tmp", "link", "a/../..", "nothing"] {
        assert_eq!(launcher.run("ls", cwd).0.unwrap_err().rule.as_str(), "sandbox.not_started", "{cwd}");
    }
    launcher.sealed.assert_alive();
}
