//! The roles' programs: opened once, so that what was looked at is what runs, and recorded by their SHA-256 before they run
//! for the first time.

use crate::layout::StateDir;
use confine::directories;
use confine::startup::StartError;
use proto::ids::Role;
use rustix::fs::{Mode, OFlags, Stat, fstat, openat};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use supervise::state::CHILDREN;

/// What broker remembers of recorded programs, beneath `run/`.
const KNOWN: &str = "programs.json";
/// Longest such file, in bytes.
const KNOWN_MOST: u64 = 16_384;

/// One program.
#[derive(Debug)]
pub struct Program {
    file: File,
    /// Which file it is, and in which state: a change of its bytes changes this.
    stamp: String,
    /// SHA-256 of its bytes, hexadecimal.
    pub sha256: String,
    recorded: bool,
}

/// The programs that lie beside broker's own.
#[derive(Debug)]
pub struct Programs {
    directory: OwnedFd,
    /// Who started broker: besides root the one whose programs are run. As root it has another uid by now.
    owner: u32,
    programs: BTreeMap<Role, Program>,
    drill: File,
}

impl Programs {
    /// Opens them.
    ///
    /// # Errors
    /// [`StartError`] where one is missing or can be changed by others.
    pub fn open(state_dir: &StateDir) -> Result<Self, StartError> {
        let own = std::env::current_exe().map_err(StartError::permanent)?;
        let beside = own.parent().unwrap_or(&own);
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        let directory = rustix::fs::open(beside, flags, Mode::empty()).map_err(StartError::permanent)?;
        let owner = rustix::process::getuid().as_raw();
        // Without the list every program is new, which costs a record each.
        let known = directories::read(state_dir.run().as_fd(), KNOWN, KNOWN_MOST).ok().flatten();
        let known: Value = known.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        let open = |role: Role| {
            let (file, stamp) = open(&directory, owner, role.name())?;
            let sha256 = known.get(&stamp).and_then(Value::as_str).map(str::to_owned);
            let recorded = sha256.is_some();
            let sha256 = sha256.map_or_else(|| hash(&file), Ok).map_err(StartError::permanent)?;
            Ok((role, Program { file, stamp, sha256, recorded }))
        };
        let programs = CHILDREN.into_iter().map(open).collect::<Result<_, StartError>>()?;
        let (drill, _) = self::open(&directory, owner, "drill")?;
        Ok(Self { directory, owner, programs, drill })
    }

    /// The program to execute.
    ///
    /// # Errors
    /// Where its bytes were changed since it was looked at.
    pub fn program(&self, role: Role) -> io::Result<BorrowedFd<'_>> {
        let program = self.programs.get(&role).ok_or(io::ErrorKind::NotFound)?;
        if stamp(&fstat(&program.file)?) != program.stamp {
            return Err(io::Error::other(
                "its program was written over while Moltbot ran; `moltbot down` and `moltbot up`",
            ));
        }
        Ok(program.file.as_fd())
    }

    /// The drill's.
    #[must_use]
    pub fn drill(&self) -> BorrowedFd<'_> {
        self.drill.as_fd()
    }

    /// The hash that must be in the log before the role runs; none where it is.
    #[must_use]
    pub fn unrecorded(&self, role: Role) -> Option<&str> {
        self.programs.get(&role).filter(|program| !program.recorded).map(|program| program.sha256.as_str())
    }

    /// What lies beside broker now, where that is another program than the one that is open.
    ///
    /// # Errors
    /// [`StartError`] where it is missing or can be changed by others.
    pub fn newer(&self, role: Role) -> Result<Option<Program>, StartError> {
        let (file, stamp) = open(&self.directory, self.owner, role.name())?;
        if self.programs.get(&role).is_some_and(|program| program.stamp == stamp) {
            return Ok(None);
        }
        let sha256 = hash(&file).map_err(StartError::permanent)?;
        Ok(Some(Program { file, stamp, sha256, recorded: false }))
    }

    /// Uses this program for the role from now on.
    pub fn adopt(&mut self, role: Role, program: Program) {
        self.programs.insert(role, program);
    }

    /// The hash of the role's program is in the log.
    pub fn set_recorded(&mut self, role: Role, state_dir: &StateDir) {
        if let Some(program) = self.programs.get_mut(&role) {
            program.recorded = true;
        }
        let recorded = self.programs.values().filter(|program| program.recorded);
        let known: Value = recorded.map(|program| (program.stamp.clone(), json!(program.sha256))).collect();
        // Lost, it costs the same records again.
        let _ = directories::replace(state_dir.run().as_fd(), KNOWN, known.to_string().as_bytes());
    }
}

fn open(directory: &OwnedFd, owner: u32, name: &str) -> Result<(File, String), StartError> {
    let name = format!("moltbot-{name}");
    let bad = |what: &dyn std::fmt::Display| StartError::permanent(format!("{name}, beside moltbot-broker: {what}"));
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(openat(directory, &name, flags, Mode::empty()).map_err(|errno| bad(&errno))?);
    let stat = fstat(&file).map_err(|errno| bad(&errno))?;
    if stat.st_mode & 0o022 != 0 || (stat.st_uid != 0 && stat.st_uid != owner) {
        return Err(bad(&"others can change it; it must be yours or root's and not writable by group or others"));
    }
    Ok((file, stamp(&stat)))
}

fn stamp(stat: &Stat) -> String {
    let (changed, written) = ((stat.st_ctime, stat.st_ctime_nsec), (stat.st_mtime, stat.st_mtime_nsec));
    format!("{}:{}:{}:{}.{}:{}.{}", stat.st_dev, stat.st_ino, stat.st_size, written.0, written.1, changed.0, changed.1)
}

fn hash(mut file: &File) -> io::Result<String> {
    let mut hash = Sha256::new();
    io::copy(&mut file, &mut hash)?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
