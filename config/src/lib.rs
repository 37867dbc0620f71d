//! `moltbot.json`: what the operator may set, its defaults, and errors that say where and what instead.
//!
//! The file is JSON5. It is strict: an unknown key anywhere is an error, and a file that does not load never means
//! defaults. Secrets do not belong in it; the one that people would put there is refused with the way out.
#![forbid(unsafe_code)]

mod egress;

pub use egress::Egress;

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Default port of the gateway.
pub const DEFAULT_PORT: u16 = 18_789;
/// Largest configuration file that is read, in bytes.
const MAX_FILE: u64 = 32_768;

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
    #[error("{path}: {found} bytes are over the bound of {MAX_FILE}", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        found: u64,
    },
    /// The file is not a configuration.
    #[error("{path}: {what}", path = path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, where (line and column), and what could stand there.
        what: String,
    },
}

/// The whole configuration.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    /// The listening side.
    pub gateway: Gateway,
    /// The agents.
    pub agents: Agents,
    /// The way out.
    pub egress: Egress,
    /// The audit log.
    pub logging: Logging,
}

/// `gateway`
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Gateway {
    /// TCP port; 0 lets the kernel choose.
    pub port: u16,
    /// Where it listens.
    pub bind: Bind,
    /// Present only to be refused with the way out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
}

impl Default for Gateway {
    fn default() -> Self {
        Self { port: DEFAULT_PORT, bind: Bind::Loopback, auth: None }
    }
}

/// `gateway.bind`
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Bind {
    /// 127.0.0.1, the only one.
    #[default]
    Loopback,
}

/// `gateway.auth`
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Auth {
    /// How clients prove who they are.
    pub mode: AuthMode,
    /// Never accepted: the vault makes and holds the token.
    #[serde(default, skip_serializing)]
    pub token: Option<String>,
}

/// `gateway.auth.mode`
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum AuthMode {
    /// By the gateway token.
    Token,
}

/// `agents`
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Agents {
    /// What holds for every agent.
    pub defaults: AgentDefaults,
}

/// `agents.defaults`
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct AgentDefaults {
    /// Where commands run.
    pub sandbox: Sandbox,
}

/// `agents.defaults.sandbox`
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Sandbox {
    /// Which backend may serve.
    pub backend: Backend,
    /// The Docker backend.
    pub docker: Docker,
}

/// `agents.defaults.sandbox.backend`
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Backend {
    /// Docker where an engine answers, else native.
    #[default]
    Auto,
    /// Docker or nothing.
    Docker,
    /// Native or nothing.
    Native,
}

/// `agents.defaults.sandbox.docker`
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Docker {
    /// The sandbox's image; made by `deploy/sandbox-image/build`, never pulled.
    pub image: String,
    /// Absolute path of the engine's socket.
    pub socket: String,
}

impl Default for Docker {
    fn default() -> Self {
        Self { image: "moltbot-sandbox:latest".to_owned(), socket: "/var/run/docker.sock".to_owned() }
    }
}

/// `logging`. Where nothing is said, every file of the log is kept for good.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Logging {
    /// Files of each stream that `moltbot logs prune` keeps, the newest; 1 at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_files: Option<u32>,
    /// Days for which it keeps a file after it was closed; 1 at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_days: Option<u32>,
}

impl Config {
    /// Reads the file; one that is not there is the defaults.
    ///
    /// # Errors
    /// [`ConfigError`] for every other file that is no configuration.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read { path: path.to_owned(), source };
        let size = match std::fs::metadata(path) {
            Ok(found) => found.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(read(error)),
        };
        if size > MAX_FILE {
            return Err(ConfigError::TooLarge { path: path.to_owned(), found: size });
        }
        let text = std::fs::read_to_string(path).map_err(read)?;
        Self::parse(&text).map_err(|what| ConfigError::Invalid { path: path.to_owned(), what })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let config: Self = json5::from_str(text).map_err(|error| error.to_string())?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        if self.gateway.auth.as_ref().is_some_and(|auth| auth.token.is_some()) {
            return Err("gateway.auth.token: the vault makes the token and holds it; remove the key, and read the token with `moltbot gateway token --reveal`".to_owned());
        }
        if !Path::new(self.docker_socket()).is_absolute() {
            return Err(format!(
                "agents.defaults.sandbox.docker.socket: {} is not an absolute path",
                self.docker_socket()
            ));
        }
        if self.logging.keep_files == Some(0) || self.logging.keep_days == Some(0) {
            return Err("logging: keepFiles and keepDays are 1 at least; leave them out to keep everything".to_owned());
        }
        self.egress.check()
    }

    /// Absolute path of the Docker engine's socket.
    #[must_use]
    pub fn docker_socket(&self) -> &str {
        &self.agents.defaults.sandbox.docker.socket
    }

    /// `host:port` of what may be connected to on the internet.
    #[must_use]
    pub fn allowed(&self) -> Vec<String> {
        self.egress.allow.clone()
    }

    /// `host:port` of services on this machine that may be connected to, those with TLS or those without.
    #[must_use]
    pub fn local(&self, tls: bool) -> Vec<String> {
        self.egress.local(tls).collect()
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

    /// The effective configuration as JSON. No field of it is a secret: those are refused on load.
    #[must_use]
    pub fn redacted_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|_| "{}".to_owned())
    }
}

/// Where the state is if nobody says otherwise: `MOLTBOT_STATE_DIR`, else `~/.moltbot`.
#[must_use]
pub fn default_state_dir() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("MOLTBOT_STATE_DIR").or_else(|| set("HOME").map(|home| home.join(".moltbot")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_object_is_the_defaults() {
        assert_eq!(Config::parse("{}").unwrap(), Config::default());
        assert_eq!(Config::default().gateway.port, DEFAULT_PORT);
    }

    #[test]
    fn json5_with_comments_is_read() {
        let text = "{ // mine\n gateway: { port: 1234, bind: 'loopback', auth: { mode: 'token' } }, agents: { defaults: { sandbox: { backend: 'native' } } },\n egress: { allow: ['api.example.org:443',], } }";
        let config = Config::parse(text).unwrap();
        assert_eq!((config.gateway.port, config.sandbox_backend()), (1234, Backend::Native));
        assert_eq!(config.egress.allow, ["api.example.org:443"]);
    }

    #[test]
    fn bad_files_are_refused_with_the_reason() {
        for (text, reason) in [
            ("{", "1"),
            ("{ gatewy: {} }", "gatewy"),
            ("{ gateway: { port: 70000 } }", "70000"),
            ("{ gateway: { bind: 'lan' } }", "lan"),
            ("{ gateway: { auth: { mode: 'token', token: 'x' } } }", "moltbot gateway token --reveal"),
            ("{ logging: { keepFiles: 0 } }", "1 at least"),
            ("{ logging: { keepDays: 0 } }", "1 at least"),
            ("{ egress: { allow: ['*:443'] } }", "egress.allow[0]"),
            ("{ egress: { allow: ['host'] } }", "egress.allow[0]"),
            ("{ egress: { local: ['localhost:80'] } }", "egress.local[0]"),
            ("{ egress: { resolver: 'dns' } }", "egress.resolver"),
            ("{ egress: { ca: 'ca.pem' } }", "egress.ca"),
            ("{ agents: { defaults: { sandbox: { docker: { socket: 'x' } } } } }", "absolute"),
        ] {
            let error = Config::parse(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn missing_file_is_the_defaults_and_an_unreadable_one_is_an_error() {
        assert_eq!(Config::load(Path::new("/nonexistent/moltbot.json")).unwrap(), Config::default());
        assert!(matches!(Config::load(Path::new("/")), Err(ConfigError::Read { .. } | ConfigError::TooLarge { .. })));
    }
}
