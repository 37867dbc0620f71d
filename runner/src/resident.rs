//! The resident runner: one thread, one poll. What one run does with its output holds no other up: output is taken from a
//! run only under its own credit, and all of it together only while sandboxd reads.

use crate::child::Run;
use crate::tree;
use proto::bounded::BoundedStr;
use proto::runner::{Ending, Frames, FromRunner, Nonce, ToRunner, VERSION, frame};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, ioctl_fionbio, read, write};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Bytes for sandboxd that wait, at most, before no run is read and no word is taken.
const WAITING: usize = 256 << 10;
/// Bytes taken from sandboxd at once.
const WORD: usize = 64 << 10;
/// Chunks of one run in one round.
const TURN: usize = 4;

struct Resident {
    workspace: OwnedFd,
    runs: Vec<Run>,
    out: Vec<u8>,
    frames: Frames,
}

/// Serves until sandboxd is gone, which it is when the input ends. The workspace is the working directory.
pub fn serve() -> io::Result<()> {
    // Closes /proc/PID/mem, /proc/PID/fd and tracing to commands, which have the same uid.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let workspace = open(".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    ioctl_fionbio(io::stdin(), true)?;
    ioctl_fionbio(io::stdout(), true)?;
    let mut resident = Resident { workspace, runs: Vec::new(), out: Vec::new(), frames: Frames::default() };
    resident.say(&FromRunner::Hello { version: VERSION });
    let outcome = loop {
        if let Err(error) = resident.turn() {
            break error;
        }
    };
    // In a container all ends with this process; elsewhere nothing of a run is to be left.
    for run in &mut resident.runs {
        run.cut(Ending::Killed);
    }
    match outcome.kind() {
        io::ErrorKind::UnexpectedEof => Ok(()),
        _ => Err(outcome),
    }
}

/// What a descriptor in the poll belongs to.
#[derive(Clone, Copy)]
enum Of {
    Words,
    Reader,
    End(usize),
    Output(usize),
    Input(usize),
}

impl Resident {
    fn say(&mut self, word: &FromRunner) {
        // Every word of ours fits.
        self.out.extend(frame(word).unwrap_or_default());
    }

    fn turn(&mut self) -> io::Result<()> {
        let ready = self.wait()?;
        for of in ready {
            match of {
                Of::Words => self.on_words()?,
                Of::Reader => self.flush()?,
                Of::End(at) | Of::Output(at) => self.hear(at),
                Of::Input(at) => {
                    let taken = self.runs.get_mut(at).and_then(Run::feed);
                    taken.iter().for_each(|word| self.say(word));
                }
            }
        }
        let now = Instant::now();
        for run in self.runs.iter_mut().filter(|run| run.has_time() && run.until <= now) {
            run.cut(Ending::TimedOut);
        }
        self.reap();
        self.flush()
    }

    fn wait(&self) -> io::Result<Vec<Of>> {
        let open = self.out.len() < WAITING;
        let (stdin, stdout) = (io::stdin(), io::stdout());
        let mut fds = Vec::new();
        let mut of = Vec::new();
        if open {
            fds.push(PollFd::new(&stdin, PollFlags::IN));
            of.push(Of::Words);
        }
        if !self.out.is_empty() {
            fds.push(PollFd::new(&stdout, PollFlags::OUT));
            of.push(Of::Reader);
        }
        for (at, run) in self.runs.iter().enumerate() {
            if run.ending().is_none() && run.has_process() {
                fds.push(PollFd::new(&run.pidfd, PollFlags::IN));
                of.push(Of::End(at));
            }
            if open && run.may_speak() {
                for source in &run.sources {
                    fds.push(PollFd::new(&source.fd, PollFlags::IN));
                    of.push(Of::Output(at));
                }
            }
            if let Some(input) = run.input.as_ref().filter(|_| open && !run.pending.is_empty()) {
                fds.push(PollFd::new(input, PollFlags::OUT));
                of.push(Of::Input(at));
            }
        }
        let until = self.runs.iter().filter(|run| run.has_time()).map(|run| run.until).min();
        let left = until.map(|until| until.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
        let left = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        });
        match poll(&mut fds, left.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(errno) => return Err(errno.into()),
        }
        Ok(fds.iter().zip(of).filter(|(fd, _)| !fd.revents().is_empty()).map(|(_, of)| of).collect())
    }

    /// What an ended run still has to say it says under its credit; then its end.
    fn reap(&mut self) {
        let mut ended = false;
        for run in &mut self.runs {
            ended |= run.has_ended();
        }
        if ended {
            let live: BTreeSet<u32> = self.runs.iter().filter(|run| run.has_process()).map(Run::pid).collect();
            tree::sweep(&live);
        }
        for at in 0..self.runs.len() {
            if self.runs.get(at).is_some_and(|run| !run.has_process()) && self.out.len() < WAITING {
                self.hear(at);
            }
        }
        let mut over = Vec::new();
        self.runs.retain(|run| match run.ending() {
            Some(ending) => {
                over.push(FromRunner::Ended { nonce: run.nonce, ending: ending.clone() });
                false
            }
            None => true,
        });
        over.iter().for_each(|word| self.say(word));
    }

    fn hear(&mut self, at: usize) {
        for _ in 0..TURN {
            let Some(word) = self.runs.get_mut(at).and_then(Run::hear) else { return };
            self.say(&word);
        }
    }

    fn on_words(&mut self) -> io::Result<()> {
        let mut bytes = vec![0; WORD];
        match read(io::stdin(), &mut bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.frames.push(bytes.get(..count).unwrap_or_default()),
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
        while let Some(word) = self.frames.take::<ToRunner>().map_err(io::Error::other)? {
            self.on_word(word);
        }
        Ok(())
    }

    fn run(&mut self, nonce: Nonce) -> Option<&mut Run> {
        // What ended meanwhile is nobody's mistake.
        self.runs.iter_mut().find(|run| run.nonce == nonce)
    }

    fn on_word(&mut self, word: ToRunner) {
        match word {
            ToRunner::Run { nonce, launch, credit } => {
                match Run::start(&self.workspace, nonce, &launch, u64::from(credit)) {
                    Ok(run) => self.runs.push(run),
                    Err(why) => {
                        let ending = Ending::NotStarted(BoundedStr::truncated(&why));
                        self.say(&FromRunner::Ended { nonce, ending });
                    }
                }
            }
            ToRunner::Credit { nonce, cost } => {
                if let Some(run) = self.run(nonce) {
                    run.credit = run.credit.saturating_add(u64::from(cost));
                }
            }
            ToRunner::Input { nonce, bytes, eof } => {
                if let Some(run) = self.run(nonce) {
                    run.give(&bytes, eof);
                }
            }
            ToRunner::Kill { nonce } => {
                if let Some(run) = self.run(nonce) {
                    run.cut(Ending::Killed);
                }
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            match write(io::stdout(), &self.out) {
                Ok(count) => drop(self.out.drain(..count)),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}
