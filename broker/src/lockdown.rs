//! The lockdown that outlives a broker: `lockdown.json` in the state directory. Where it cannot be read, everything is locked:
//! a lockdown that an attacker could end by spoiling a file would be none.

use crate::layout::StateDir;
use crate::log::{self, Priority};
use confine::directories;
use proto::bounded::{BoundedStr, BoundedVec};
use proto::ids::SessionKey;
use proto::operator::{Lockdown, Mode};
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

const NAME: &str = "lockdown.json";
/// Longest such file, in bytes: 64 keys of 128 bytes, each byte escaped, and the rest.
const MOST: u64 = 65_536;

/// What is not locked.
#[must_use]
pub fn open() -> Lockdown {
    Lockdown {
        mode: Mode::Open,
        since_ms: 0,
        incident: BoundedStr::default(),
        why: BoundedStr::default(),
        quarantined: BoundedVec::default(),
    }
}

/// What an earlier broker left.
#[must_use]
pub fn load(state_dir: &StateDir) -> Lockdown {
    let read = directories::read(state_dir.root(), NAME, MOST);
    let parsed =
        read.and_then(|text| text.map(|text| serde_json::from_str(&text)).transpose().map_err(io::Error::other));
    match parsed {
        Ok(found) => found.unwrap_or_else(open),
        Err(error) => {
            let why = format!("{NAME} cannot be read, which counts as a lockdown: {error}");
            log::broker(Priority::Alert, &why);
            Lockdown { mode: Mode::Locked, since_ms: now_ms(), why: BoundedStr::truncated(&why), ..open() }
        }
    }
}

/// Keeps it for a later broker; nothing is kept where nothing is locked.
///
/// # Errors
/// What the kernel says.
pub fn save(state_dir: &StateDir, lockdown: &Lockdown) -> io::Result<()> {
    if lockdown.mode == Mode::Open && lockdown.quarantined.iter().next().is_none() {
        return directories::remove(state_dir.root(), NAME);
    }
    let text = serde_json::to_vec(lockdown).map_err(io::Error::other)?;
    directories::replace(state_dir.root(), NAME, &text)
}

/// Adds conversations; false where there is no room for one.
pub fn quarantine(lockdown: &mut Lockdown, sessions: &[SessionKey]) -> bool {
    let mut all: Vec<SessionKey> = lockdown.quarantined.iter().cloned().collect();
    for session in sessions {
        if !all.contains(session) {
            all.push(session.clone());
        }
    }
    BoundedVec::new(all).map(|all| lockdown.quarantined = all).is_ok()
}

/// Milliseconds since 1970.
#[must_use]
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lockdown_outlives_its_broker_and_its_end_does_too() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::prepare(&dir.path().join("s")).unwrap();
        assert_eq!(load(&state), open());
        let mut locked = Lockdown { mode: Mode::Locked, since_ms: 7, why: BoundedStr::truncated("why"), ..open() };
        assert!(quarantine(&mut locked, &[SessionKey(BoundedStr::truncated("agent:\n\"main"))]));
        save(&state, &locked).unwrap();
        assert_eq!(load(&state), locked);
        save(&state, &open()).unwrap();
        assert_eq!(load(&state), open());
    }

    #[test]
    fn spoiled_file_is_a_lockdown() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::prepare(&dir.path().join("s")).unwrap();
        let path = dir.path().join("s").join(NAME);
        for text in ["", "{}", "{\"mode\":\"Open\"", "\u{0}"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(load(&state).mode, Mode::Locked, "{text:?}");
        }
        std::fs::write(&path, " ".repeat(70_000)).unwrap();
        assert_eq!(load(&state).mode, Mode::Locked);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(load(&state).mode, Mode::Locked);
    }

    #[test]
    fn quarantine_takes_each_once_and_says_when_it_is_full() {
        let key = |n: usize| SessionKey(BoundedStr::truncated(&format!("agent:main:{n}")));
        let mut lockdown = open();
        for _ in 0..2 {
            assert!(quarantine(&mut lockdown, &(0..64).map(key).collect::<Vec<_>>()));
        }
        assert!(!quarantine(&mut lockdown, &[key(64)]));
        assert_eq!(lockdown.quarantined.iter().count(), 64);
    }
}
