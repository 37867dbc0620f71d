//! What is on its way to the clients: one bounded queue a connection, and the list of them for events that go to all.
//! A client that does not read loses its connection, never the gateway's memory.

use crate::connect::allows;
use crate::frames;
use crate::methods::APPROVALS;
use proto::auth::{Pass, Scopes, Standing};
use proto::bounded::BoundedVec;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Bytes that may wait for one client.
pub const MAX_BUFFERED: usize = 1_572_864;
/// Frames that may wait for one client.
const MAX_FRAMES: usize = 1024;

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Something for a connection to write.
#[derive(Debug, Eq, PartialEq)]
pub enum Out {
    /// A text frame.
    Text(String),
    /// The end: code and reason.
    Close(u16, &'static str),
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<String>,
    bytes: usize,
    seq: u64,
    close: Option<(u16, &'static str)>,
    slow: bool,
}

/// The queue of one connection.
#[derive(Debug)]
pub struct Outbox {
    /// 3 or 4.
    pub protocol: u8,
    /// True for a client that may hear of commands that wait.
    hears_approvals: bool,
    queue: Mutex<Queue>,
    changed: Notify,
    overflow: Notify,
}

impl Outbox {
    /// An empty queue for a client that speaks `protocol`.
    #[must_use]
    pub fn new(protocol: u8) -> Self {
        let (changed, overflow) = (Notify::new(), Notify::new());
        Self { protocol, hears_approvals: false, queue: Mutex::default(), changed, overflow }
    }

    /// The queue of a client that may do this.
    #[must_use]
    pub fn of(protocol: u8, scopes: Scopes) -> Self {
        Self { hears_approvals: allows(scopes, APPROVALS), ..Self::new(protocol) }
    }

    /// Queues an answer.
    pub fn push(&self, text: String) {
        self.admit(lock(&self.queue), text);
    }

    /// Queues an event, numbered without gaps. A `droppable` one is left out where the queue is half full: a later one
    /// will say all that it says.
    pub fn event(&self, name: &str, payload: &str, droppable: bool) {
        let mut queue = lock(&self.queue);
        if droppable && queue.bytes > MAX_BUFFERED / 4 {
            return;
        }
        queue.seq = queue.seq.saturating_add(1);
        let text = frames::event(name, payload, Some(queue.seq));
        self.admit(queue, text);
    }

    fn admit(&self, mut queue: MutexGuard<'_, Queue>, text: String) {
        if queue.slow {
            return;
        }
        queue.bytes = queue.bytes.saturating_add(text.len());
        if queue.bytes > MAX_BUFFERED || queue.waiting.len() >= MAX_FRAMES {
            queue.slow = true;
            queue.waiting.clear();
            self.overflow.notify_one();
        } else {
            queue.waiting.push_back(text);
            self.changed.notify_one();
        }
    }

    /// Ends the connection once what waits is written.
    pub fn close(&self, code: u16, reason: &'static str) {
        lock(&self.queue).close.get_or_insert((code, reason));
        self.changed.notify_one();
    }

    /// Next thing to write.
    pub async fn next(&self) -> Out {
        loop {
            {
                let mut queue = lock(&self.queue);
                if let Some(text) = queue.waiting.pop_front() {
                    queue.bytes = queue.bytes.saturating_sub(text.len());
                    return Out::Text(text);
                }
                if let Some((code, reason)) = queue.close {
                    return Out::Close(code, reason);
                }
            }
            self.changed.notified().await;
        }
    }

    /// What else waits to be written, up to about `bytes` of it.
    pub fn waiting(&self, bytes: usize) -> Vec<String> {
        let mut queue = lock(&self.queue);
        let (mut taken, mut size) = (Vec::new(), 0usize);
        while size < bytes
            && let Some(text) = queue.waiting.pop_front()
        {
            queue.bytes = queue.bytes.saturating_sub(text.len());
            size = size.saturating_add(text.len());
            taken.push(text);
        }
        taken
    }

    /// Waits until the client has proven too slow.
    pub async fn overflowed(&self) {
        while !lock(&self.queue).slow {
            self.overflow.notified().await;
        }
    }
}

/// Every authenticated connection.
#[derive(Debug, Default)]
pub struct Hub {
    all: Mutex<All>,
    left: Notify,
}

#[derive(Debug, Default)]
struct All {
    last: u64,
    members: HashMap<u64, (Arc<Outbox>, Passes)>,
    /// What lets clients in, as far as the vault has said.
    standing: Standing,
}

/// What a client came in by.
type Passes = BoundedVec<Pass, 2>;

/// Takes a connection off the list when dropped.
#[derive(Debug)]
pub struct Member<'a> {
    hub: &'a Hub,
    id: u64,
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        lock(&self.hub.all).members.remove(&self.id);
        self.hub.left.notify_one();
    }
}

impl Hub {
    /// Puts a connection on the list; ends it where what it came in by was taken back meanwhile.
    pub fn join(&self, outbox: Arc<Outbox>, by: Passes) -> Member<'_> {
        let mut all = lock(&self.all);
        all.last = all.last.wrapping_add(1);
        let id = all.last;
        end_unless_held(&all.standing, &outbox, &by);
        all.members.insert(id, (outbox, by));
        Member { hub: self, id }
    }

    /// What lets clients in, as far as the vault has said.
    #[must_use]
    pub fn standing(&self) -> Standing {
        lock(&self.all).standing.clone()
    }

    /// The vault says that this lets clients in now: whoever came in by something else is shown out.
    pub fn settle(&self, standing: Standing) {
        let mut all = lock(&self.all);
        for (outbox, by) in all.members.values() {
            end_unless_held(&standing, outbox, by);
        }
        all.standing = standing;
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.all).members.len()
    }

    /// True where there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until there is none. For one waiter at a time.
    pub async fn emptied(&self) {
        while !self.is_empty() {
            self.left.notified().await;
        }
    }

    /// Sends an event to all.
    pub fn event(&self, name: &str, payload: &str) {
        for (outbox, _) in lock(&self.all).members.values() {
            outbox.event(name, payload, false);
        }
    }

    /// Sends an event about a command that waits to those who may answer it.
    pub fn event_of_approval(&self, name: &str, payload: &str) {
        for (outbox, _) in lock(&self.all).members.values().filter(|(outbox, _)| outbox.hears_approvals) {
            outbox.event(name, payload, false);
        }
    }

    /// Sends an event to those who speak `protocol`.
    pub fn event_for(&self, protocol: u8, name: &str, payload: &str, droppable: bool) {
        for (outbox, _) in lock(&self.all).members.values().filter(|(outbox, _)| outbox.protocol == protocol) {
            outbox.event(name, payload, droppable);
        }
    }

    /// Ends all connections.
    pub fn close(&self, code: u16, reason: &'static str) {
        for (outbox, _) in lock(&self.all).members.values() {
            outbox.close(code, reason);
        }
    }
}

fn end_unless_held(standing: &Standing, outbox: &Outbox, by: &Passes) {
    if !by.iter().all(|pass| standing.holds(*pass)) {
        outbox.close(1008, "what let this client in was taken back");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn outbox_over_its_bound_is_slow() {
        let outbox = Outbox::new(4);
        outbox.push("x".repeat(MAX_BUFFERED));
        assert!(!lock(&outbox.queue).slow, "what fits is kept");
        outbox.push("y".to_owned());
        outbox.overflowed().await;
        assert!(lock(&outbox.queue).waiting.is_empty());
    }

    #[tokio::test]
    async fn command_that_waits_is_announced_to_those_alone_who_may_answer() {
        let hub = Hub::default();
        let with = |scope| Arc::new(Outbox::of(4, Scopes::of([scope])));
        let (answers, reads) = (with("operator.approvals"), with("operator.read"));
        let _members = [&answers, &reads].map(|outbox| hub.join(Arc::clone(outbox), BoundedVec::default()));
        hub.event_of_approval("exec.approval.requested", "{}");
        assert!(matches!(answers.next().await, Out::Text(text) if text.contains("exec.approval.requested")));
        assert!(lock(&reads.queue).waiting.is_empty());
        // The twin: the one that hears nothing of it hears what is for all.
        hub.event_for(4, "tick", "{}", false);
        assert!(matches!(reads.next().await, Out::Text(text) if text.contains("tick")));
    }

    #[tokio::test]
    async fn outbox_closes_after_what_waits() {
        let outbox = Outbox::new(3);
        outbox.push("a".to_owned());
        outbox.close(1012, "service restart");
        assert_eq!(outbox.next().await, Out::Text("a".to_owned()));
        assert_eq!(outbox.next().await, Out::Close(1012, "service restart"));
    }

    #[tokio::test]
    async fn outbox_events_are_numbered_without_gaps_where_some_are_dropped() {
        let outbox = Outbox::new(3);
        outbox.event("a", "{}", true);
        outbox.push("x".repeat(MAX_BUFFERED / 2));
        outbox.event("b", "{}", true);
        outbox.event("c", "{}", false);
        let mut seen = Vec::new();
        for _ in 0..3 {
            if let Out::Text(text) = outbox.next().await {
                seen.push(text);
            }
        }
        assert!(seen[0].contains(r#""event":"a","payload":{},"seq":1"#));
        assert!(seen[2].contains(r#""event":"c","payload":{},"seq":2"#));
    }

    #[tokio::test]
    async fn hub_shows_out_who_came_in_by_what_was_taken_back_before_or_after_it_joined() {
        let hub = Hub::default();
        let by = |pass| Passes::new(vec![pass]).unwrap();
        let outboxes = [(); 3].map(|()| Arc::new(Outbox::new(4)));
        let [first, late, stays] = &outboxes;
        let _first = hub.join(Arc::clone(first), by(Pass::Device(3)));
        let devices = BoundedVec::new(vec![5]).unwrap();
        hub.settle(Standing { as_of: 6, devices, ..Standing::default() });
        let _late = hub.join(Arc::clone(late), by(Pass::Device(4)));
        // Newer than what the vault has said: it is not known to be taken back.
        let _stays =
            [by(Pass::Device(5)), by(Pass::Device(7)), Passes::default()].map(|by| hub.join(Arc::clone(stays), by));
        for outbox in [first, late] {
            assert!(matches!(outbox.next().await, Out::Close(1008, _)));
        }
        stays.push("still there".to_owned());
        assert_eq!(stays.next().await, Out::Text("still there".to_owned()));
        assert!(lock(&stays.queue).close.is_none());
    }

    #[test]
    fn hub_forgets_who_left() {
        let hub = Hub::default();
        let member = hub.join(Arc::new(Outbox::new(4)), Passes::default());
        assert_eq!(hub.len(), 1);
        drop(member);
        assert!(hub.is_empty());
    }
}
