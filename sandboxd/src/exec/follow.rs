//! Following a command to its end: its output looked through, passed on under the client's credit, cut at a cap and counted;
//! its hand-over to those who poll for it; its end where it must end. What it prints is a stranger's.

use crate::job::{Event, Job};
use crate::processes::Process;
use crate::serve::Sandboxd;
use crate::serving::Serving;
use crate::state::place;
use crate::watch::text::{Output, Searcher};
use proto::audit::RunEnd;
use proto::bounded::BoundedBytes;
use proto::channel::ChannelError;
use proto::edge::{GatewaySandboxd, Refusal};
use proto::ids::SessionKey;
use proto::port::Responder;
use proto::sandbox::{OutputChunk, SandboxReply, Wait};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::{sleep_until, timeout};

/// The longest wait before a command is handed over.
const YIELD: Duration = Duration::from_secs(120);
/// Output of one run that is passed on, in bytes; the rest is counted.
const OUTPUT: u64 = 8 << 20;
/// Largest chunk, in bytes.
pub(crate) const CHUNK: usize = 16_384;
/// How long a command may take to end once it is to.
const ENDING: Duration = Duration::from_secs(2);

/// A command that runs, and who follows it.
pub(super) struct Following<'f> {
    pub(super) session: &'f SessionKey,
    pub(super) source: Source<'f>,
    /// Whoever waits for it, until it is handed over.
    pub(super) responder: Option<Responder<GatewaySandboxd>>,
    pub(super) process: Arc<Process>,
    /// A piece on its way to whoever waits.
    pub(super) under_way: Option<(bool, Vec<u8>)>,
    pub(super) passed: u64,
    pub(super) dropped: u64,
}

/// A command's events, its output looked through before anybody sees it.
pub(super) struct Source<'f> {
    pub(super) job: Job,
    pub(super) sandboxd: &'f Sandboxd,
    pub(super) session: &'f SessionKey,
    pub(super) searcher: &'f Searcher,
    pub(super) seen: Output,
}

impl Source<'_> {
    /// Nothing is waited for once an event is taken, so this may be dropped.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let event = self.job.next().await;
            if let Some(Event::Output { is_error, bytes }) = &event {
                let hits = self.seen.pass(self.searcher, *is_error, bytes);
                if self.sandboxd.notice_output(self.session, &hits) {
                    continue;
                }
            }
            return event;
        }
    }
}

impl Sandboxd {
    /// Follows a command to its end.
    pub(super) async fn follow(
        &self,
        following: &mut Following<'_>,
        started: Instant,
        limit: Duration,
        wait: Wait,
        serving: &Serving,
    ) -> Result<RunEnd, Refusal> {
        let hand_over = match wait {
            Wait::ToItsEnd => None,
            Wait::Yield(ms) => Some(Duration::from_millis(u64::from(ms)).min(YIELD)),
            Wait::Background => Some(Duration::ZERO),
        };
        let mut hand_over = hand_over.map(|after| (started + after).into());
        let process = Arc::clone(&following.process);
        let stop = loop {
            let responder = following.responder.as_ref();
            let (stopped, killed) = (self.stopped(responder), process.killed());
            // What the two of them do is the same whoever waits, so `step` may be dropped for either.
            tokio::select! {
                biased;
                () = stopped => break RunEnd::Aborted,
                () = self.alert.ended(following.session) => break RunEnd::Aborted,
                () = killed => break RunEnd::Aborted,
                () = sleep_until((started + limit).into()) => break RunEnd::TimedOut,
                () = sleep_until(hand_over.unwrap_or_else(|| started.into())), if hand_over.is_some() => {}
                end = step(&mut following.source, responder, &process, &mut following.under_way, &mut following.passed,
                    &mut following.dropped, wait) => return end,
            }
            hand_over = None;
            self.hand_over(following).await;
        };
        let place = place(self.settings.scope, following.session);
        end(&mut following.source.job, serving, &place).await;
        Ok(stop)
    }

    /// Whoever waits is told that the command runs on.
    async fn hand_over(&self, following: &mut Following<'_>) {
        if let Some((is_error, bytes)) = following.under_way.take() {
            following.process.wrote_unread(is_error, &bytes);
        }
        self.processes.add(following.session, Arc::clone(&following.process));
        if let Some(responder) = following.responder.take() {
            let run = following.process.run.clone();
            let _ = responder.reply(&SandboxReply::Yielded { run }, &[]).await;
        }
    }
}

/// Takes output until the command ends.
async fn step(
    source: &mut Source<'_>,
    responder: Option<&Responder<GatewaySandboxd>>,
    process: &Process,
    under_way: &mut Option<(bool, Vec<u8>)>,
    passed: &mut u64,
    dropped: &mut u64,
    wait: Wait,
) -> Result<RunEnd, Refusal> {
    loop {
        let (is_error, bytes) = match source.next().await {
            Some(Event::Output { is_error, bytes }) => (is_error, bytes),
            Some(Event::Ended(end)) => return end,
            None => return Ok(RunEnd::Lost),
        };
        let Some(responder) = responder else {
            process.wrote(is_error, &bytes, true);
            continue;
        };
        if wait != Wait::ToItsEnd {
            process.wrote(is_error, &bytes, false);
        }
        let bytes = under_way.insert((is_error, bytes)).1.clone();
        pass_on(responder, is_error, &bytes, passed, dropped).await;
        *under_way = None;
    }
}

/// Ends a command: where it does not end by itself, its container does.
async fn end(job: &mut Job, serving: &Serving, place: &SessionKey) {
    let can_end = job.handle().kill();
    let ended = async {
        while let Some(event) = job.next().await {
            if matches!(event, Event::Ended(_)) {
                return;
            }
        }
    };
    let ended = can_end && timeout(ENDING, ended).await.is_ok();
    if let (false, Serving::Docker(docker, _)) = (ended, serving) {
        docker.discard(place).await;
    }
}

/// Passes output on under the client's credit. What is over the cap is taken and counted, so that the command goes on.
async fn pass_on(
    responder: &Responder<GatewaySandboxd>,
    is_error: bool,
    bytes: &[u8],
    passed: &mut u64,
    dropped: &mut u64,
) {
    for piece in bytes.chunks(CHUNK) {
        let length = u64::try_from(piece.len()).unwrap_or_default();
        if passed.saturating_add(length) > OUTPUT {
            *dropped = dropped.saturating_add(length);
            continue;
        }
        *passed = passed.saturating_add(length);
        if say(responder, is_error, piece).await.is_err() {
            *dropped = dropped.saturating_add(length);
        }
    }
}

/// One chunk, of at most [`CHUNK`] bytes, under the client's credit.
pub(crate) async fn say(
    responder: &Responder<GatewaySandboxd>,
    is_error: bool,
    piece: &[u8],
) -> Result<(), ChannelError> {
    let Ok(piece) = BoundedBytes::new(piece) else { return Ok(()) };
    responder.chunk(&if is_error { OutputChunk::Stderr(piece) } else { OutputChunk::Stdout(piece) }).await
}
