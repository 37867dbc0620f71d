//! Requests to be let in that wait for the operator: three a channel, fifteen minutes each.

use super::Place;
use crate::codec::{Reader, Writer};
use proto::senders::PairingCode;
use rustix::io::Errno;
use std::collections::BTreeMap;
use subtle::ConstantTimeEq as _;

/// Seconds that a code holds.
pub const LIFE: u64 = 900;
/// Requests that wait on a channel at most.
pub const PER_CHANNEL: usize = 3;
/// Channels on which requests wait at most.
pub const CHANNELS: usize = 16;
/// Wrong codes that void every code of a channel.
pub const ATTEMPTS: u8 = 5;

/// One request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Request {
    /// Who asks.
    pub sender: String,
    /// What it calls itself.
    pub name: String,
    /// What it was shown.
    pub code: PairingCode,
    /// When, in seconds since 1970.
    pub made: u64,
}

impl Request {
    fn left(&self, now: u64) -> u32 {
        u32::try_from(self.made.saturating_add(LIFE).saturating_sub(now)).unwrap_or(u32::MAX)
    }
}

#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Queue {
    requests: Vec<Request>,
    wrong: u8,
}

/// What a stranger's message comes to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Asked {
    /// It waits, under this code.
    Code {
        /// The code.
        code: PairingCode,
        /// Seconds that it holds.
        seconds: u32,
        /// True where it did not wait before.
        fresh: bool,
    },
    /// As many wait as may.
    Full,
}

/// Why a code approves nobody.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wrong {
    /// Nothing waits on the channel.
    NoRequest,
    /// It is not the code of one that waits; so many tries are left.
    Left(u8),
    /// It was not, once too often: the codes are void.
    Void,
}

/// Every request that waits.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Pending {
    queues: BTreeMap<String, Queue>,
}

impl Pending {
    /// Takes away what is over. Where the clock was set back, what lies in the future began now.
    pub fn settle(&mut self, now: u64) {
        for queue in self.queues.values_mut() {
            queue.requests.iter_mut().for_each(|request| request.made = request.made.min(now));
            queue.requests.retain(|request| request.left(now) > 0);
        }
        self.queues.retain(|_, queue| !queue.requests.is_empty());
    }

    /// Has a stranger wait, or says under which code it does.
    ///
    /// # Errors
    /// What `draw` says; then nothing has changed.
    pub fn ask(
        &mut self,
        place: &Place,
        name: &str,
        now: u64,
        mut draw: impl FnMut() -> Result<PairingCode, Errno>,
    ) -> Result<Asked, Errno> {
        self.settle(now);
        let waiting = self.queues.get(&place.channel).map(|queue| queue.requests.as_slice()).unwrap_or_default();
        if let Some(request) = waiting.iter().find(|request| request.sender == place.sender) {
            return Ok(Asked::Code { code: request.code, seconds: request.left(now), fresh: false });
        }
        let new_channel = waiting.is_empty();
        if waiting.len() >= PER_CHANNEL || (new_channel && self.queues.len() >= CHANNELS) {
            return Ok(Asked::Full);
        }
        let code = loop {
            let code = draw()?;
            if !self.requests().any(|(_, request)| request.code == code) {
                break code;
            }
        };
        let request = Request { sender: place.sender.clone(), name: name.to_owned(), code, made: now };
        let seconds = request.left(now);
        self.queues.entry(place.channel.clone()).or_default().requests.push(request);
        Ok(Asked::Code { code, seconds, fresh: true })
    }

    /// Takes the request that has this code out. Every code that waits is compared, whole: the time it takes tells nothing.
    ///
    /// # Errors
    /// [`Wrong`], counted.
    pub fn approve(&mut self, channel: &str, code: PairingCode, now: u64) -> Result<Request, Wrong> {
        self.settle(now);
        let Some(queue) = self.queues.get_mut(channel) else { return Err(Wrong::NoRequest) };
        let mut found = None;
        for (at, request) in queue.requests.iter().enumerate() {
            if bool::from(request.code.0.ct_eq(&code.0)) {
                found = Some(at);
            }
        }
        let Some(at) = found else {
            queue.wrong = queue.wrong.saturating_add(1);
            let left = ATTEMPTS.saturating_sub(queue.wrong);
            if left > 0 {
                return Err(Wrong::Left(left));
            }
            self.queues.remove(channel);
            return Err(Wrong::Void);
        };
        let request = queue.requests.remove(at);
        self.settle(now);
        Ok(request)
    }

    /// Takes a sender's request away. True where there was one.
    pub fn forget(&mut self, place: &Place) -> bool {
        let Some(queue) = self.queues.get_mut(&place.channel) else { return false };
        let before = queue.requests.len();
        queue.requests.retain(|request| request.sender != place.sender);
        let forgotten = queue.requests.len() < before;
        self.queues.retain(|_, queue| !queue.requests.is_empty());
        forgotten
    }

    /// Takes every request of a channel away.
    pub fn forget_all(&mut self, channel: &str) {
        self.queues.remove(channel);
    }

    /// Every request, with its channel.
    pub fn requests(&self) -> impl Iterator<Item = (&str, &Request)> {
        self.queues.iter().flat_map(|(channel, queue)| queue.requests.iter().map(|request| (channel.as_str(), request)))
    }

    /// Seconds that a request's code holds.
    #[must_use]
    pub fn left(request: &Request, now: u64) -> u32 {
        request.left(now)
    }

    /// Appends the table as the store has it.
    pub fn encode(&self, into: &mut Writer) {
        into.count(self.queues.len());
        for (channel, queue) in &self.queues {
            into.bytes(channel.as_bytes()).byte(queue.wrong).count(queue.requests.len());
            for request in &queue.requests {
                into.bytes(request.sender.as_bytes()).bytes(request.name.as_bytes());
                into.raw(&request.code.0).number(request.made);
            }
        }
    }

    /// Reads the table.
    #[must_use]
    pub fn decode(from: &mut Reader<'_>) -> Option<Self> {
        let mut queues = BTreeMap::new();
        for _ in 0..from.count(CHANNELS)? {
            let channel = from.text(32)?.to_owned();
            let mut queue = Queue { wrong: from.byte()?, requests: Vec::new() };
            for _ in 0..from.count(PER_CHANNEL)? {
                let (sender, name) = (from.text(128)?.to_owned(), from.text(64)?.to_owned());
                queue.requests.push(Request { sender, name, code: PairingCode(from.array()?), made: from.number()? });
            }
            queues.insert(channel, queue);
        }
        Some(Self { queues })
    }
}
