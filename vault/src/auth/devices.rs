//! The devices that were paired: their keys, what each may do, and what tells its token. Only the operator's verbs change
//! it; a login reads. Of a token there is its SHA-256 alone, which for 256 random bits is as good as the token is secret.

use crate::codec::{Reader, Writer};
use proto::auth::{DeviceId, DeviceRow, DeviceState, MAX_DEVICES, Scopes};
use proto::bounded::BoundedStr;
use proto::secret::Secret;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use subtle::ConstantTimeEq as _;

/// Former tokens of a device that are told from a guess.
const FORMER: usize = 4;

type Digest = [u8; 32];

/// What a device shows beside its signature.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Beside {
    /// Nothing.
    Nothing,
    /// The token of this SHA-256.
    Token(Digest),
    /// A token that it has not got yet.
    Missing,
}

/// One device.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Device {
    /// Ed25519.
    pub public_key: [u8; 32],
    /// What it calls itself, which client it runs, on which platform.
    pub says: [BoundedStr<64>; 3],
    /// What it may do.
    pub scopes: Scopes,
    /// When it was paired, in seconds since 1970.
    pub paired: u64,
    /// Generation of the store in which what lets it in last changed.
    pub since: u64,
    /// False where its pairing was taken back.
    pub stands: bool,
    /// What it shows beside its signature.
    pub beside: Beside,
    /// Tokens that it once had, newest last.
    former: Vec<Digest>,
}

/// What a token is to a device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Offered {
    /// The one it must show.
    Right,
    /// One that it once had.
    Stale,
    /// None of its own.
    Foreign,
}

fn digest(token: &Secret) -> Digest {
    Sha256::digest(token.expose()).into()
}

fn is(kept: &Digest, offered: &Digest) -> bool {
    kept.ct_eq(offered).into()
}

impl Device {
    /// One that was just paired.
    #[must_use]
    pub fn new(public_key: [u8; 32], row: &DeviceRow, paired: u64) -> Self {
        let says = [row.name.clone(), row.client.clone(), row.platform.clone()];
        let (scopes, beside) = (row.scopes, Beside::Nothing);
        Self { public_key, says, scopes, paired, since: 0, stands: true, beside, former: Vec::new() }
    }

    /// One that was paired elsewhere.
    #[must_use]
    pub fn admitted(public_key: [u8; 32], name: BoundedStr<64>, scopes: Scopes, paired: u64) -> Self {
        let says = [name, BoundedStr::default(), BoundedStr::default()];
        Self { public_key, says, scopes, paired, since: 0, stands: true, beside: Beside::Nothing, former: Vec::new() }
    }

    /// What `token` is to it.
    #[must_use]
    pub fn offered(&self, token: &Secret) -> Offered {
        let offered = digest(token);
        match &self.beside {
            Beside::Token(kept) if is(kept, &offered) => Offered::Right,
            _ if self.former.iter().any(|kept| is(kept, &offered)) => Offered::Stale,
            _ => Offered::Foreign,
        }
    }

    /// Has it show another token, or one that it has not got.
    pub fn exchange(&mut self, token: Option<&Secret>) {
        let next = token.map_or(Beside::Missing, |token| Beside::Token(digest(token)));
        if let Beside::Token(kept) = std::mem::replace(&mut self.beside, next) {
            if self.former.len() >= FORMER {
                self.former.remove(0);
            }
            self.former.push(kept);
        }
    }

    fn state(&self) -> DeviceState {
        match (self.stands, self.beside) {
            (false, _) => DeviceState::Revoked,
            (true, Beside::Nothing) => DeviceState::Paired,
            (true, Beside::Token(_)) => DeviceState::PairedWithToken,
            (true, Beside::Missing) => DeviceState::WithoutItsToken,
        }
    }
}

/// Every device, by its name.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Devices(BTreeMap<DeviceId, Device>);

impl Devices {
    /// The device, if it is known.
    #[must_use]
    pub fn get(&self, id: DeviceId) -> Option<&Device> {
        self.0.get(&id)
    }

    /// The device, if it is known, to be changed.
    pub fn get_mut(&mut self, id: DeviceId) -> Option<&mut Device> {
        self.0.get_mut(&id)
    }

    /// Adds one; where all places are taken, in that of the one whose pairing was taken back the longest time ago. False
    /// where there is none.
    pub fn add(&mut self, id: DeviceId, device: Device) -> bool {
        if self.0.len() >= MAX_DEVICES && !self.0.contains_key(&id) {
            let gone = self.0.iter().filter(|(_, device)| !device.stands).min_by_key(|(_, device)| device.since);
            let Some(gone) = gone.map(|(id, _)| *id) else { return false };
            self.0.remove(&gone);
        }
        self.0.insert(id, device);
        true
    }

    /// Numbers of those that are let in.
    #[must_use]
    pub fn standing(&self) -> Vec<u64> {
        self.0.values().filter(|device| device.stands).map(|device| device.since).collect()
    }

    /// All, as the operator sees them.
    pub fn rows(&self) -> impl Iterator<Item = DeviceRow> {
        self.0.iter().map(|(id, device)| {
            let [name, client, platform] = device.says.clone();
            let (state, address) = (device.state(), BoundedStr::default());
            let (scopes, since) = (device.scopes, device.paired);
            DeviceRow { id: *id, state, scopes, since, name, client, platform, address }
        })
    }

    /// Appends what there is to store.
    pub fn encode(&self, into: &mut Writer) {
        into.count(self.0.len());
        for (id, device) in &self.0 {
            into.raw(&id.0).raw(&device.public_key);
            for text in &device.says {
                into.bytes(text.as_bytes());
            }
            into.byte(bits(device.scopes)).number(device.paired).number(device.since);
            into.byte(u8::from(device.stands));
            match &device.beside {
                Beside::Nothing => into.byte(0),
                Beside::Missing => into.byte(1),
                Beside::Token(digest) => into.byte(2).raw(digest),
            };
            into.count(device.former.len());
            for digest in &device.former {
                into.raw(digest);
            }
        }
    }

    /// Reads what was stored.
    #[must_use]
    pub fn decode(from: &mut Reader<'_>) -> Option<Self> {
        let mut devices = BTreeMap::new();
        for _ in 0..from.count(MAX_DEVICES)? {
            let (id, public_key) = (DeviceId(from.array()?), from.array()?);
            let mut text = || BoundedStr::new(from.text(64)?).ok();
            let says = [text()?, text()?, text()?];
            let (scopes, paired, since) = (scopes(from.byte()?)?, from.number()?, from.number()?);
            let stands = from.flag()?;
            let beside = match from.byte()? {
                0 => Beside::Nothing,
                1 => Beside::Missing,
                2 => Beside::Token(from.array()?),
                _ => return None,
            };
            let count = from.count(FORMER)?;
            let former = (0..count).map(|_| from.array()).collect::<Option<_>>()?;
            let device = Device { public_key, says, scopes, paired, since, stands, beside, former };
            devices.insert(id, device);
        }
        Some(Self(devices))
    }
}

/// Lowest bit first: admin, read, write, approvals, pairing.
fn bits(scopes: Scopes) -> u8 {
    let Scopes { admin, read, write, approvals, pairing } = scopes;
    [admin, read, write, approvals, pairing].into_iter().rev().fold(0, |bits, has| (bits << 1) | u8::from(has))
}

fn scopes(bits: u8) -> Option<Scopes> {
    let has = |at: u8| bits & (1 << at) != 0;
    let scopes = Scopes { admin: has(0), read: has(1), write: has(2), approvals: has(3), pairing: has(4) };
    (bits < 32).then_some(scopes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str) -> Secret {
        Secret::new(text.as_bytes().to_vec()).unwrap()
    }

    fn device() -> Device {
        let text = BoundedStr::truncated("x");
        let row = DeviceRow {
            id: DeviceId([1; 32]),
            state: DeviceState::Waits,
            scopes: Scopes { read: true, pairing: true, ..Scopes::default() },
            since: 5,
            name: text.clone(),
            client: text.clone(),
            platform: text,
            address: BoundedStr::default(),
        };
        Device::new([1; 32], &row, 5)
    }

    #[test]
    fn token_is_right_until_it_is_exchanged_and_stale_after() {
        let mut device = device();
        assert_eq!(device.offered(&token("a")), Offered::Foreign);
        device.exchange(Some(&token("a")));
        assert_eq!(device.offered(&token("a")), Offered::Right);
        assert_eq!(device.offered(&token("b")), Offered::Foreign);
        device.exchange(Some(&token("b")));
        assert_eq!((device.offered(&token("a")), device.offered(&token("b"))), (Offered::Stale, Offered::Right));
        device.exchange(None);
        assert_eq!((device.offered(&token("b")), device.beside), (Offered::Stale, Beside::Missing));
        for n in 0..FORMER {
            device.exchange(Some(&token(&n.to_string())));
        }
        device.exchange(None);
        assert_eq!(device.offered(&token("b")), Offered::Foreign, "not for ever");
        assert_eq!(device.former.len(), FORMER);
    }

    #[test]
    fn devices_read_back_and_every_cut_gives_nothing() {
        let mut devices = Devices::default();
        for n in 0..3 {
            let mut device = Device { since: n.into(), stands: n != 1, ..device() };
            device.exchange((n == 2).then(|| token("a")).as_ref());
            device.exchange((n == 2).then(|| token("b")).as_ref());
            devices.add(DeviceId([n; 32]), device);
        }
        let mut stored = Writer::new(4096);
        devices.encode(&mut stored);
        let stored = stored.finish();
        let mut from = Reader::new(&stored);
        assert_eq!(Devices::decode(&mut from), Some(devices.clone()));
        assert!(from.is_done());
        for end in 0..stored.len() {
            assert_eq!(Devices::decode(&mut Reader::new(&stored[..end])), None);
        }
        assert_eq!(devices.standing(), [0, 2]);
    }

    #[test]
    fn place_is_made_by_what_was_taken_back_first_and_by_nothing_else() {
        let mut devices = Devices::default();
        let id = |n: usize| DeviceId([u8::try_from(n).unwrap(); 32]);
        for n in 0..MAX_DEVICES {
            assert!(devices.add(id(n), Device { since: u64::try_from(n).unwrap(), ..device() }));
        }
        assert!(!devices.add(id(MAX_DEVICES), device()));
        for n in [7, 3] {
            devices.get_mut(id(n)).unwrap().stands = false;
        }
        assert!(devices.add(id(MAX_DEVICES), device()));
        assert!(devices.get(id(3)).is_none() && devices.get(id(7)).is_some());
    }

    #[test]
    fn every_set_of_scopes_has_one_byte_and_other_bytes_have_none() {
        for byte in 0..=u8::MAX {
            assert_eq!(scopes(byte).map(bits), (byte < 32).then_some(byte));
        }
    }
}
