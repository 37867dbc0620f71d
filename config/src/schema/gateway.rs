//! `gateway`: the listening side.

use super::{choice, section};
use crate::DEFAULT_PORT;

section! {
    /// `gateway`
    pub struct Gateway {
        /// `local`, the only one.
        pub mode: Mode,
        /// TCP port; 0 lets the kernel choose.
        pub port: u16,
        /// Where it listens: `loopback`, the only one.
        pub bind: Bind,
        /// How clients prove who they are.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub auth: Option<Auth>,
        /// The tailnet in front of it, which you set up yourself.
        pub tailscale: Tailscale,
        /// The page that controls it.
        pub control_ui: ControlUi,
        /// Proxies whose word about addresses is taken: none, and only an empty list is.
        pub trusted_proxies: Vec<String>,
        /// What happens when this file changes.
        pub reload: Reload,
    }
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            port: DEFAULT_PORT,
            bind: Bind::default(),
            auth: None,
            tailscale: Tailscale::default(),
            control_ui: ControlUi::default(),
            trusted_proxies: Vec::new(),
            reload: Reload::default(),
        }
    }
}

choice! {
    /// `gateway.mode`
    pub enum Mode {
        /// It serves on this machine.
        #[default]
        Local,
        /// Upstream's word for a client's configuration; refused.
        Remote,
    }
}

choice! {
    /// `gateway.bind`
    pub enum Bind {
        /// 127.0.0.1, the only one.
        #[default]
        Loopback,
        /// Upstream's, refused.
        Auto,
        /// Upstream's, refused.
        Lan,
        /// Upstream's, refused.
        Tailnet,
        /// Upstream's, refused.
        Custom,
    }
}

section! {
    /// `gateway.auth`. Every connection proves who it is, loopback included.
    #[derive(Default)]
    pub struct Auth {
        /// How clients prove who they are. No effect: the token always counts, and a password where the vault has one.
        pub mode: AuthMode,
        /// The vault makes and holds the token. One that stands here, or in the variable that is named here, goes into the
        /// vault at the start; `vault:gateway.token` is what is left in the file.
        #[serde(skip_serializing)]
        pub token: Option<String>,
        /// One that stands here goes into the vault at the start; `vault:gateway.password` is what is left.
        #[serde(skip_serializing)]
        pub password: Option<String>,
        /// Upstream's login by a proxy's header; only false is taken.
        pub allow_tailscale: bool,
    }
}

choice! {
    /// `gateway.auth.mode`
    pub enum AuthMode {
        /// By the gateway token.
        #[default]
        Token,
        /// By a password.
        Password,
    }
}

section! {
    /// `gateway.tailscale`. No role may run `tailscale`: run `tailscale serve 18789` yourself.
    pub struct Tailscale {
        /// `serve` says that you did so; `funnel` would be the whole internet, and is refused.
        pub mode: TailscaleMode,
        /// Upstream's; no effect.
        pub reset_on_exit: bool,
    }
}

impl Default for Tailscale {
    fn default() -> Self {
        Self { mode: TailscaleMode::Off, reset_on_exit: true }
    }
}

choice! {
    /// `gateway.tailscale.mode`
    pub enum TailscaleMode {
        /// There is none.
        #[default]
        Off,
        /// Your tailnet reaches it.
        Serve,
        /// Everybody would; refused.
        Funnel,
    }
}

section! {
    /// `gateway.controlUi`
    pub struct ControlUi {
        /// Whether the page is served. No effect yet: there is none.
        pub enabled: bool,
        /// Upstream's switch that lets it in without a secure context; only false is taken.
        pub allow_insecure_auth: bool,
        /// Upstream's switch that lets it in without a device; only false is taken.
        pub dangerously_disable_device_auth: bool,
    }
}

impl Default for ControlUi {
    fn default() -> Self {
        Self { enabled: true, allow_insecure_auth: false, dangerously_disable_device_auth: false }
    }
}

section! {
    /// `gateway.reload`. A changed file is taken up by `moltbot config apply`, and by nothing else.
    #[derive(Default)]
    pub struct Reload {
        /// Upstream's words; no effect: nothing watches the file, so that nothing but you applies it.
        pub mode: ReloadMode,
    }
}

choice! {
    /// `gateway.reload.mode`
    pub enum ReloadMode {
        /// Never by itself.
        #[default]
        Off,
        /// Upstream's.
        Restart,
        /// Upstream's.
        Hot,
        /// Upstream's.
        Hybrid,
    }
}
