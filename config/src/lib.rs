//! `moltbot.json`: what the operator may set, its defaults, and errors that say where and what instead.
//!
//! The file is JSON5. It is strict: an unknown key anywhere is an error, and a file that does not load never means
//! defaults. Secrets do not belong in it: a loaded configuration has the name of each and not its value, and `moltbot`
//! moves the values into the vault.
#![forbid(unsafe_code)]

pub mod edit;
pub mod migrate;
pub mod rules;
mod schema;
pub mod secrets;
mod source;

pub use schema::*;
pub use source::{Env, Place, Source, is_reference, join};

use rules::Severity;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Default port of the gateway.
pub const DEFAULT_PORT: u16 = 18_789;
/// Largest configuration file that is read, in bytes.
pub const MAX_FILE: u64 = 262_144;

/// Something that is wrong with a configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// Where it stands.
    pub place: Place,
    /// Its key, as `gateway.port`.
    pub path: String,
    /// What is wrong, and what could stand there.
    pub message: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Place { file, line, column } = &self.place;
        write!(f, "{}:{line}:{column}: ", file.display())?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// Why a configuration does not load.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is larger than any configuration is.
    #[error("{path}: it is over the bound of {MAX_FILE} bytes", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is not a configuration.
    #[error("{}", lines(problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Everything that is wrong with it; one at least.
        problems: Vec<Problem>,
    },
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Reads a file up to the bound; none where there is no such file.
pub(crate) fn read_file(path: &Path) -> Result<Option<String>, ConfigError> {
    let read = |source| ConfigError::Read { path: path.to_owned(), source };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(read(error)),
    };
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(read)?;
    if u64::try_from(text.len()).is_ok_and(|length| length > MAX_FILE) {
        return Err(ConfigError::TooLarge { path: path.to_owned() });
    }
    Ok(Some(text))
}

impl Config {
    /// Reads the file; one that is not there is the defaults. Variables are those of this process.
    ///
    /// # Errors
    /// [`ConfigError`] for every other file that is no configuration.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        match read_file(path)? {
            None => Ok(Self::default()),
            Some(text) => Self::parse(&text, path, &|name| std::env::var(name).ok()),
        }
    }

    /// Reads a text that stands for the file `path`.
    ///
    /// # Errors
    /// [`ConfigError`] that names every rule which refuses it.
    pub fn parse(text: &str, path: &Path, env: Env<'_>) -> Result<Self, ConfigError> {
        let source = source::read(text, path, env)?;
        let config = Self::lower(&source)?;
        let refused = rules::findings(&config).into_iter().filter(|found| found.severity == Severity::Refused);
        let problems: Vec<Problem> = refused
            .map(|found| {
                let message = format!("{}; {} ({})", found.title, found.remediation, found.id);
                source.problem(&found.path, message)
            })
            .collect();
        if problems.is_empty() { Ok(config) } else { Err(ConfigError::Invalid { path: path.to_owned(), problems }) }
    }

    /// Reads a text as far as it can be understood, whatever it wants: for the audit, which names what is refused.
    ///
    /// # Errors
    /// [`ConfigError`] where a key or a value is not known.
    pub fn understand(text: &str, path: &Path, env: Env<'_>) -> Result<Self, ConfigError> {
        Self::lower(&source::read(text, path, env)?)
    }

    fn lower(source: &Source) -> Result<Self, ConfigError> {
        let (value, secrets) = secrets::lift(source);
        let without = |held: secrets::Held| secrets::Held { value: None, ..held };
        let secrets = secrets.into_iter().map(without).collect();
        let config = serde_path_to_error::deserialize(&value).map(|config| Self { secrets, ..config });
        config.map_err(|error| {
            let (path, message) = (error.path().to_string(), error.inner().to_string());
            let path = if path == "." { String::new() } else { path };
            let (path, message) = explain(&path, &message);
            let problem = source.problem(&path, message);
            ConfigError::Invalid { path: problem.place.file.clone(), problems: vec![problem] }
        })
    }

    /// Absolute path of the Docker engine's socket.
    #[must_use]
    pub fn docker_socket(&self) -> &str {
        &self.agents.defaults.sandbox.docker.socket
    }

    /// The sandbox's image.
    #[must_use]
    pub fn sandbox_image(&self) -> &str {
        &self.agents.defaults.sandbox.docker.image
    }

    /// Which backend may serve.
    #[must_use]
    pub const fn sandbox_backend(&self) -> Backend {
        self.agents.defaults.sandbox.backend
    }

    /// Which conversation has which backend, and what its sandbox is given, as JSON, for sandboxd.
    #[must_use]
    pub fn modes_json(&self) -> String {
        let sandbox = &self.agents.defaults.sandbox;
        let native = &sandbox.native;
        serde_json::json!({
            "mode": sandbox.mode, "workspaceAccess": sandbox.workspace_access, "nativeFloor": sandbox.native_floor,
            "runtime": sandbox.docker.runtime, "setupCommand": sandbox.docker.setup_command,
            "native": {
                "memory": native.memory.0, "writes": native.writes.0, "free_space": native.free_space.0,
                "free_inodes": native.free_inodes,
            },
        })
        .to_string()
    }

    /// `host:port` of what may be connected to on the internet.
    #[must_use]
    pub fn allowed(&self) -> Vec<String> {
        let here: Vec<String> = self.egress.local(true).collect();
        let providers = self.models.origins().filter(|(tls, at)| *tls && !here.contains(at)).map(|(_, at)| at);
        self.egress.allow.iter().cloned().chain(providers).collect()
    }

    /// `host:port` of services on this machine that may be connected to, those with TLS or those without.
    #[must_use]
    pub fn local(&self, tls: bool) -> Vec<String> {
        let providers = self.models.origins().filter(|(secure, _)| !secure && !tls).map(|(_, at)| at);
        self.egress.local(tls).chain(providers).collect()
    }

    /// Who may write on which channel, for the vault.
    #[must_use]
    pub fn senders(&self) -> Vec<String> {
        self.channels.lines()
    }

    /// `tools.exec` as JSON, for sandboxd.
    #[must_use]
    pub fn exec_json(&self) -> String {
        serde_json::to_string(&self.tools.exec).unwrap_or_else(|_| "{}".to_owned())
    }

    /// Names of the credentials that answers need, for the vault.
    #[must_use]
    pub fn answer_keys(&self) -> Vec<String> {
        let providers = self.models.providers.values();
        let refresh = |provider: &'_ Provider| provider.refresh.as_ref().map(|refresh| refresh.credential.clone());
        let keys: Vec<String> = providers.flat_map(|it| it.api_key.clone().into_iter().chain(refresh(it))).collect();
        let mut names: Vec<String> = keys.iter().filter_map(|key| schema::secret(key)).map(str::to_owned).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// What the vault is to let the key of this name be used for, where it is a provider's: its policy, as lines.
    #[must_use]
    pub fn key_policy(&self, name: &str) -> Option<String> {
        self.models.key_policy(name)
    }

    /// Who may use which tools, as JSON, for sandboxd.
    #[must_use]
    pub fn tools_json(&self) -> String {
        let agents = &self.agents.defaults;
        let all = ToolLists { allow: self.tools.allow.clone(), deny: self.tools.deny.clone() };
        let list = &self.agents.list;
        let by_agent: std::collections::BTreeMap<&str, &ToolLists> =
            list.iter().map(|agent| (&*agent.id, &agent.tools)).collect();
        serde_json::json!({
            "profile": self.tools.profile, "all": all, "agents": agents.tools, "byAgent": by_agent,
            "sandbox": [self.tools.sandbox.tools, agents.sandbox.tools],
        })
        .to_string()
    }

    /// The effective configuration as JSON. No field of it is a secret: those are never written out.
    #[must_use]
    pub fn redacted_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|_| "{}".to_owned())
    }
}

/// A value written as JSON5, as it stands: no variables, no files. None where it is none.
#[must_use]
pub fn read_value(text: &str) -> Option<serde_json::Value> {
    source::literal(text)
}

/// The schema as JSON Schema, draft 2020-12, with a description of every key.
#[cfg(feature = "schema")]
#[must_use]
pub fn json_schema() -> serde_json::Value {
    schemars::schema_for!(Config).to_value()
}

/// Says of serde's words for a key that nobody knows which key it is, and which one was meant.
fn explain(path: &str, message: &str) -> (String, String) {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let Some(unknown) = message.starts_with("unknown ").then(|| quoted.next()).flatten() else {
        return (path.to_owned(), message.to_owned());
    };
    let known: Vec<&str> = quoted.collect();
    let path = if message.starts_with("unknown field") && !path.ends_with(unknown) {
        source::join(path, unknown)
    } else {
        path.to_owned()
    };
    let nearest = known.iter().map(|name| (distance(unknown, name), name)).min();
    let hint = match nearest {
        Some((steps, name)) if steps <= 1 + unknown.len() / 3 => format!("did you mean {name}?"),
        _ if known.is_empty() => "nothing can stand here".to_owned(),
        _ => format!("known here: {}", known.join(", ")),
    };
    let what = if message.starts_with("unknown field") { "there is no such key" } else { "there is no such value" };
    (path, format!("{unknown:?}: {what}; {hint}"))
}

/// Edits from one word to the other (Levenshtein), letters of either case being the same.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, from) in one.to_lowercase().chars().enumerate() {
        let mut before = at;
        if let Some(first) = row.first_mut() {
            *first = at + 1;
        }
        let mut left = at + 1;
        for (to, cell) in other.iter().zip(row.iter_mut().skip(1)) {
            let here = if from == *to { before } else { 1 + before.min(*cell).min(left) };
            before = *cell;
            *cell = here;
            left = here;
        }
    }
    row.last().copied().unwrap_or_default()
}

/// Where the state is if nobody says otherwise: `MOLTBOT_STATE_DIR`, else `~/.moltbot`.
#[must_use]
pub fn default_state_dir() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("MOLTBOT_STATE_DIR").or_else(|| set("HOME").map(|home| home.join(".moltbot")))
}

#[cfg(test)]
mod tests;
