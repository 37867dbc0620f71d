//! A command that runs, whatever confines it: its output, its input, its end, and a way to end it.

use crate::resident;
use proto::audit::RunEnd;
use proto::edge::Refusal;
use std::sync::Arc;
use tokio::sync::{Notify, mpsc};

/// What comes from it. The end is the last.
#[derive(Debug)]
pub enum Event {
    /// It wrote something.
    Output {
        /// To its standard error.
        is_error: bool,
        /// What.
        bytes: Vec<u8>,
    },
    /// It ended, or the sandbox says that it could not be started.
    Ended(Result<RunEnd, Refusal>),
}

/// A piece of input, and whether it is the last.
pub type Input = (Vec<u8>, bool);

/// Chunks of output that wait for their reader, where a task of sandboxd's own reads them.
pub const WAITING: usize = 4;

enum Source {
    Resident(resident::Line),
    Task(mpsc::Receiver<Event>),
}

/// The right to give it input and to end it.
#[derive(Clone)]
pub struct Handle(Kind);

#[derive(Clone)]
enum Kind {
    Resident(resident::Handle),
    Task { kill: Option<Arc<Notify>>, input: Option<mpsc::Sender<Input>> },
}

/// The command. Dropped, it is ended where it can be.
pub struct Job {
    source: Source,
    handle: Handle,
    over: bool,
}

impl Job {
    /// One of a resident runner.
    #[must_use]
    pub fn resident(line: resident::Line, handle: resident::Handle) -> Self {
        Self { source: Source::Resident(line), handle: Handle(Kind::Resident(handle)), over: false }
    }

    /// One that a task of sandboxd's own follows. `kill` is how that task is told to end it, where it can.
    #[must_use]
    pub const fn task(
        events: mpsc::Receiver<Event>,
        kill: Option<Arc<Notify>>,
        input: Option<mpsc::Sender<Input>>,
    ) -> Self {
        Self { source: Source::Task(events), handle: Handle(Kind::Task { kill, input }), over: false }
    }

    /// The next event; none behind the end. Nothing is lost where this is dropped.
    pub async fn next(&mut self) -> Option<Event> {
        if self.over {
            return None;
        }
        let event = match &mut self.source {
            Source::Resident(line) => line.next().await,
            Source::Task(events) => events.recv().await,
        };
        // Whoever followed it is gone with it.
        let event = event.unwrap_or(Event::Ended(Ok(RunEnd::Lost)));
        self.over = matches!(event, Event::Ended(_));
        Some(event)
    }

    /// What may be done with it from elsewhere.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.over {
            self.handle.kill();
        }
    }
}

impl Handle {
    /// Ends it, with everything it started; its end still comes. False where only the end of its sandbox ends it.
    pub fn kill(&self) -> bool {
        match &self.0 {
            Kind::Resident(handle) => {
                handle.kill();
                true
            }
            Kind::Task { kill, .. } => {
                kill.iter().for_each(|kill| kill.notify_one());
                kill.is_some()
            }
        }
    }

    /// Gives it input.
    ///
    /// # Errors
    /// [`Refusal`] where it takes none, or has not read what it was given before.
    pub fn give(&self, bytes: Vec<u8>, eof: bool) -> Result<(), Refusal> {
        let none = || {
            Refusal::new(
                "process.no_input",
                "the command takes no input: it was not started with any (the native backend gives none), or has ended",
            )
        };
        match &self.0 {
            Kind::Resident(handle) => handle.give(bytes, eof),
            Kind::Task { input, .. } => {
                input.as_ref().ok_or_else(none)?.try_send((bytes, eof)).map_err(|error| match error {
                    mpsc::error::TrySendError::Full(_) => full(),
                    mpsc::error::TrySendError::Closed(_) => none(),
                })
            }
        }
    }
}

/// It does not read.
#[must_use]
pub fn full() -> Refusal {
    Refusal::new("process.input_full", "the command has not read its earlier input yet; write again when it has")
}
