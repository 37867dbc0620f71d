//! The resident runner of a container, from sandboxd's side.
//!
//! Hostile: every word of it. A word that does not keep to the protocol ends the connection, and with it everything that
//! runs there; the container is then thrown away. What is held for a run is bounded by the credit it was given, whatever
//! the runner sends; what is held for the runner by what its runs were given.

use crate::job::{Event, Job, full};
use crate::runs::lock;
use bollard::container::LogOutput;
use futures_util::{Stream, StreamExt};
use proto::audit::RunEnd;
use proto::bounded::BoundedBytes;
use proto::edge::Refusal;
use proto::runner::{Ending, Frames, FromRunner, Launch, Nonce, ToRunner, VERSION, cost, frame};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// What the output of one run may cost before its reader took some.
const CREDIT: u32 = 256 << 10;
/// Credit is given back in pieces of this, at least.
const PIECE: u64 = 32 << 10;
/// Input of one run that it has not read.
const INPUT: usize = 128 << 10;
/// How long the runner may take to read a word.
const WRITE: Duration = Duration::from_secs(20);

/// What the engine hands over of a container's output.
pub type Output = Pin<Box<dyn Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send>>;
/// And of its input.
pub type Input = Pin<Box<dyn AsyncWrite + Send>>;

struct Run {
    events: mpsc::UnboundedSender<Event>,
    credit: u64,
    /// Input that it did not take yet.
    owed: usize,
    takes_input: bool,
}

struct Shared {
    runs: Mutex<HashMap<Nonce, Run>>,
    words: mpsc::UnboundedSender<Vec<u8>>,
    /// Why nothing comes any more.
    over: watch::Sender<Option<String>>,
}

/// The connection. Dropped, it ends: the engine then closes the runner's input, and the container with it.
pub struct Resident {
    shared: Arc<Shared>,
    tasks: [tokio::task::AbortHandle; 2],
}

/// Where a run's events come from.
pub struct Line {
    events: mpsc::UnboundedReceiver<Event>,
    shared: Arc<Shared>,
    nonce: Nonce,
    taken: u64,
    over: bool,
}

/// The right to a run.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    nonce: Nonce,
}

impl Resident {
    /// Takes the streams over. They may be those of a container that has not started yet.
    #[must_use]
    pub fn new(output: Output, input: Input) -> (Self, Greeting) {
        let (words, waiting) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared { runs: Mutex::default(), words, over: watch::Sender::new(None) });
        let greeted = Arc::new(watch::Sender::new(false));
        let reader = tokio::spawn(hear(Arc::clone(&shared), output, Arc::clone(&greeted))).abort_handle();
        let writer = tokio::spawn(tell(Arc::clone(&shared), input, waiting)).abort_handle();
        let greeting = Greeting { greeted, shared: Arc::clone(&shared) };
        (Self { shared, tasks: [reader, writer] }, greeting)
    }

    /// Why nothing can be run there any more, where that is so.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        self.shared.over.borrow().clone()
    }

    /// How much runs.
    #[must_use]
    pub fn busy(&self) -> usize {
        lock(&self.shared.runs).len()
    }

    /// Starts a run.
    ///
    /// # Errors
    /// [`Refusal`] where the runner is gone, or the machine has no random bytes.
    pub fn start(&self, launch: Launch) -> Result<Job, Refusal> {
        if let Some(why) = self.fault() {
            return Err(Refusal::new("sandbox.runner", &why));
        }
        let nonce = Nonce(crate::state::random_bytes().map_err(|error| Refusal::new("sandbox.resource", &error))?);
        let (events, receiver) = mpsc::unbounded_channel();
        let takes_input = launch.stdin;
        let run = Run { events, credit: u64::from(CREDIT), owed: 0, takes_input };
        lock(&self.shared.runs).insert(nonce, run);
        let shared = Arc::clone(&self.shared);
        let line = Line { events: receiver, shared: Arc::clone(&shared), nonce, taken: 0, over: false };
        self.shared.say(&ToRunner::Run { nonce, launch, credit: CREDIT });
        // Where it broke between the look and the entry, nobody else would end this one.
        if let Some(why) = self.fault() {
            return Err(Refusal::new("sandbox.runner", &why));
        }
        Ok(Job::resident(line, Handle { shared, nonce }))
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        self.shared.end("the container was thrown away");
        self.tasks.iter().for_each(tokio::task::AbortHandle::abort);
    }
}

/// The runner's first word.
pub struct Greeting {
    greeted: Arc<watch::Sender<bool>>,
    shared: Arc<Shared>,
}

impl Greeting {
    /// Waits for it.
    ///
    /// # Errors
    /// [`Refusal`] where it is another word, none, or none in time.
    pub async fn wait(self, wait: Duration) -> Result<(), Refusal> {
        let bad = |why: &str| Refusal::new("sandbox.runner", &format!("the image's runner did not come up: {why}"));
        let (mut greeted, mut over) = (self.greeted.subscribe(), self.shared.over.subscribe());
        let said = async {
            tokio::select! {
                biased;
                said = greeted.wait_for(|said| *said) => said.map(drop).map_err(|_| bad("it is gone")),
                why = over.wait_for(Option::is_some) => {
                    Err(bad(why.ok().as_deref().and_then(Option::as_deref).unwrap_or("it is gone")))
                }
            }
        };
        timeout(wait, said).await.unwrap_or_else(|_| Err(bad("it says nothing")))
    }
}

impl Shared {
    fn say(&self, word: &ToRunner) {
        match frame(word) {
            Ok(frame) => drop(self.words.send(frame)),
            Err(error) => self.end(&format!("a word of sandboxd's own does not fit: {error}")),
        }
    }

    /// Everything that runs there is lost.
    fn end(&self, why: &str) {
        self.over.send_if_modified(|over| over.is_none().then(|| *over = Some(why.to_owned())).is_some());
        for (_, run) in lock(&self.runs).drain() {
            let _ = run.events.send(Event::Ended(Ok(RunEnd::Lost)));
        }
    }

    fn give_back(&self, nonce: Nonce, cost: u64) {
        let Ok(back) = u32::try_from(cost) else { return };
        if let Some(run) = lock(&self.runs).get_mut(&nonce) {
            run.credit = run.credit.saturating_add(cost);
            self.say(&ToRunner::Credit { nonce, cost: back });
        }
    }

    /// One word of the runner's.
    fn on_word(&self, word: FromRunner) -> Result<(), &'static str> {
        let mut runs = lock(&self.runs);
        match word {
            FromRunner::Hello { .. } => return Err("it greets twice"),
            FromRunner::Output { nonce, is_error, bytes } => {
                let run = runs.get_mut(&nonce).ok_or("output of a run that is none")?;
                let cost = cost(bytes.len());
                run.credit = run.credit.checked_sub(cost).ok_or("more output than there is credit for")?;
                let unread = run.events.send(Event::Output { is_error, bytes: bytes.into_vec() }).is_err();
                drop(runs);
                if unread {
                    self.give_back(nonce, cost);
                }
            }
            FromRunner::Taken { nonce, bytes } => {
                let run = runs.get_mut(&nonce).ok_or("input of a run that is none")?;
                let taken = usize::try_from(bytes).unwrap_or(usize::MAX);
                run.owed = run.owed.checked_sub(taken).ok_or("more input than it was given")?;
            }
            FromRunner::Ended { nonce, ending } => {
                let run = runs.remove(&nonce).ok_or("the end of a run that is none")?;
                let end = match ending {
                    Ending::Exited(status) => Ok(RunEnd::Exited(status)),
                    Ending::Signalled(signal) => Ok(RunEnd::Signalled(signal)),
                    Ending::TimedOut => Ok(RunEnd::TimedOut),
                    Ending::Killed => Ok(RunEnd::Aborted),
                    Ending::NotStarted(why) => Err(Refusal::new("sandbox.not_started", &why)),
                };
                let _ = run.events.send(Event::Ended(end));
            }
        }
        Ok(())
    }
}

/// Reads the runner's words until it breaks off.
async fn hear(shared: Arc<Shared>, mut output: Output, greeted: Arc<watch::Sender<bool>>) {
    let mut frames = Frames::default();
    let why = loop {
        let bytes = match output.next().await {
            Some(Ok(LogOutput::StdOut { message } | LogOutput::Console { message })) => message,
            // Its standard error is for whoever looks into the container by hand.
            Some(Ok(_)) => continue,
            Some(Err(error)) => break format!("the engine: {error}"),
            None => break "the container ended".to_owned(),
        };
        if let Err(why) = on_bytes(&shared, &mut frames, &bytes, &greeted) {
            break why;
        }
    };
    shared.end(&why);
}

fn on_bytes(shared: &Shared, frames: &mut Frames, bytes: &[u8], greeted: &watch::Sender<bool>) -> Result<(), String> {
    // In pieces, so that what is held does not depend on what the engine hands over at once.
    for piece in bytes.chunks(64 << 10) {
        frames.push(piece);
        while let Some(word) =
            frames.take::<FromRunner>().map_err(|error| format!("it breaks the protocol: {error}"))?
        {
            if *greeted.borrow() {
                shared.on_word(word).map_err(|why| format!("it breaks the protocol: {why}"))?;
                continue;
            }
            match word {
                FromRunner::Hello { version: VERSION } => drop(greeted.send_replace(true)),
                FromRunner::Hello { version } => {
                    return Err(format!(
                        "the image's runner speaks version {version}, and sandboxd {VERSION}: make it anew with \
                         deploy/sandbox-image/build"
                    ));
                }
                _ => return Err("it breaks the protocol: it does not greet".to_owned()),
            }
        }
    }
    Ok(())
}

/// Writes what is to be said.
async fn tell(shared: Arc<Shared>, mut input: Input, mut waiting: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(word) = waiting.recv().await {
        let write = async {
            input.write_all(&word).await?;
            input.flush().await
        };
        let why = match timeout(WRITE, write).await {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => format!("the container ended: {error}"),
            Err(_) => "it does not read".to_owned(),
        };
        return shared.end(&why);
    }
}

impl Line {
    /// The next event. Reading output gives the run credit for more.
    pub async fn next(&mut self) -> Option<Event> {
        let event = self.events.recv().await?;
        match &event {
            Event::Output { bytes, .. } => {
                self.taken = self.taken.saturating_add(cost(bytes.len()));
                if self.taken >= PIECE {
                    self.shared.give_back(self.nonce, std::mem::take(&mut self.taken));
                }
            }
            Event::Ended(_) => self.over = true,
        }
        Some(event)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.over {
            // What was never read is given back, so that the run's end can come.
            self.events.close();
            let mut unread = std::mem::take(&mut self.taken);
            while let Ok(event) = self.events.try_recv() {
                if let Event::Output { bytes, .. } = event {
                    unread = unread.saturating_add(cost(bytes.len()));
                }
            }
            self.shared.give_back(self.nonce, unread);
        }
    }
}

impl Handle {
    /// Ends it.
    pub fn kill(&self) {
        self.shared.say(&ToRunner::Kill { nonce: self.nonce });
    }

    /// Gives it input.
    ///
    /// # Errors
    /// [`Refusal`] where it takes none, or does not read what it was given.
    pub fn give(&self, bytes: Vec<u8>, eof: bool) -> Result<(), Refusal> {
        let none = || {
            Refusal::new("process.no_input", "the command takes no input: it was not started with any, or has ended")
        };
        let mut runs = lock(&self.shared.runs);
        let run = runs.get_mut(&self.nonce).filter(|run| run.takes_input).ok_or_else(none)?;
        let owed = run.owed.saturating_add(bytes.len());
        if owed > INPUT {
            return Err(full());
        }
        run.owed = owed;
        run.takes_input = !eof;
        drop(runs);
        let pieces: Vec<&[u8]> = bytes.chunks(65_536).collect();
        let last = pieces.len().saturating_sub(1);
        if pieces.is_empty() {
            self.shared.say(&ToRunner::Input { nonce: self.nonce, bytes: BoundedBytes::default(), eof });
        }
        for (at, piece) in pieces.into_iter().enumerate() {
            let bytes = BoundedBytes::new(piece).unwrap_or_default();
            self.shared.say(&ToRunner::Input { nonce: self.nonce, bytes, eof: eof && at == last });
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "tests/resident.rs"]
mod tests;
