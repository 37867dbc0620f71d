//! `moltbot vault backup | restore`: the sealed store and its key file, encrypted to recipients of age, and put back.
//!
//! Both read and write the state directory itself, as its owner may; a running vault replaces its store whole, so what is
//! read is one store. The master key is in this process's memory for as long as it takes, as it would be in that of `cp`.
//! A file that is restored is hostile until it was decrypted and its store opened with its key.

mod age;
pub mod tar;

use crate::CliError;
use crate::args::{Args, VaultCommand};
use crate::door::Door;
use crate::secrets::{done, say};
use age::{Identity, Recipient};
use auditd::offline;
use proto::bounded::BoundedStr;
use proto::vault::VaultVerb;
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid, fchown, fstat, fsync, openat, renameat, unlinkat};
use serde_json::json;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};
use vault::keys::Master;
use vault::passphrase::Lock;
use vault::snapshot::{self, Label};
use zeroize::Zeroizing;

const KEY: &str = "keys/secrets.key";
const STORE: &str = "vault/vault.db";
/// Bytes of a file of age that is a backup at most.
const MOST: u64 = 4 << 20;

/// What a backup holds.
struct Backup {
    /// The key file's text; none where the service manager keeps the key.
    key: Option<Zeroizing<Vec<u8>>>,
    store: Zeroizing<Vec<u8>>,
    label: Label,
}

/// Carries out what is one of the two; false where it is neither.
///
/// # Errors
/// [`CliError`].
pub fn run(dir: &Path, command: &VaultCommand, args: &Args) -> Result<bool, CliError> {
    match command {
        VaultCommand::Backup { to, recipient } => backup(dir, to, recipient, args).map(|()| true),
        VaultCommand::Restore { file, identity, dry_run, accept_rollback } => {
            restore(dir, file, identity, *dry_run, *accept_rollback, args).map(|()| true)
        }
        _ => Ok(false),
    }
}

fn failed(what: impl std::fmt::Display, error: impl std::fmt::Display) -> CliError {
    CliError::Failed(format!("{what}: {error}"))
}

fn read(dir: &Path, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, CliError> {
    match std::fs::read(dir.join(name)) {
        Ok(bytes) => Ok(Some(Zeroizing::new(bytes))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(dir.join(name).display(), error)),
    }
}

impl Backup {
    /// Of these parts, if they belong together.
    fn of(key: Option<Zeroizing<Vec<u8>>>, store: Zeroizing<Vec<u8>>) -> Result<Self, CliError> {
        let (lock, inner) = Lock::split(&store).map_err(|error| failed(STORE, error))?;
        let label = snapshot::label(inner).ok_or_else(|| failed(STORE, "is not a store of this version"))?;
        let master = key.as_ref().map(|text| Master::from_text(text).ok_or_else(|| failed(KEY, "is no key")));
        // Without the service manager's key, or a passphrase, what is sealed stays so; the vault will tell.
        if let (Some(master), None) = (master.transpose()?, lock) {
            snapshot::unseal(&master, inner).map_err(CliError::failed)?;
        }
        Ok(Self { key, store, label })
    }

    /// What is in the state directory, read again where the vault renews its key at this moment.
    fn here(dir: &Path) -> Result<Option<Self>, CliError> {
        let now = || -> Result<Option<Self>, CliError> {
            let (key, Some(store)) = (read(dir, KEY)?, read(dir, STORE)?) else { return Ok(None) };
            Self::of(key, store).map(Some)
        };
        now().or_else(|_| now())
    }
}

fn backup(dir: &Path, to: &Path, recipients: &[String], args: &Args) -> Result<(), CliError> {
    let parse = |text: &String| Recipient::parse(text).map_err(|error| failed(text, error));
    let recipients = recipients.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    // Where Moltbot runs, the log has it first; where it does not, nobody writes there.
    let recorded = match Door::open(dir) {
        Ok(mut door) => {
            let to = BoundedStr::truncated(&to.display().to_string());
            done(&mut door, VaultVerb::RecordBackup { to })?;
            true
        }
        Err(_) => false,
    };
    let found = Backup::here(dir)?.ok_or_else(|| failed(dir.join(STORE).display(), "there is no store here"))?;
    let mut files: Vec<(&str, u32, &[u8])> = Vec::new();
    files.extend(found.key.as_ref().map(|key| (KEY, 0o400, key.as_slice())));
    files.push((STORE, 0o600, found.store.as_slice()));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let sealed = age::encrypt(&tar::write(&files, now), &recipients).map_err(CliError::failed)?;
    write_new(to, &sealed).map_err(|error| failed(to.display(), error))?;
    let key = if found.key.is_some() { "with its key" } else { "without a key: the service manager keeps it" };
    let unrecorded = if recorded { "" } else { "; not recorded, because Moltbot is down" };
    let text = format!("generation {} of the vault, {key}, is in {}{unrecorded}", found.label.generation, to.display());
    let data = json!({ "ok": true, "to": to, "generation": found.label.generation, "key": found.key.is_some(), "recorded": recorded });
    say(args, &data, &text)
}

/// A file of this name that was not there before, durable.
fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = std::fs::File::from(openat(CWD, path, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(bytes)?;
    file.sync_all()
}

fn restore(
    dir: &Path,
    file: &Path,
    identity: &Path,
    dry_run: bool,
    accept_rollback: bool,
    args: &Args,
) -> Result<(), CliError> {
    let held = open(file, identity)?;
    let older = compare(dir, &held, accept_rollback)?;
    if Door::open(dir).is_ok() && !dry_run {
        return Err(CliError::failed(
            "Moltbot runs: `moltbot down` first, because the vault would write over what is restored",
        ));
    }
    if !dry_run {
        put(dir, &held)?;
    }
    let generation = held.label.generation;
    let what = if dry_run { "can be restored; nothing was written" } else { "is restored" };
    let then = match &older {
        Some(why) => format!("; {why}: the vault refuses everything until `moltbot vault accept-rollback`"),
        None => String::new(),
    };
    let text = format!("generation {generation} of the vault {what}{then}");
    say(args, &json!({ "ok": true, "generation": generation, "written": !dry_run, "older": older }), &text)
}

/// A backup that was decrypted, and whose store opens with its key.
fn open(file: &Path, identity: &Path) -> Result<Backup, CliError> {
    let unread = |path: &Path| {
        let path = path.display().to_string();
        move |error: std::io::Error| failed(path, error)
    };
    let text = Zeroizing::new(std::fs::read_to_string(identity).map_err(unread(identity))?);
    let identities = Identity::parse_all(&text).map_err(|error| failed(identity.display(), error))?;
    let mut sealed = Vec::new();
    std::fs::File::open(file).and_then(|file| file.take(MOST).read_to_end(&mut sealed)).map_err(unread(file))?;
    let archive = age::decrypt(&sealed, &identities).map_err(|error| failed(file.display(), error))?;
    let no_backup = || failed(file.display(), "is no backup of a vault");
    let (mut key, mut store) = (None, None);
    for entry in tar::read(&archive).ok_or_else(no_backup)? {
        match entry.name.as_str() {
            KEY => key = Some(entry.content),
            STORE => store = Some(entry.content),
            _ => return Err(no_backup()),
        }
    }
    Backup::of(key, store.ok_or_else(no_backup)?)
}

/// Why the backup is older than what is known here; refused unless that was asked for.
fn compare(dir: &Path, held: &Backup, accept_rollback: bool) -> Result<Option<String>, CliError> {
    let present = read(dir, STORE)?;
    let present =
        present.as_ref().and_then(|file| Lock::split(file).ok()).and_then(|(_, store)| snapshot::label(store));
    if present.is_some_and(|present| present.vault != held.label.vault) {
        let what = "another vault is here: move its keys/ and vault/ away first";
        return Err(failed(dir.display(), what));
    }
    let logged = offline::find_commitments(&dir.join("logs")).map_err(CliError::failed)?;
    let logged = logged.and_then(|log| log.committed).map(|state| ("the log speaks of", state.generation));
    let known = present.map(|present| ("the store here is of", present.generation)).into_iter().chain(logged);
    let later = known.filter(|(_, generation)| *generation > held.label.generation).max_by_key(|(_, later)| *later);
    let Some((what, later)) = later else { return Ok(None) };
    let why = format!("it is of generation {}, and {what} generation {later}", held.label.generation);
    if accept_rollback {
        return Ok(Some(why));
    }
    Err(failed(
        "the backup is older than what was reached",
        format!("{why}; what was changed since would be undone: --accept-rollback goes on"),
    ))
}

/// Puts a backup in the place of what is here: the key under its pending name, then the store, then the key's name. Whatever
/// of this a crash leaves, the next start or the same command again goes on from.
fn put(dir: &Path, held: &Backup) -> Result<(), CliError> {
    let open = |name: &str| -> Result<OwnedFd, CliError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let path = dir.join(name);
        match std::fs::create_dir(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(failed(path.display(), error));
            }
            Ok(()) | Err(_) => {}
        }
        openat(CWD, &path, flags, Mode::empty()).map_err(|errno| failed(path.display(), errno))
    };
    let (keys, store) = (open("keys")?, open("vault")?);
    let is_same = held.key.is_none() || read(dir, KEY)?.as_deref() == held.key.as_deref();
    if let Some(key) = held.key.as_ref().filter(|_| !is_same) {
        make(&keys, "secrets.key.new", Mode::RUSR, key).map_err(|errno| failed(KEY, errno))?;
    }
    let placed = make(&store, "vault.db.new", Mode::RUSR | Mode::WUSR, &held.store)
        .and_then(|()| renameat(&store, "vault.db.new", &store, "vault.db"))
        .and_then(|()| fsync(&store));
    placed.map_err(|errno| failed(STORE, errno))?;
    if !is_same {
        let named = renameat(&keys, "secrets.key.new", &keys, "secrets.key").and_then(|()| fsync(&keys));
        named.map_err(|errno| failed(KEY, errno))?;
    }
    Ok(())
}

/// A new file of the directory's owner, durable.
fn make(directory: &OwnedFd, name: &str, mode: Mode, bytes: &[u8]) -> rustix::io::Result<()> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(directory, name, flags, mode)?;
    let owner = fstat(directory)?;
    let is_other = fstat(&file)?.st_uid != owner.st_uid;
    if is_other {
        fchown(&file, Some(Uid::from_raw(owner.st_uid)), Some(Gid::from_raw(owner.st_gid)))?;
    }
    let mut rest = bytes;
    while !rest.is_empty() {
        let written = rustix::io::write(file.as_fd(), rest)?;
        rest = rest.get(written..).unwrap_or_default();
    }
    fsync(&file)?;
    fsync(directory)
}
