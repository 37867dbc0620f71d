//! Which conversation has which backend, and what its sandbox is given: `agents.defaults.sandbox` of the configuration. Pure
//! decisions, over the keys of conversations as gateway says them: a fallen gateway can claim to be the main one, and then has
//! the main one's workspace and not more.

use crate::judge::from_plan;
use crate::state::place;
use proto::bounded::BoundedStr;
use proto::control::{BackendChoice, Scope};
use proto::ids::SessionKey;
use proto::sandbox::{Backend, Bounds, Words};
use serde::Deserialize;

/// `agents.defaults.sandbox.mode`
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The main conversation has the native backend, every other one Docker.
    #[default]
    NonMain,
    /// Every one has Docker.
    All,
    /// Every one has the native backend, in its agent's workspace.
    Off,
}

/// `agents.defaults.sandbox.workspaceAccess`
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Its agent's workspace is not there.
    #[default]
    None,
    /// It is `/agent`, to be read.
    Ro,
    /// It is `/workspace`, to be written.
    Rw,
}

/// `agents.defaults.sandbox.nativeFloor`
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Floor {
    /// Namespaces.
    N1,
    /// Landlock and seccomp.
    #[default]
    N2,
}

/// `agents.defaults.sandbox.docker.runtime`
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// The usual one.
    Runc,
    /// gVisor.
    Runsc,
}

impl Runtime {
    /// Its name, to the engine too.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Runc => "runc",
            Self::Runsc => "runsc",
        }
    }
}

/// The command that prepares a container.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Setup {
    /// As it stands in the configuration.
    pub text: BoundedStr<8192>,
    /// What runs.
    pub words: Words,
}

/// As broker passes it on.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Said {
    mode: Mode,
    workspace_access: Access,
    native_floor: Floor,
    runtime: Option<Runtime>,
    setup_command: Option<String>,
    native: Bounds,
}

/// All of it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Modes {
    /// Which conversations have Docker, where either backend may serve.
    pub mode: Mode,
    /// What of its agent's workspace a conversation's sandbox sees.
    pub access: Access,
    /// The lowest tier that may serve.
    pub floor: Floor,
    /// The engine's runtime, where one is named.
    pub runtime: Option<Runtime>,
    /// What prepares a container.
    pub setup: Option<Setup>,
    /// What a native command may use.
    pub bounds: Bounds,
}

/// The directories that a native sandbox is given.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Given {
    /// Whose workspace it writes.
    pub workspace: SessionKey,
    /// Whose it may read beside that.
    pub agent: Option<SessionKey>,
}

impl Modes {
    /// From JSON.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub fn from_json(json: &[u8]) -> Result<Self, String> {
        let said: Said = serde_json::from_slice(json).map_err(|error| format!("agents.defaults.sandbox: {error}"))?;
        let setup = said.setup_command.map(|text| setup(&text)).transpose()?;
        let Said { mode, workspace_access: access, native_floor: floor, runtime, native: bounds, .. } = said;
        Ok(Self { mode, access, floor, runtime, setup, bounds })
    }

    /// Which backend may serve: with `off` none of Docker's.
    #[must_use]
    pub const fn choice(&self, wanted: BackendChoice) -> BackendChoice {
        match (self.mode, wanted) {
            (Mode::Off, BackendChoice::Auto) => BackendChoice::Native,
            _ => wanted,
        }
    }

    /// True where some conversations have the native backend, though Docker serves others.
    #[must_use]
    pub fn splits(&self, choice: BackendChoice) -> bool {
        self.mode == Mode::NonMain && choice == BackendChoice::Auto
    }

    /// True where this one has.
    #[must_use]
    pub fn is_native(&self, choice: BackendChoice, session: &SessionKey) -> bool {
        self.splits(choice) && is_main(session)
    }

    /// What a native sandbox is given.
    #[must_use]
    pub fn given(&self, scope: Scope, session: &SessionKey) -> Given {
        let own = place(scope, session);
        let home = home(scope, session).filter(|home| *home != own);
        match (home, self.mode, self.access) {
            (Some(home), Mode::Off, _) | (Some(home), _, Access::Rw) => Given { workspace: home, agent: None },
            (home @ Some(_), _, Access::Ro) => Given { workspace: own, agent: home },
            (Some(_), _, Access::None) | (None, ..) => Given { workspace: own, agent: None },
        }
    }

    /// Whose workspace a container is given, and whether it may write it.
    #[must_use]
    pub fn bound(&self, scope: Scope, session: &SessionKey) -> Option<(SessionKey, bool)> {
        match self.access {
            Access::None => None,
            access => home(scope, session).map(|home| (home, access == Access::Rw)),
        }
    }

    /// Why this tier of the native backend may not serve.
    #[must_use]
    pub fn below_floor(&self, tier: Backend) -> Option<String> {
        (self.floor == Floor::N1 && tier != Backend::NativeN1).then(|| {
            format!(
                "the native backend reaches {} here, below agents.defaults.sandbox.nativeFloor, n1: allow user namespaces, or \
                 set it to n2",
                tier.name()
            )
        })
    }
}

/// A set-up command, parsed as every command is: what is not understood, fetches, or carries another program is refused.
fn setup(text: &str) -> Result<Setup, String> {
    let at = "agents.defaults.sandbox.docker.setupCommand";
    let plan = command::setup::check(text).map_err(|error| format!("{at}: {error}"))?;
    let words = from_plan(&plan).map_err(|error| format!("{at}: {error}"))?;
    Ok(Setup { text: BoundedStr::new(text).map_err(|error| format!("{at}: {error}"))?, words })
}

/// True for an agent's main conversation.
#[must_use]
pub fn is_main(session: &SessionKey) -> bool {
    let mut parts = session.0.split(':');
    let four = (parts.next(), parts.next(), parts.next(), parts.next());
    matches!(four, (Some("agent"), Some(agent), Some("main"), None) if !agent.is_empty())
}

/// The main conversation's place: its workspace is the agent's. None for a key that names no agent.
fn home(scope: Scope, session: &SessionKey) -> Option<SessionKey> {
    let mut parts = session.0.splitn(3, ':');
    match (scope, parts.next(), parts.next()) {
        (Scope::Shared, ..) => Some(place(scope, session)),
        (_, Some("agent"), Some(agent)) if !agent.is_empty() => {
            Some(place(scope, &SessionKey(BoundedStr::truncated(&format!("agent:{agent}:main")))))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> SessionKey {
        SessionKey(BoundedStr::new(text).unwrap())
    }

    fn modes(json: &str) -> Modes {
        Modes::from_json(json.as_bytes()).unwrap()
    }

    #[test]
    fn main_conversation_alone_is_native_and_only_where_either_backend_may_serve() {
        let usual = modes("{}");
        assert_eq!(usual, modes(r#"{"mode":"non-main","workspaceAccess":"none","runtime":null,"setupCommand":null}"#));
        for (session, native) in [
            ("agent:main:main", true),
            ("agent:other:main", true),
            ("agent:main:work", false),
            ("agent:main:main:x", false),
            ("agent::main", false),
            ("agent:main:telegram:dm:7", false),
            ("agent:main:cron:1", false),
            ("main", false),
            ("", false),
        ] {
            assert_eq!(usual.is_native(BackendChoice::Auto, &key(session)), native, "{session}");
            for choice in [BackendChoice::Docker, BackendChoice::Native] {
                assert!(!usual.is_native(choice, &key(session)), "a backend that was chosen serves everybody");
            }
            assert!(!modes(r#"{"mode":"all"}"#).is_native(BackendChoice::Auto, &key(session)));
        }
        let off = modes(r#"{"mode":"off"}"#);
        assert_eq!(off.choice(BackendChoice::Auto), BackendChoice::Native);
        assert_eq!(off.choice(BackendChoice::Docker), BackendChoice::Docker, "never less than was chosen");
        assert_eq!(usual.choice(BackendChoice::Auto), BackendChoice::Auto);
    }

    #[test]
    fn agent_s_workspace_is_given_as_far_as_access_says() {
        let (main, work) = (key("agent:main:main"), key("agent:main:work"));
        let given = |json, session: &SessionKey| modes(json).given(Scope::Session, session);
        let own = |session: &SessionKey| Given { workspace: session.clone(), agent: None };
        assert_eq!(given("{}", &work), own(&work));
        let beside = Given { workspace: work.clone(), agent: Some(main.clone()) };
        assert_eq!(given(r#"{"workspaceAccess":"ro"}"#, &work), beside);
        for json in [r#"{"workspaceAccess":"rw"}"#, r#"{"mode":"off"}"#, r#"{"mode":"off","workspaceAccess":"ro"}"#] {
            assert_eq!(given(json, &work), own(&main), "{json}");
        }
        for json in ["{}", r#"{"workspaceAccess":"ro"}"#, r#"{"workspaceAccess":"rw"}"#, r#"{"mode":"off"}"#] {
            assert_eq!(given(json, &main), own(&main), "{json}");
            assert_eq!(given(json, &key("odd")), own(&key("odd")), "{json}");
            // Another agent's is never given.
            let other = given(json, &key("agent:other:work"));
            assert!(!other.workspace.0.starts_with("agent:main") && other.agent.is_none_or(|key| key != main));
        }
        let bound = |json, session: &SessionKey| modes(json).bound(Scope::Session, session);
        assert_eq!(bound("{}", &work), None);
        assert_eq!(bound(r#"{"workspaceAccess":"ro"}"#, &work), Some((main.clone(), false)));
        assert_eq!(bound(r#"{"workspaceAccess":"rw"}"#, &main), Some((main, true)));
        assert_eq!(bound(r#"{"workspaceAccess":"rw"}"#, &key("odd")), None);
    }

    #[test]
    fn lower_tier_does_not_serve_beneath_the_floor() {
        assert_eq!(modes("{}").below_floor(Backend::NativeN2), None);
        let high = modes(r#"{"nativeFloor":"n1"}"#);
        assert_eq!(high.below_floor(Backend::NativeN1), None);
        assert!(high.below_floor(Backend::NativeN2).is_some_and(|why| why.contains("nativeFloor")));
    }

    #[test]
    fn bounds_of_native_commands_come_from_the_configuration() {
        let bounds = Bounds { memory: 1, writes: 2, free_space: 3, free_inodes: 4 };
        let said = modes(r#"{"native":{"memory":1,"writes":2,"free_space":3,"free_inodes":4}}"#);
        assert_eq!((said.bounds, modes("{}").bounds), (bounds, Bounds::default()));
    }

    #[test]
    fn set_up_command_is_judged_by_parse() {
        let json = |text: &str| serde_json::json!({ "setupCommand": text }).to_string();
        let found = |text: &str| Modes::from_json(json(text).as_bytes());
        let setup = found("mkdir -p .git/hooks").unwrap().setup.unwrap();
        let words: Vec<&str> = setup.words.iter().map(|word| word.as_str()).collect();
        assert_eq!(words, ["/usr/bin/mkdir", "-p", ".git/hooks"], "no shell");
        for text in ["cu''rl http://x", "sh -c ls", "echo $(id)", "pip3 install x", "ls > a; git clone x", ""] {
            assert!(found(text).is_err_and(|why| why.contains("setupCommand")), "{text}");
        }
        assert!(Modes::from_json(br#"{"mode":"none"}"#).is_err() && Modes::from_json(br#"{"x":1}"#).is_err());
    }
}
