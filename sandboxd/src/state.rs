//! Which backend serves: a pure decision over what was found.

use crate::modes::Modes;
use proto::bounded::BoundedStr;
use proto::control::{BackendChoice, Keep, Scope, Sizes};
use proto::ids::SessionKey;
use proto::sandbox::{Backend, WorkspaceName};
use sha2::{Digest, Sha256};
use std::time::Duration;

/// What broker said at the start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Absolute path of the engine's socket.
    pub socket: String,
    /// Image of the sandbox.
    pub image: String,
    /// Which backend may serve.
    pub choice: BackendChoice,
    /// Absolute path of the workspaces.
    pub workspaces: String,
    /// Tells this installation's containers from others'.
    pub instance: String,
    /// How large a container is.
    pub sizes: Sizes,
    /// Containers that are started before a session needs one.
    pub pool: usize,
    /// When a session's container is thrown away.
    pub prune: Prune,
    /// Who shares a sandbox.
    pub scope: Scope,
    /// Which conversation has which backend, and what its sandbox is given.
    pub modes: Modes,
}

/// When a session's container is thrown away.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Prune {
    /// Nothing ran in it for this long.
    pub idle: Duration,
    /// It was made this long ago, and nothing runs in it.
    pub age: Duration,
}

impl Prune {
    /// As the configuration says.
    #[must_use]
    pub fn of(keep: &Keep) -> Self {
        let hours = |hours: u32| Duration::from_secs(u64::from(hours).saturating_mul(60 * 60));
        Self { idle: hours(keep.idle_hours), age: hours(keep.age_days.saturating_mul(24)) }
    }
}

impl Default for Prune {
    fn default() -> Self {
        Self::of(&Keep { pool: 0, idle_hours: 24, age_days: 7 })
    }
}

/// What a look at the engine found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Engine {
    /// It answers, and has the image; its version.
    Ready(String),
    /// It answers and lacks the image.
    NoImage,
    /// It answers and lacks the runtime that is to make containers.
    NoRuntime(&'static str),
    /// It does not answer; why.
    Silent(String),
}

/// Where commands go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Choice {
    /// To Docker.
    Docker(String),
    /// To the launcher; why not to Docker.
    Native(String),
    /// Nowhere; why, and what would change it.
    Nowhere(String),
}

/// Decides. An engine that answers and lacks the image is passed over, and that is said.
#[must_use]
pub fn choose(choice: BackendChoice, engine: &Engine, settings: &Settings) -> Choice {
    let lacking = match engine {
        Engine::Ready(version) if choice != BackendChoice::Native => {
            return Choice::Docker(format!("engine {version}, image {}", settings.image));
        }
        Engine::Ready(_) => "the configuration wants the native backend".to_owned(),
        Engine::NoImage => format!("Docker lacks the image {}, which deploy/sandbox-image/build makes", settings.image),
        Engine::NoRuntime(name) => {
            // Whoever names one wants what it is, and not what is there instead.
            return Choice::Nowhere(format!(
                "the engine has no runtime {name}, which agents.defaults.sandbox.docker.runtime names: install it and tell \
                 the engine of it, or leave the key out"
            ));
        }
        Engine::Silent(_) if choice == BackendChoice::Native => "the configuration wants the native backend".to_owned(),
        Engine::Silent(why) => format!("no Docker engine on {}: {why}", settings.socket),
    };
    match choice {
        BackendChoice::Docker => Choice::Nowhere(format!(
            "{lacking}; agents.defaults.sandbox.backend \"auto\" would allow the native backend"
        )),
        BackendChoice::Auto | BackendChoice::Native => Choice::Native(lacking),
    }
}

/// Whose sandbox a session's commands run in: its own, its agent's, everybody's. A key that names no agent (`agent:ID:...`)
/// has its own in any case but the last.
#[must_use]
pub fn place(scope: Scope, session: &SessionKey) -> SessionKey {
    let mut parts = session.0.splitn(3, ':');
    let shared = match (scope, parts.next(), parts.next()) {
        (Scope::Shared, ..) => "shared".to_owned(),
        (Scope::Agent, Some("agent"), Some(agent)) if !agent.is_empty() => format!("agent:{agent}"),
        _ => return session.clone(),
    };
    SessionKey(BoundedStr::truncated(&shared))
}

/// A session's directory or label: the first half of the key's SHA-256, since the key itself is a stranger's text.
#[must_use]
pub fn workspace(session: &SessionKey) -> WorkspaceName {
    let digest = Sha256::digest(session.0.as_bytes());
    let text: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    WorkspaceName(BoundedStr::truncated(&text))
}

/// 256 random bits.
///
/// # Errors
/// Where the kernel gives none.
pub fn nonce() -> Result<[u8; 32], String> {
    let mut bytes = [0u8; 32];
    // Up to 256 bytes come whole.
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| format!("getrandom: {errno}"))?;
    Ok(bytes)
}

/// 128 random bits.
///
/// # Errors
/// Where the kernel gives none.
pub fn random_bytes() -> Result<[u8; 16], String> {
    let mut bytes = [0u8; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| format!("getrandom: {errno}"))?;
    Ok(bytes)
}

/// 128 random bits as hexadecimal digits.
///
/// # Errors
/// Where the kernel gives none.
pub fn random() -> Result<String, String> {
    Ok(random_bytes()?.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Name of the backend that a tier is.
#[must_use]
pub const fn is_native(backend: Backend) -> bool {
    matches!(backend, Backend::NativeN1 | Backend::NativeN2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            socket: "/s".into(),
            image: "i".into(),
            choice: BackendChoice::Auto,
            workspaces: "/w".into(),
            instance: "0".into(),
            sizes: Sizes::default(),
            pool: 0,
            prune: Prune::default(),
            scope: Scope::default(),
            modes: Modes::default(),
        }
    }

    #[test]
    fn auto_prefers_docker_and_falls_to_native_with_the_reason() {
        let ready = Engine::Ready("20.10".into());
        assert!(matches!(choose(BackendChoice::Auto, &ready, &settings()), Choice::Docker(_)));
        let Choice::Native(why) = choose(BackendChoice::Auto, &Engine::NoImage, &settings()) else { panic!("native") };
        assert!(why.contains("deploy/sandbox-image/build"));
        assert!(matches!(choose(BackendChoice::Auto, &Engine::Silent("x".into()), &settings()), Choice::Native(_)));
    }

    #[test]
    fn runtime_that_is_not_there_is_replaced_by_nothing() {
        for choice in [BackendChoice::Auto, BackendChoice::Docker] {
            let Choice::Nowhere(why) = choose(choice, &Engine::NoRuntime("runsc"), &settings()) else {
                panic!("nowhere")
            };
            assert!(why.contains("no runtime runsc") && why.contains("docker.runtime"), "{why}");
        }
    }

    #[test]
    fn explicit_choice_is_never_replaced_by_another() {
        for engine in [Engine::NoImage, Engine::Silent("x".into())] {
            assert!(matches!(choose(BackendChoice::Docker, &engine, &settings()), Choice::Nowhere(_)));
        }
        for engine in [Engine::Ready("20.10".into()), Engine::NoImage, Engine::Silent("x".into())] {
            assert!(matches!(choose(BackendChoice::Native, &engine, &settings()), Choice::Native(_)));
        }
    }

    #[test]
    fn sandbox_is_shared_as_far_as_the_scope_says() {
        let key = |text: &str| SessionKey(BoundedStr::new(text).unwrap());
        let place = |scope, text: &str| super::place(scope, &key(text)).0.to_string();
        for own in ["agent:main:one", "agent:main:two:three", "odd", "agent::x", ""] {
            assert_eq!(place(Scope::Session, own), own);
            assert_eq!(place(Scope::Shared, own), "shared");
        }
        assert_eq!(place(Scope::Agent, "agent:main:one"), place(Scope::Agent, "agent:main:two:three"));
        assert_ne!(place(Scope::Agent, "agent:main:one"), place(Scope::Agent, "agent:other:one"));
        for own in ["odd", "agent::x", ""] {
            assert_eq!(place(Scope::Agent, own), own);
        }
        // No session's own key is what a shared one is called.
        assert_ne!(workspace(&key("agent:main")), workspace(&key("agent:main:one")));
    }

    #[test]
    fn workspace_name_is_hexadecimal_whatever_the_key() {
        let name = workspace(&SessionKey(BoundedStr::new("../../etc\0/passwd").unwrap()));
        assert_eq!(name.0.len(), 32);
        assert!(name.0.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(name, workspace(&SessionKey(BoundedStr::new("other").unwrap())));
    }
}
