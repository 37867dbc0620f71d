//! Both ends of an edge for roles that run tokio: a [`Port`] asks, many questions at once; a [`Server`] answers.
//!
//! A port outlives its peer: broker grants a new end when the peer restarts, and calls made in between wait for it within
//! their deadline. Chunks flow only under credit, so a slow reader stalls its own stream and nothing else. Every future
//! here is cancellation safe: a dropped call cancels its request, and its late answer is swallowed.

use crate::channel::{
    CallError, Channel, ChannelError, Incoming, Outgoing, decode_incoming, decode_outgoing, frame, refusal_frame,
    reply_frame,
};
use crate::edge::{Chunk as _, Edge, Refusal};
use crate::ids::RequestId;
use crate::topology::Asks;
use crate::wire::Kind;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU32, Ordering},
};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};

/// Longest that an answer waits for the peer to read, before the peer counts as hung.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Socket(Channel);

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

#[derive(Debug)]
struct Duplex(AsyncFd<Socket>);

impl Duplex {
    #[expect(
        deprecated,
        reason = "its successor is unsafe for the sake of types that lie about their descriptor; ours owns it"
    )]
    fn new(channel: Channel) -> io::Result<Self> {
        AsyncFd::new(Socket(channel)).map(Self)
    }

    async fn recv(&self, cap: usize, max_fds: usize) -> Result<crate::channel::Packet, ChannelError> {
        loop {
            let mut ready = self.0.readable().await.map_err(|_| ChannelError::Closed)?;
            match self.0.get_ref().0.recv(cap, max_fds) {
                Err(ChannelError::WouldBlock) => ready.clear_ready(),
                other => return other,
            }
        }
    }

    /// Sends if there is room now.
    fn try_send(&self, packet: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        self.0.get_ref().0.send(packet, fds)
    }

    async fn room(&self, until: Instant) -> Result<(), ChannelError> {
        match timeout_at(until, self.0.writable()).await {
            Ok(Ok(mut ready)) => {
                ready.clear_ready();
                Ok(())
            }
            Ok(Err(_)) => Err(ChannelError::Closed),
            Err(_) => Err(ChannelError::Deadline),
        }
    }

    async fn send(&self, packet: &[u8], fds: &[BorrowedFd<'_>], until: Instant) -> Result<(), ChannelError> {
        loop {
            match self.try_send(packet, fds) {
                Err(ChannelError::WouldBlock) => self.room(until).await?,
                other => return other,
            }
        }
    }
}

/// A role's control channel under tokio: frames of kind `Note` both ways.
#[derive(Clone, Debug)]
pub struct AsyncControl(Arc<Duplex>);

impl AsyncControl {
    /// Takes the control channel over.
    ///
    /// # Errors
    /// Where the runtime cannot watch the descriptor.
    pub fn new(channel: Channel) -> io::Result<Self> {
        Duplex::new(channel).map(|duplex| Self(Arc::new(duplex)))
    }

    /// Next word of broker, with its descriptors.
    ///
    /// # Errors
    /// [`ChannelError::Closed`] means the set is going down.
    pub async fn recv(&self) -> Result<(crate::control::ToRole, Vec<OwnedFd>), ChannelError> {
        let packet = self.0.recv(crate::control::MAX_CONTROL, crate::control::MAX_CONTROL_FDS).await?;
        Channel::decode_note(packet, crate::control::MAX_CONTROL)
    }

    /// Says something to broker.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub async fn send(&self, message: &crate::control::FromRole) -> Result<(), ChannelError> {
        let packet = frame(Kind::Note, RequestId(0), 0, message, crate::control::MAX_CONTROL)?;
        self.0.send(&packet, &[], Instant::now() + SEND_TIMEOUT).await
    }
}

/// A question whose last answer has not come.
struct Pending<E: Edge> {
    /// Holds at most what credit was given for: nothing else bounds it.
    answers: mpsc::UnboundedSender<Outgoing<E>>,
    /// What chunks may still cost.
    credit: u64,
}

struct Link<E: Edge> {
    socket: Duplex,
    pending: Mutex<HashMap<RequestId, Pending<E>>>,
    dead: AtomicBool,
}

struct Shared<E: Edge> {
    link: Mutex<Option<Arc<Link<E>>>>,
    arrived: Notify,
    next: AtomicU32,
    violation: Mutex<Option<String>>,
    violated: Notify,
}

/// The asking end of edge `E`.
pub struct Port<E: Edge>(Arc<Shared<E>>);

impl<E: Edge> Clone for Port<E> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<E: Edge> Port<E> {
    /// A port without a peer yet. The wiring decides at compile time who may have one.
    #[must_use]
    pub fn new<R: Asks<E>>(_owner: R) -> Self {
        Self(Arc::new(Shared {
            link: Mutex::new(None),
            arrived: Notify::new(),
            next: AtomicU32::new(0),
            violation: Mutex::new(None),
            violated: Notify::new(),
        }))
    }

    /// Uses this end from now on. Requests in flight on an earlier one end with [`CallError::Gone`].
    ///
    /// # Errors
    /// Where the runtime cannot watch the descriptor.
    pub fn attach(&self, channel: Channel) -> io::Result<()> {
        let link = Arc::new(Link {
            socket: Duplex::new(channel)?,
            pending: Mutex::new(HashMap::new()),
            dead: AtomicBool::new(false),
        });
        if let Some(old) = lock(&self.0.link).replace(Arc::clone(&link)) {
            retire(&old);
        }
        self.0.arrived.notify_waiters();
        tokio::spawn(read_answers(Arc::clone(&self.0), link));
        Ok(())
    }

    /// True while there is a peer.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        lock(&self.0.link).as_ref().is_some_and(|link| !link.dead.load(Ordering::Acquire))
    }

    /// Waits until the peer breaks the protocol; returns what it did.
    pub async fn violation(&self) -> String {
        loop {
            let notified = self.0.violated.notified();
            if let Some(detail) = lock(&self.0.violation).take() {
                return detail;
            }
            notified.await;
        }
    }

    async fn link(&self, until: Instant) -> Result<Arc<Link<E>>, CallError> {
        loop {
            let arrived = self.0.arrived.notified();
            if let Some(link) = lock(&self.0.link).clone().filter(|link| !link.dead.load(Ordering::Acquire)) {
                return Ok(link);
            }
            timeout_at(until, arrived).await.map_err(|_| CallError::Gone)?;
        }
    }

    /// Asks, and waits for the one answer.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call(&self, request: &E::Request, wait: Duration) -> Result<E::Reply, CallError> {
        self.call_with(request, &[], wait).await.map(|(reply, _)| reply)
    }

    /// As [`Port::call`], with descriptors either way.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call_with(
        &self,
        request: &E::Request,
        fds: &[BorrowedFd<'_>],
        wait: Duration,
    ) -> Result<(E::Reply, Vec<OwnedFd>), CallError> {
        let until = Instant::now() + wait;
        let mut stream = self.open(request, fds, 0, until).await?;
        match timeout_at(until, stream.next()).await.map_err(|_| CallError::Deadline)? {
            Some(Outgoing::Reply(reply, fds)) => Ok((reply, fds)),
            Some(Outgoing::Refused(refusal)) => Err(refusal.into()),
            Some(Outgoing::Chunk(_)) | None => Err(CallError::Gone),
        }
    }

    /// Asks, and hands back the stream of chunks that ends in a reply or a refusal. `credit` is how many bytes of chunks
    /// may come before [`Stream::credit`] allows more.
    ///
    /// # Errors
    /// [`CallError`] where the request could not be sent within `wait`.
    pub async fn stream(&self, request: &E::Request, credit: u32, wait: Duration) -> Result<Stream<E>, CallError> {
        self.open(request, &[], credit, Instant::now() + wait).await
    }

    async fn open(
        &self,
        request: &E::Request,
        fds: &[BorrowedFd<'_>],
        credit: u32,
        until: Instant,
    ) -> Result<Stream<E>, CallError> {
        let link = self.link(until).await?;
        let id = RequestId(self.0.next.fetch_add(1, Ordering::Relaxed));
        let (answers, receiver) = mpsc::unbounded_channel();
        {
            let mut pending = lock(&link.pending);
            if pending.len() >= E::WINDOW {
                return Err(CallError::Busy);
            }
            pending.insert(id, Pending { answers, credit: 0 });
        }
        let left = until.saturating_duration_since(Instant::now()).as_millis();
        let mut stream = Stream { link, id, receiver, done: false };
        let packet = frame(Kind::Request, id, u16::try_from(left).unwrap_or(u16::MAX), request, E::MAX_REQUEST)
            .map_err(|error| stream.unsent(CallError::Violation(error.into())))?;
        stream.send(&packet, fds, until).await.map_err(|error| stream.unsent(error))?;
        if credit > 0 {
            stream.credit(credit).await?;
        }
        Ok(stream)
    }
}

fn retire<E: Edge>(link: &Link<E>) {
    link.dead.store(true, Ordering::Release);
    lock(&link.pending).clear();
}

/// Hands an answer to whoever asked.
fn deliver<E: Edge>(link: &Link<E>, id: RequestId, answer: Outgoing<E>) -> Result<(), ChannelError> {
    let mut pending = lock(&link.pending);
    let Some(asked) = pending.get_mut(&id) else {
        return Err(ChannelError::Violation("an answer to no question"));
    };
    let Outgoing::Chunk(chunk) = &answer else {
        // The receiver may be gone: its request was cancelled, the answer crossed the cancel.
        if let Some(asked) = pending.remove(&id) {
            let _ = asked.answers.send(answer);
        }
        return Ok(());
    };
    asked.credit = asked
        .credit
        .checked_sub(chunk.cost().into())
        .ok_or(ChannelError::Violation("more of a stream than was asked for"))?;
    let _ = asked.answers.send(answer);
    Ok(())
}

async fn read_answers<E: Edge>(shared: Arc<Shared<E>>, link: Arc<Link<E>>) {
    loop {
        let outcome = link.socket.recv(E::MAX_REPLY, E::REPLY_FDS).await.and_then(decode_outgoing::<E>);
        if link.dead.load(Ordering::Acquire) {
            return;
        }
        let Err(error) = outcome.and_then(|(id, answer)| deliver(&link, id, answer)) else { continue };
        if error.is_violation() {
            *lock(&shared.violation) = Some(error.to_string());
            shared.violated.notify_waiters();
        }
        retire(&link);
        // The end is closed now, not when another takes its place.
        lock(&shared.link).take_if(|current| Arc::ptr_eq(current, &link));
        return;
    }
}

/// The answers to one request.
pub struct Stream<E: Edge> {
    link: Arc<Link<E>>,
    id: RequestId,
    receiver: mpsc::UnboundedReceiver<Outgoing<E>>,
    done: bool,
}

impl<E: Edge> Stream<E> {
    async fn send(&self, packet: &[u8], fds: &[BorrowedFd<'_>], until: Instant) -> Result<(), CallError> {
        self.link.socket.send(packet, fds, until).await.map_err(|error| match error {
            ChannelError::Deadline | ChannelError::WouldBlock => CallError::Deadline,
            _ => CallError::Gone,
        })
    }

    /// The request never left: there will be no answer, so its place in the window is free again.
    fn unsent(&mut self, error: CallError) -> CallError {
        self.done = true;
        lock(&self.link.pending).remove(&self.id);
        error
    }

    /// Next chunk, or the end; `None` after the end or where the peer died.
    pub async fn next(&mut self) -> Option<Outgoing<E>> {
        if self.done {
            return None;
        }
        let answer = self.receiver.recv().await;
        self.done = !matches!(answer, Some(Outgoing::Chunk(_)));
        answer
    }

    /// Allows so many more bytes of chunks.
    ///
    /// # Errors
    /// [`CallError::Gone`] where the peer died.
    pub async fn credit(&self, bytes: u32) -> Result<(), CallError> {
        if let Some(asked) = lock(&self.link.pending).get_mut(&self.id) {
            asked.credit = asked.credit.saturating_add(bytes.into());
        }
        let packet = frame(Kind::Credit, self.id, 0, &bytes, E::MAX_REQUEST)
            .map_err(|error| CallError::Violation(error.into()))?;
        self.send(&packet, &[], Instant::now() + SEND_TIMEOUT).await
    }

    /// Asks the server to stop; its answer still comes through [`Stream::next`].
    ///
    /// # Errors
    /// [`CallError::Gone`] where the peer died.
    pub async fn cancel(&self) -> Result<(), CallError> {
        let packet =
            frame(Kind::Cancel, self.id, 0, &(), E::MAX_REQUEST).map_err(|error| CallError::Violation(error.into()))?;
        self.send(&packet, &[], Instant::now() + SEND_TIMEOUT).await
    }
}

impl<E: Edge> Drop for Stream<E> {
    fn drop(&mut self) {
        if !self.done
            && let Ok(packet) = frame(Kind::Cancel, self.id, 0, &(), E::MAX_REQUEST)
        {
            // Best effort: where the buffer is full the answer is swallowed by `read_answers` all the same.
            let _ = self.link.socket.try_send(&packet, &[]);
        }
    }
}

struct Running {
    credit: Arc<Semaphore>,
    cancelled: Arc<Notify>,
    cancel_seen: Arc<AtomicBool>,
}

impl Running {
    fn cancel(&self) {
        self.cancel_seen.store(true, Ordering::Release);
        self.cancelled.notify_waiters();
    }
}

struct Served {
    socket: Duplex,
    running: Mutex<HashMap<RequestId, Running>>,
    /// Set under the lock of `running`: from then on nothing is sent any more.
    over: AtomicBool,
    stalled: Notify,
}

impl Served {
    /// Sends unless the edge is over; `last` ends the request in the same step, so that a client which has its answer has
    /// its place in the window back.
    async fn send(&self, id: RequestId, last: bool, packet: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        let until = Instant::now() + SEND_TIMEOUT;
        loop {
            {
                let mut running = lock(&self.running);
                if self.over.load(Ordering::Acquire) {
                    return Err(ChannelError::Closed);
                }
                match self.socket.try_send(packet, fds) {
                    Err(ChannelError::WouldBlock) => {}
                    other => {
                        if last {
                            running.remove(&id);
                        }
                        return other;
                    }
                }
            }
            let room = self.socket.room(until).await;
            if matches!(room, Err(ChannelError::Deadline)) {
                self.stalled.notify_one();
            }
            room?;
        }
    }
}

/// The answering end of edge `E`. Dropping it ends the edge: what runs is cancelled, and nothing more is answered.
pub struct Server<E: Edge> {
    served: Arc<Served>,
    edge: std::marker::PhantomData<fn() -> E>,
}

impl<E: Edge> Drop for Server<E> {
    fn drop(&mut self) {
        let running = lock(&self.served.running);
        self.served.over.store(true, Ordering::Release);
        for state in running.values() {
            state.cancel();
            state.credit.close();
        }
    }
}

/// A request to be answered.
pub struct Request<E: Edge> {
    /// What is asked.
    pub request: E::Request,
    /// Its descriptors, exactly [`Edge::REQUEST_FDS`].
    pub fds: Vec<OwnedFd>,
    /// How long the client waits; zero where it did not say.
    pub deadline: Duration,
    /// Where the answer goes.
    pub responder: Responder<E>,
}

impl<E: Edge> Server<E> {
    /// Serves this end.
    ///
    /// # Errors
    /// Where the runtime cannot watch the descriptor.
    pub fn new(channel: Channel) -> io::Result<Self> {
        let served = Served {
            socket: Duplex::new(channel)?,
            running: Mutex::new(HashMap::new()),
            over: AtomicBool::new(false),
            stalled: Notify::new(),
        };
        Ok(Self { served: Arc::new(served), edge: std::marker::PhantomData })
    }

    /// Next request. Credit and cancellation of running ones are taken care of on the way. After an error the server is to
    /// be dropped.
    ///
    /// # Errors
    /// [`ChannelError::Closed`] where the client is gone; a violation where it must be reported.
    pub async fn next(&self) -> Result<Request<E>, ChannelError> {
        loop {
            let packet = tokio::select! {
                packet = self.served.socket.recv(E::MAX_REQUEST, E::REQUEST_FDS) => packet?,
                () = self.served.stalled.notified() => {
                    return Err(ChannelError::Violation("a peer that does not read its answers"));
                }
            };
            let mut running = lock(&self.served.running);
            match decode_incoming::<E>(packet)? {
                Incoming::Request { id, request, deadline, fds } => {
                    if running.contains_key(&id) {
                        return Err(ChannelError::Violation("an id that is in flight"));
                    }
                    if running.len() >= E::WINDOW {
                        return Err(ChannelError::Violation("more requests than the window"));
                    }
                    let state = Running {
                        credit: Arc::new(Semaphore::new(0)),
                        cancelled: Arc::new(Notify::new()),
                        cancel_seen: Arc::new(AtomicBool::new(false)),
                    };
                    let responder = Responder {
                        served: Arc::clone(&self.served),
                        id,
                        credit: Arc::clone(&state.credit),
                        cancelled: Arc::clone(&state.cancelled),
                        cancel_seen: Arc::clone(&state.cancel_seen),
                        edge: std::marker::PhantomData,
                    };
                    running.insert(id, state);
                    return Ok(Request { request, fds, deadline, responder });
                }
                // Credit and cancel for what has ended meanwhile crossed its answer: legal, and nothing to do.
                Incoming::Credit { id, bytes } => {
                    if let Some(state) = running.get(&id) {
                        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                        if bytes > MAX_CREDIT || state.credit.available_permits().saturating_add(bytes) > MAX_CREDIT {
                            return Err(ChannelError::Violation("more credit than an edge may give"));
                        }
                        state.credit.add_permits(bytes);
                    }
                }
                Incoming::Cancel { id } => {
                    if let Some(state) = running.get(&id) {
                        state.cancel();
                    }
                }
            }
        }
    }
}

/// Credit that may be outstanding for one request, in bytes.
pub const MAX_CREDIT: usize = 16 << 20;

/// Answers one request. Dropped without an answer it leaves the client to its deadline, which is a bug of the role.
pub struct Responder<E: Edge> {
    served: Arc<Served>,
    id: RequestId,
    credit: Arc<Semaphore>,
    cancelled: Arc<Notify>,
    cancel_seen: Arc<AtomicBool>,
    edge: std::marker::PhantomData<fn() -> E>,
}

impl<E: Edge> Responder<E> {
    /// Carried out.
    ///
    /// # Errors
    /// [`ChannelError`] where the client is gone.
    pub async fn reply(self, reply: &E::Reply, fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        let packet = reply_frame::<E>(self.id, reply)?;
        self.served.send(self.id, true, &packet, fds).await
    }

    /// Not carried out.
    ///
    /// # Errors
    /// [`ChannelError`] where the client is gone.
    pub async fn refuse(self, refusal: &Refusal) -> Result<(), ChannelError> {
        let packet = refusal_frame::<E>(self.id, refusal)?;
        self.served.send(self.id, true, &packet, &[]).await
    }

    /// Part of a stream; waits until the client has given credit for it.
    ///
    /// # Errors
    /// [`ChannelError`] where the client is gone.
    pub async fn chunk(&self, chunk: &E::Chunk) -> Result<(), ChannelError> {
        self.credit.acquire_many(chunk.cost()).await.map_err(|_| ChannelError::Closed)?.forget();
        let packet = frame(Kind::Chunk, self.id, 0, chunk, E::MAX_REPLY)?;
        self.served.send(self.id, false, &packet, &[]).await
    }

    /// Waits until the client no longer wants the answer.
    pub async fn cancelled(&self) {
        loop {
            let notified = self.cancelled.notified();
            if self.cancel_seen.load(Ordering::Acquire) {
                return;
            }
            notified.await;
        }
    }
}

impl<E: Edge> Drop for Responder<E> {
    fn drop(&mut self) {
        lock(&self.served.running).remove(&self.id);
    }
}
