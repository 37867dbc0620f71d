//! What lives only as long as this process: nonces that were given out, and devices that wait for the operator's word.
//! Strangers make both come about, so both have a bound, and what is oldest gives way or what is new is not taken.

use super::signature::device_of;
use crate::entropy;
use crate::lockout::Party;
use proto::auth::{ConnectionId, DeviceId, DeviceProof, DeviceRow, DeviceState, MAX_REQUESTS, Nonce, Scopes};
use proto::bounded::BoundedStr;
use rustix::io::Errno;
use std::collections::BTreeMap;

/// Nonces at once. gateway has far fewer connections whose client is not known yet.
const NONCES: usize = 1024;
/// Milliseconds that a nonce is good for; gateway's own limit for a handshake is shorter.
const NONCE_LIFE: u64 = 300_000;
/// Seconds that a device waits before it must ask anew.
const LIFE: u64 = 900;
/// Devices that one address may have waiting.
const PER_PARTY: usize = 3;

/// What waits.
#[derive(Default)]
pub struct Waiting {
    nonces: BTreeMap<ConnectionId, (u64, Nonce)>,
    requests: BTreeMap<DeviceId, Request>,
}

/// A device that waits.
struct Request {
    party: Party,
    asked: u64,
    row: DeviceRow,
    public_key: [u8; 32],
}

impl Waiting {
    /// A nonce for this connection, in the place of one it may have. At `now_ms` of a clock that does not go back.
    ///
    /// # Errors
    /// What `getrandom(2)` says.
    pub fn challenge(&mut self, connection: ConnectionId, now_ms: u64) -> Result<Nonce, Errno> {
        let mut nonce = Nonce([0; 16]);
        entropy::fill(&mut nonce.0)?;
        self.nonces.retain(|_, (given, _)| now_ms.saturating_sub(*given) < NONCE_LIFE);
        if self.nonces.len() >= NONCES
            && let Some(oldest) = self.nonces.iter().min_by_key(|(_, (given, _))| *given).map(|(id, _)| *id)
        {
            self.nonces.remove(&oldest);
        }
        self.nonces.insert(connection, (now_ms, nonce));
        Ok(nonce)
    }

    /// The nonce of this connection: it is there once.
    pub fn redeem(&mut self, connection: ConnectionId, now_ms: u64) -> Option<Nonce> {
        let (given, nonce) = self.nonces.remove(&connection)?;
        (now_ms.saturating_sub(given) < NONCE_LIFE).then_some(nonce)
    }

    /// A device asks to be paired, or to be allowed more. False where too many wait already, from everywhere or from there.
    pub fn ask(&mut self, proof: &DeviceProof, address: &BoundedStr<64>, party: Party, now: u64) -> bool {
        self.forget_old(now);
        let id = device_of(&proof.public_key);
        let of_party = self.requests.values().filter(|request| request.party == party).count();
        if !self.requests.contains_key(&id) && (self.requests.len() >= MAX_REQUESTS || of_party >= PER_PARTY) {
            return false;
        }
        let row = DeviceRow {
            id,
            state: DeviceState::Waits,
            scopes: Scopes::of(proof.scopes.split(',')),
            since: now,
            name: proof.name.clone(),
            client: proof.client.clone(),
            platform: proof.platform.clone(),
            address: address.clone(),
        };
        self.requests.insert(id, Request { party, asked: now, row, public_key: proof.public_key });
        true
    }

    /// The devices that wait.
    pub fn rows(&mut self, now: u64) -> Vec<DeviceRow> {
        self.forget_old(now);
        self.requests.values().map(|request| request.row.clone()).collect()
    }

    /// What a device that waits said of itself, and its key.
    #[must_use]
    pub fn request(&self, id: DeviceId) -> Option<(&DeviceRow, [u8; 32])> {
        self.requests.get(&id).map(|request| (&request.row, request.public_key))
    }

    /// Forgets that a device waits.
    pub fn forget(&mut self, id: DeviceId) {
        self.requests.remove(&id);
    }

    fn forget_old(&mut self, now: u64) {
        // Where the clock went back, what lies ahead of it is as old as can be.
        self.requests.retain(|_, request| now.checked_sub(request.asked).is_some_and(|age| age < LIFE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(device: u8) -> DeviceProof {
        let text = BoundedStr::<64>::truncated("cli");
        DeviceProof {
            connection: ConnectionId([0; 16]),
            public_key: [device; 32],
            signature: [[0; 32]; 2],
            signed_at_ms: 0,
            client: text.clone(),
            mode: BoundedStr::truncated("cli"),
            scopes: BoundedStr::truncated("operator.read,operator.write"),
            platform: text.clone(),
            family: text.clone(),
            name: text,
        }
    }

    fn ask(waiting: &mut Waiting, device: u8, address: u32, now: u64) -> bool {
        waiting.ask(&proof(device), &BoundedStr::truncated("192.0.2.1"), Party::V4(address), now)
    }

    #[test]
    fn nonce_is_of_its_connection_and_there_once_and_not_for_ever() {
        let mut waiting = Waiting::default();
        let [one, two] = [1, 2].map(|n| ConnectionId([n; 16]));
        let first = waiting.challenge(one, 10).unwrap();
        let second = waiting.challenge(two, 10).unwrap();
        assert_ne!(first, second);
        assert_eq!(waiting.redeem(one, 11), Some(first));
        assert_eq!(waiting.redeem(one, 11), None);
        assert_eq!(waiting.redeem(two, 10 + NONCE_LIFE), None);
        waiting.challenge(one, 10).unwrap();
        let again = waiting.challenge(one, 12).unwrap();
        assert_eq!(waiting.redeem(one, 12), Some(again), "the one before is not good any more");
    }

    #[test]
    fn nonces_are_bounded_and_the_oldest_give_way() {
        let mut waiting = Waiting::default();
        let id = |n: usize| ConnectionId(u128::try_from(n).unwrap().to_le_bytes());
        for n in 0..=NONCES {
            waiting.challenge(id(n), u64::try_from(n).unwrap()).unwrap();
        }
        assert_eq!(waiting.nonces.len(), NONCES);
        let now = u64::try_from(NONCES).unwrap();
        assert!(waiting.redeem(id(0), now).is_none() && waiting.redeem(id(1), now).is_some());
    }

    #[test]
    fn devices_that_wait_are_bounded_in_all_and_from_one_address() {
        let mut waiting = Waiting::default();
        assert!((0..3).all(|device| ask(&mut waiting, device, 1, 100)));
        assert!(!ask(&mut waiting, 3, 1, 100), "a fourth from one address");
        assert!(ask(&mut waiting, 2, 1, 100), "one that waits may ask again");
        assert!((10..23).all(|device| ask(&mut waiting, device, device.into(), 100)));
        assert!(!ask(&mut waiting, 30, 30, 100), "a seventeenth");
        assert_eq!(waiting.rows(100 + LIFE - 1).len(), MAX_REQUESTS);
        assert!(waiting.rows(100 + LIFE).is_empty());
        assert!(ask(&mut waiting, 30, 30, 2000));
        assert!(waiting.rows(1999).is_empty(), "the clock went back");
    }
}
