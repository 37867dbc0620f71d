//! One run: a process of its own session, its pipes or its terminal, its time and its credit.

use proto::bounded::{BoundedBytes, BoundedStr};
use proto::runner::{CHUNK, Ending, FromRunner, Launch, Nonce, OVERHEAD, Program, cost};
use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
use rustix::io::{Errno, ioctl_fionbio, read, write};
use rustix::process::{Pid, PidfdFlags, Signal, fchdir, kill_process_group, pidfd_open, pidfd_send_signal};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Input that was sent for a run and that it has not read yet.
const INPUT: usize = 256 << 10;
/// A terminal's size where nobody says one.
const TERMINAL: Winsize = Winsize { ws_row: 30, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
/// The longest run there is.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Where its output comes from.
pub struct Source {
    pub fd: OwnedFd,
    is_error: bool,
}

/// A run that is under way.
pub struct Run {
    pub nonce: Nonce,
    child: Child,
    pub pidfd: OwnedFd,
    pub sources: Vec<Source>,
    /// Its input, until its end was written.
    pub input: Option<OwnedFd>,
    pub pending: Vec<u8>,
    eof: bool,
    terminal: bool,
    /// The last byte of `pending` is the end of a terminal's input.
    ends: bool,
    pub credit: u64,
    pub until: Instant,
    ended: Option<Ending>,
    cut: Option<Ending>,
}

/// Parent's ends, and the child's.
struct Streams {
    input: Option<OwnedFd>,
    sources: Vec<Source>,
    child: [Stdio; 3],
}

impl Run {
    /// Starts it.
    ///
    /// # Errors
    /// Where it cannot be, for a person.
    pub fn start(workspace: &OwnedFd, nonce: Nonce, launch: &Launch, credit: u64) -> Result<Self, String> {
        let cwd = directory(workspace, &launch.cwd)?;
        let streams = if launch.pty { terminal() } else { pipes(launch.stdin) };
        let Streams { input, sources, child: [stdin, stdout, stderr] } =
            streams.map_err(|errno| format!("its streams: {errno}"))?;
        for fd in sources.iter().map(|source| &source.fd).chain(&input) {
            ioctl_fionbio(fd, true).map_err(|errno| format!("its streams: {errno}"))?;
        }
        let timeout = Duration::from_millis(launch.timeout_ms).min(LONGEST);
        let mut command = Command::new("/proc/self/exe");
        match &launch.program {
            Program::Words(words) => {
                let seconds = timeout.as_secs().saturating_add(2).to_string();
                command.args(["stage", if launch.pty { "pty" } else { "pipe" }, &seconds]);
                command.args(words.iter().map(|word| word.as_str()));
            }
            Program::Files => {
                command.arg("files");
            }
        }
        if launch.pty {
            command.env("TERM", "xterm-256color");
        }
        command.stdin(stdin).stdout(stdout).stderr(stderr);
        // One thread, so the working directory is nobody else's business.
        fchdir(&cwd).map_err(|errno| format!("{}: {errno}", &*launch.cwd))?;
        let child = command.spawn();
        let back = fchdir(workspace);
        let mut child = child.map_err(|error| format!("no process for it: {error}"))?;
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
        match (back, pidfd) {
            (Ok(()), Ok(pidfd)) => Ok(Self {
                nonce,
                child,
                pidfd,
                sources,
                input,
                pending: Vec::new(),
                eof: false,
                terminal: launch.pty,
                ends: false,
                credit,
                until: Instant::now() + timeout,
                ended: None,
                cut: None,
            }),
            (back, pidfd) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(format!("the machine fails: {back:?}, {:?}", pidfd.err()))
            }
        }
    }

    /// The process that it began with.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its processes are killed; how that is called, unless it is over already.
    pub fn cut(&mut self, how: Ending) {
        if self.ended.is_none() && self.cut.is_none() {
            self.cut = Some(how);
        }
        self.kill();
    }

    /// True until its first process ended.
    pub const fn has_process(&self) -> bool {
        self.ended.is_none()
    }

    /// True until its first process ended or was told to.
    pub const fn has_time(&self) -> bool {
        self.ended.is_none() && self.cut.is_none()
    }

    fn kill(&self) {
        // Until its stage made a group there is none of that number; nobody else's has it while the child is not reaped.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Looks whether it ended; true the first time that it did. What it left in its group is killed.
    pub fn has_ended(&mut self) -> bool {
        if self.ended.is_some() {
            return false;
        }
        // First the group, then the reaping: only until then is the number its own.
        let waits = rustix::process::WaitIdOptions::EXITED
            | rustix::process::WaitIdOptions::NOHANG
            | rustix::process::WaitIdOptions::NOWAIT;
        match rustix::process::waitid(rustix::process::WaitId::Pid(Pid::from_child(&self.child)), waits) {
            Ok(None) => return false,
            Ok(Some(_)) | Err(_) => self.kill(),
        }
        let byte = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
        let ended = match self.child.try_wait() {
            Ok(Some(status)) => status.code().map_or_else(
                || Ending::Signalled(byte(status.signal().unwrap_or_default())),
                |code| Ending::Exited(byte(code)),
            ),
            Ok(None) => return false,
            Err(error) => Ending::NotStarted(BoundedStr::truncated(&format!("its end: {error}"))),
        };
        self.ended = Some(self.cut.take().unwrap_or(ended));
        self.input = None;
        true
    }

    /// How it ended, once nothing more comes from it.
    pub fn ending(&self) -> Option<&Ending> {
        self.ended.as_ref().filter(|_| self.sources.is_empty())
    }

    /// True where there is credit for output.
    pub const fn may_speak(&self) -> bool {
        self.credit > OVERHEAD
    }

    /// Takes input for it; what is too much is cut off with the input's end, which sandboxd does not do.
    pub fn give(&mut self, bytes: &[u8], eof: bool) {
        if self.input.is_some() && self.pending.len().saturating_add(bytes.len()) <= INPUT {
            self.pending.extend_from_slice(bytes);
            // A terminal stays open; its end of input is a byte (termios(3), VEOF).
            self.ends = eof && self.terminal;
            self.pending.extend(self.ends.then_some(4));
        }
        self.eof |= eof && !self.terminal;
        if self.pending.is_empty() && self.eof {
            self.input = None;
        }
    }

    /// Passes input on; how much it took.
    pub fn feed(&mut self) -> Option<FromRunner> {
        let input = self.input.as_ref()?;
        let taken = match write(input, &self.pending) {
            Ok(taken) => taken,
            Err(Errno::AGAIN | Errno::INTR) => return None,
            Err(_) => {
                // It closed its input: what is left goes nowhere.
                self.input = None;
                self.pending.len()
            }
        };
        self.pending.drain(..taken.min(self.pending.len()));
        // The byte that ends a terminal's input was not sandboxd's.
        let taken = if self.ends && self.pending.is_empty() {
            self.ends = false;
            taken.saturating_sub(1)
        } else {
            taken
        };
        if self.pending.is_empty() && self.eof {
            self.input = None;
        }
        Some(FromRunner::Taken { nonce: self.nonce, bytes: u32::try_from(taken).unwrap_or(u32::MAX) })
    }

    /// One chunk of what it wrote, if there is one and there is credit. A source without a writer is let go; so is one
    /// that is empty after the run's end, since whoever still holds it was killed.
    pub fn hear(&mut self) -> Option<FromRunner> {
        let mut at = 0;
        while let Some(source) = self.sources.get(at) {
            let room = usize::try_from(self.credit.saturating_sub(OVERHEAD)).unwrap_or(usize::MAX).min(CHUNK);
            if room == 0 {
                return None;
            }
            let mut bytes = vec![0; room];
            match read(&source.fd, &mut bytes) {
                Ok(count @ 1..) => {
                    bytes.truncate(count);
                    self.credit = self.credit.saturating_sub(cost(count));
                    let bytes = BoundedBytes::new(bytes).ok()?;
                    return Some(FromRunner::Output { nonce: self.nonce, is_error: source.is_error, bytes });
                }
                Err(Errno::AGAIN | Errno::INTR) if self.ended.is_none() => at = at.saturating_add(1),
                // A terminal without its other end says EIO.
                Ok(0) | Err(_) => drop(self.sources.remove(at)),
            }
        }
        None
    }
}

/// A directory beneath the workspace; no link leads to it.
fn directory(workspace: &OwnedFd, path: &str) -> Result<OwnedFd, String> {
    let path = crate::files::relative(path).map_err(|refusal| refusal.message.to_string())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(workspace, path, flags, Mode::empty(), resolve)
        .map_err(|errno| format!("the directory {path} of the workspace: {errno}"))
}

fn pipes(stdin: bool) -> Result<Streams, Errno> {
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    let (stdout, stdout_end) = pipe()?;
    let (stderr, stderr_end) = pipe()?;
    let (input, stdin) = if stdin {
        let (end, input) = pipe()?;
        (Some(input), Stdio::from(end))
    } else {
        (None, Stdio::null())
    };
    let sources = vec![Source { fd: stdout, is_error: false }, Source { fd: stderr, is_error: true }];
    Ok(Streams { input, sources, child: [stdin, stdout_end.into(), stderr_end.into()] })
}

fn terminal() -> Result<Streams, Errno> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    let name = ptsname(&ours, Vec::new())?;
    let theirs = open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    tcsetwinsize(&theirs, TERMINAL)?;
    let copy =
        |fd: &OwnedFd| fd.try_clone().map_err(|error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
    let child = [Stdio::from(copy(&theirs)?), Stdio::from(copy(&theirs)?), Stdio::from(theirs)];
    let sources = vec![Source { fd: copy(&ours)?, is_error: false }];
    Ok(Streams { input: Some(ours), sources, child })
}
