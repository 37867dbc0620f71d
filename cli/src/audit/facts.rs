//! What there is to judge, gathered without changing anything and without following a link.

use super::exposure::{self, Exposure};
use crate::CliError;
use crate::door::Door;
use auditd::offline::{self, Expected, OfflineError};
use config::Config;
use proto::audit::Stream;
use proto::auth::DeviceRow;
use proto::ids::Role;
use proto::operator::Status;
use proto::senders::AllowedRow;
use proto::vault::SecretRow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// A file as it lies there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FileFact {
    /// Its path beneath the state directory; empty for that itself.
    pub name: PathBuf,
    /// A directory.
    pub is_dir: bool,
    /// A link, which nothing here follows.
    pub is_link: bool,
    /// Its permission bits.
    pub mode: u32,
    /// A directory through which the operators' group comes to broker's socket: of the socket's own group, which may use it.
    pub is_way: bool,
}

/// Everything.
#[derive(Debug)]
pub struct Facts {
    /// The state directory.
    pub dir: PathBuf,
    /// Files of it.
    pub files: Vec<FileFact>,
    /// The configuration as far as it can be understood, or why it cannot.
    pub config: Result<Config, String>,
    /// What runs, if anything does.
    pub status: Option<Status>,
    /// Secrets in the vault, where it answers.
    pub secrets: Vec<SecretRow>,
    /// Devices, where the vault answers.
    pub devices: Vec<DeviceRow>,
    /// Strangers that wait to be let in.
    pub waiting: usize,
    /// Senders that are let in.
    pub senders: Vec<AllowedRow>,
    /// Seconds since 1970.
    pub now: u64,
    /// What a closer look found.
    pub deep: Option<Deep>,
}

/// What a closer look found.
#[derive(Debug, Default)]
pub struct Deep {
    /// Streams of the log that are not what was written, or could not be checked.
    pub log: Vec<(String, String)>,
    /// Processes that are not confined as this build says.
    pub walls: Vec<String>,
    /// Why the gateway does not answer, if it does not.
    pub probe: Option<String>,
    /// What systemd says of the unit that broker runs in, if it does.
    pub exposure: Option<Exposure>,
}

impl Facts {
    /// Gathers them.
    ///
    /// # Errors
    /// [`CliError`] where the state directory cannot be looked at.
    pub fn gather(dir: &Path, deep: bool) -> Result<Self, CliError> {
        let files = gather_files(dir)?;
        let file = dir.join("moltbot.json");
        let env = |name: &str| Some(std::env::var(name).unwrap_or_else(|_| format!("${{{name}}}")));
        let config = match std::fs::read_to_string(&file) {
            Ok(text) => Config::understand(&text, &file, &env).map_err(|error| error.to_string()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Config::default()),
            Err(error) => Err(error.to_string()),
        };
        let mut door = match Door::open(dir) {
            Ok(door) => Some(door),
            Err(CliError::NotRunning(_)) => None,
            Err(error) => return Err(error),
        };
        let status = door.as_mut().map(Door::status).transpose()?;
        let secrets = door.as_mut().and_then(|door| crate::secrets::rows(door).ok()).unwrap_or_default();
        let devices = door.as_mut().and_then(|door| crate::devices::rows(door).ok()).unwrap_or_default();
        let waiting = door.as_mut().and_then(|door| crate::people::pending(door).ok()).map_or(0, |rows| rows.len());
        let senders = door.as_mut().and_then(|door| crate::people::allowed(door).ok()).unwrap_or_default();
        let deep = deep.then(|| Deep::look(dir, door.as_mut(), status.as_ref()));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Ok(Self { dir: dir.to_owned(), files, config, status, secrets, devices, waiting, senders, now, deep })
    }
}

impl Deep {
    fn look(dir: &Path, door: Option<&mut Door>, status: Option<&Status>) -> Self {
        let logs = dir.join("logs");
        let check = |stream: Stream| -> Result<(), OfflineError> {
            let expected = Expected { cosigner: offline::find_cosigner(&logs)?, ..Expected::default() };
            auditd::pruned::verify(&logs, stream, &expected, |_, _| {}).map(|_| ())
        };
        let wrong = |stream: Stream| check(stream).err().map(|error| (stream.name().to_owned(), error.to_string()));
        // A log that was never begun is not wrong.
        let log = if logs.exists() { Stream::ALL.into_iter().filter_map(wrong).collect() } else { Vec::new() };
        let walls = status.map(crate::confine_report::all_deviations).unwrap_or_default();
        let probe = door.and_then(|door| {
            let health = crate::ws::Session::open(door)
                .and_then(|mut session| session.request("health", serde_json::json!({})).map(drop));
            health.err().map(|error| error.to_string())
        });
        let broker = status.and_then(|status| status.roles.iter().find(|row| row.role == Role::Broker));
        let exposure = broker.and_then(|row| exposure::of_process(row.pid));
        Self { log, walls, probe, exposure }
    }
}

/// The state directory, and what lies in it two steps deep.
///
/// # Errors
/// [`CliError`] where it cannot be read.
pub fn gather_files(dir: &Path) -> Result<Vec<FileFact>, CliError> {
    // Broker opens the socket to a group only where the configuration says so.
    let socket = std::fs::symlink_metadata(dir.join("run/operator.sock")).ok();
    let group = socket.filter(|socket| socket.mode() & 0o060 == 0o060).map(|socket| socket.gid());
    let is_way = |name: &Path, gid: u32| [Path::new(""), Path::new("run")].contains(&name) && group == Some(gid);
    fn look(
        dir: &Path,
        name: &Path,
        depth: usize,
        is_way: &dyn Fn(&Path, u32) -> bool,
        all: &mut Vec<FileFact>,
    ) -> std::io::Result<()> {
        let path = dir.join(name);
        let found = std::fs::symlink_metadata(&path)?;
        let fact = FileFact {
            name: name.to_owned(),
            is_dir: found.is_dir(),
            is_link: found.file_type().is_symlink(),
            mode: found.mode() & 0o7777,
            is_way: found.is_dir() && is_way(name, found.gid()),
        };
        if !(fact.is_dir || found.is_file() || fact.is_link) {
            return Ok(());
        }
        // Workspaces are what sandboxes made of them.
        let descend = fact.is_dir && depth > 0 && name != Path::new("workspaces");
        all.push(fact);
        if descend {
            for entry in std::fs::read_dir(&path)? {
                match look(dir, &name.join(entry?.file_name()), depth - 1, is_way, all) {
                    // Something that went away meanwhile.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    other => other?,
                }
            }
        }
        Ok(())
    }
    let mut all = Vec::new();
    match look(dir, Path::new(""), 2, &is_way, &mut all) {
        Ok(()) => Ok(all),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Err(CliError::Failed(format!("{}: {error}; run it as whoever started Moltbot, or as root", dir.display())))
        }
        Err(error) => Err(CliError::Failed(format!("{}: {error}", dir.display()))),
    }
}
