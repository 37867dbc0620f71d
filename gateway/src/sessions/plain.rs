//! Transcripts of versions that wrote them in clear. Each is sealed under a key of the vault once the vault is there; the plain
//! file is written over and removed by the next start, before the walls go up: behind them nothing can cut or remove a file.
//!
//! What is sealed says of which bytes it was made, as its last line's remark. A plain file is destroyed only where that holds.
//! Its old blocks may live on in the disk itself: what writing over a file does not reach, this does not.

use super::{MAX_TRANSCRIPT, SessionError, Store, bytes, file_name, is_id, nonce, normalise};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, fdatasync, fstat, fsync, openat, unlinkat};
use rustix::io::{Errno, pread, pwrite};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::os::fd::{BorrowedFd, OwnedFd};
use transcript::Key;

/// A sealed line is longer than its text by a third and some.
const MAX_SEALED: u64 = 2 * MAX_TRANSCRIPT;
/// Text that is sealed before something else gets its turn, in bytes.
const BATCH: usize = 256 << 10;
const MARK: &str = "# of ";
const BLOCK: usize = 65_536;

/// A conversation whose transcript lies in clear.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Plain {
    /// The conversation.
    pub session: String,
    /// Its transcript.
    pub id: String,
}

fn plain_name(id: &str) -> String {
    format!("{id}.jsonl")
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Ids of plain transcripts beneath `directory`. Those that are sealed already are destroyed here.
///
/// # Errors
/// What the kernel says.
pub fn sweep(directory: BorrowedFd<'_>) -> Result<Vec<String>, Errno> {
    let mut left = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let Some(id) = entry.file_name().to_str().ok().and_then(|name| name.strip_suffix(".jsonl")) else { continue };
        if is_id(id) && !destroyed(directory, id)? {
            left.push(id.to_owned());
        }
    }
    left.sort_unstable();
    Ok(left)
}

fn open(directory: BorrowedFd<'_>, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    openat(directory, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())
}

/// Gives the file's bytes on, block by block.
fn each_block(file: &OwnedFd, mut take: impl FnMut(&[u8])) -> Result<(), Errno> {
    let (mut block, mut at) = (vec![0; BLOCK], 0u64);
    loop {
        match pread(file, &mut block, at)? {
            0 => return Ok(()),
            count => {
                take(block.get(..count).unwrap_or_default());
                at = at.saturating_add(u64::try_from(count).unwrap_or_default());
            }
        }
    }
}

/// Destroys the plain file where the sealed one was made of it and is durable, or where it is written over already.
fn destroyed(directory: BorrowedFd<'_>, id: &str) -> Result<bool, Errno> {
    let name = plain_name(id);
    let plain = open(directory, &name, OFlags::RDWR)?;
    let (mut hash, mut blank) = (Sha256::new(), true);
    each_block(&plain, |block| {
        hash.update(block);
        blank &= block.iter().all(|byte| *byte == 0);
    })?;
    if !blank {
        let sealed = match open(directory, &file_name(id), OFlags::RDONLY) {
            Ok(sealed) => sealed,
            Err(Errno::NOENT) => return Ok(false),
            Err(errno) => return Err(errno),
        };
        let mut text = Vec::new();
        each_block(&sealed, |block| text.extend_from_slice(block))?;
        let mark = format!("{MARK}{}", hex(&hash.finalize()));
        if !text.split(|byte| *byte == b'\n').any(|line| line == mark.as_bytes()) {
            return Ok(false);
        }
        fsync(&sealed)?;
        fsync(directory)?;
        let (size, mut at) = (u64::try_from(fstat(&plain)?.st_size).unwrap_or_default(), 0u64);
        while at < size {
            let left = usize::try_from(size.saturating_sub(at)).unwrap_or(BLOCK).min(BLOCK);
            let written = pwrite(&plain, vec![0; left].as_slice(), at)?;
            at = at.saturating_add(u64::try_from(written).unwrap_or_default());
        }
        fdatasync(&plain)?;
    }
    unlinkat(directory, &name, AtFlags::empty())?;
    fsync(directory)?;
    Ok(true)
}

impl Store {
    /// Puts a name to plain transcripts and orders them: of one conversation, the newest last.
    ///
    /// # Errors
    /// [`SessionError::File`].
    pub fn name_plain(&self, ids: &[String]) -> Result<Vec<Plain>, SessionError> {
        let mut named: Vec<Plain> = Vec::new();
        for line in self.index()?.0 {
            let text = |name| line.get(name).and_then(Value::as_str);
            if let (Some(key), Some(id)) = (text("key"), text("sessionId"))
                && ids.iter().any(|found| found == id)
                && normalise(key).is_ok_and(|same| same == key)
            {
                named.retain(|before| before.id != id);
                named.push(Plain { session: key.to_owned(), id: id.to_owned() });
            }
        }
        let known = |id: &String| named.iter().any(|plain| plain.id == *id);
        let lost = ids.iter().filter(|id| !known(id));
        let lost = lost.map(|id| Plain { session: "agent:main:lost".to_owned(), id: id.clone() });
        Ok(lost.collect::<Vec<_>>().into_iter().chain(named).collect())
    }

    /// Seals the next lines of a plain transcript. True once all of it is sealed and says so.
    ///
    /// # Errors
    /// [`SessionError::Full`], [`SessionError::File`].
    pub fn seal_plain(&self, plain: &Plain, key: &Key) -> Result<bool, SessionError> {
        let (from, to, id) = (plain_name(&plain.id), file_name(&plain.id), bytes(&plain.id));
        let (text, _) = self.directory.tail(&from, u64::MAX)?;
        let next = self.read(&to, key, &id, u64::MAX)?.next();
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let (mut batch, mut all) = (String::new(), true);
        for (number, line) in (0u64..).zip(lines).skip(usize::try_from(next).unwrap_or(usize::MAX)) {
            if batch.len() >= BATCH {
                all = false;
                break;
            }
            let sealed = transcript::seal(key, &id, number, nonce(), line).ok_or_else(|| SessionError::File {
                what: "seal a line of",
                file: to.clone(),
                errno: Errno::INVAL,
            })?;
            batch.push_str(&sealed);
            batch.push('\n');
        }
        if all {
            batch.push_str(MARK);
            batch.push_str(&hex(&Sha256::digest(&text)));
        }
        self.directory.append(&to, batch.trim_end_matches('\n'), MAX_SEALED)?;
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;
    use std::path::Path;

    const OLD: &str = "11111111-1111-4111-8111-111111111111";
    const NEW: &str = "22222222-2222-4222-8222-222222222222";
    const LOST: &str = "33333333-3333-4333-8333-333333333333";
    const TEXT: &str = "the quick brown fox";

    fn handle(dir: &Path) -> OwnedFd {
        std::fs::File::open(dir).unwrap().into()
    }

    fn old_state(dir: &Path) {
        let line = |key: &str, id: &str| format!("{{\"key\":\"{key}\",\"sessionId\":\"{id}\",\"createdAt\":1}}\n");
        let index = line("agent:main:main", OLD) + &line("agent:main:main", NEW);
        std::fs::write(dir.join("index.jsonl"), index).unwrap();
        for id in [OLD, NEW, LOST] {
            let lines: String =
                (0..40).map(|n| format!("{{\"role\":\"user\",\"n\":{n},\"content\":\"{TEXT}\"}}\n")).collect();
            std::fs::write(dir.join(plain_name(id)), lines + "{\"torn").unwrap();
        }
    }

    fn key() -> Key {
        Key::new(&[1; 32]).unwrap()
    }

    fn seal_whole(store: &Store, plain: &Plain) {
        for _ in 0..1000 {
            if store.seal_plain(plain, &key()).unwrap() {
                return;
            }
        }
        panic!("it does not end");
    }

    fn holds_text(dir: &Path) -> bool {
        std::fs::read_dir(dir).unwrap().map(Result::unwrap).any(|entry| {
            let bytes = std::fs::read(entry.path()).unwrap();
            bytes.windows(TEXT.len()).any(|window| window == TEXT.as_bytes())
        })
    }

    #[test]
    fn plain_transcripts_are_sealed_in_order_and_destroyed_by_the_next_start_alone() {
        let dir = tempfile::tempdir().unwrap();
        old_state(dir.path());
        let left = sweep(handle(dir.path()).as_fd()).unwrap();
        assert_eq!(left, [OLD, NEW, LOST]);
        let store = Store::open(handle(dir.path())).unwrap();
        let named = store.name_plain(&left).unwrap();
        let ids: Vec<_> = named.iter().map(|plain| (plain.session.as_str(), plain.id.as_str())).collect();
        assert_eq!(ids, [("agent:main:lost", LOST), ("agent:main:main", OLD), ("agent:main:main", NEW)]);
        for plain in &named[..2] {
            seal_whole(&store, plain);
        }
        assert!(holds_text(dir.path()), "the search finds what is there");
        // What was not sealed stays, and so does what changed after.
        std::fs::write(dir.path().join(plain_name(OLD)), format!("{TEXT}, and more")).unwrap();
        assert_eq!(sweep(handle(dir.path()).as_fd()).unwrap(), [OLD, NEW]);
        std::fs::remove_file(dir.path().join(plain_name(OLD))).unwrap();
        seal_whole(&store, &named[2]);
        assert!(sweep(handle(dir.path()).as_fd()).unwrap().is_empty());
        assert!(!holds_text(dir.path()));
        let mut again = Store::open(handle(dir.path())).unwrap();
        again.unlock("agent:main:main", key(), 0).unwrap();
        let history = again.history("agent:main:main", 100).unwrap();
        assert_eq!((history.messages.len(), history.damaged), (40, 0));
        again.record("agent:main:main", "user", "on").unwrap();
        assert_eq!(again.history("agent:main:main", 100).unwrap().messages.len(), 41);
    }

    #[test]
    fn sealing_that_was_interrupted_goes_on_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        old_state(dir.path());
        let store = Store::open(handle(dir.path())).unwrap();
        let plain = Plain { session: "agent:main:main".to_owned(), id: NEW.to_owned() };
        seal_whole(&store, &plain);
        // As a crash leaves it: some whole lines, and one that was cut.
        let path = dir.path().join(file_name(NEW));
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert!(sweep(handle(dir.path()).as_fd()).unwrap().contains(&NEW.to_owned()));
        seal_whole(&store, &plain);
        assert!(!sweep(handle(dir.path()).as_fd()).unwrap().contains(&NEW.to_owned()));
        let (bytes, whole) = store.directory.tail(&file_name(NEW), u64::MAX).unwrap();
        let found = transcript::read(&key(), &super::bytes(NEW), &bytes, whole);
        assert_eq!((found.lines.len(), found.next()), (41, 41), "the torn line of old is sealed as it was");
    }

    #[test]
    fn file_that_was_written_over_and_not_removed_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(plain_name(OLD)), [0; 4096]).unwrap();
        std::fs::write(dir.path().join("index.jsonl"), "").unwrap();
        assert!(sweep(handle(dir.path()).as_fd()).unwrap().is_empty());
        assert!(!dir.path().join(plain_name(OLD)).exists() && dir.path().join("index.jsonl").exists());
    }
}
