//! What a configuration may want: the rules that refuse one, and those that only speak up. Pure: a configuration goes in,
//! findings come out. Whoever loads refuses where one is [`Severity::Refused`]; `moltbot config` weighs them before a
//! change, and `moltbot security audit` counts them. Ids are upstream's audit ids of 2026.1.30 where it has one.

mod agents;
mod channels;
mod egress;
mod models;
mod sandbox;
mod secrets;

use crate::schema::{Ask, Bind, Config, Redact, TailscaleMode};
use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration does not load.
    Refused,
    /// Somebody may get in, or out.
    Critical,
    /// A wall is thinner than it could be.
    Warn,
    /// Worth knowing.
    Info,
}

impl Severity {
    /// Points that one costs of a hundred. Source: Phase 1, plan 07.
    #[must_use]
    pub const fn points(self) -> u32 {
        match self {
            Self::Refused | Self::Critical => 20,
            Self::Warn => 5,
            Self::Info => 1,
        }
    }
}

/// One thing that a rule has to say.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Finding {
    /// The rule.
    pub id: String,
    /// How bad it is.
    pub severity: Severity,
    /// The key that it is about.
    pub path: String,
    /// What is wrong, in a line.
    pub title: String,
    /// What follows from it.
    pub detail: String,
    /// What to do.
    pub remediation: String,
}

/// What is left of a hundred points. Source: Phase 1, plan 07.
#[must_use]
pub fn score<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> u32 {
    findings.into_iter().fold(100, |left, finding| left.saturating_sub(finding.severity.points()))
}

/// The word for a score. Source: Phase 1, plan 07.
#[must_use]
pub const fn rating(score: u32) -> &'static str {
    match score {
        90.. => "EXCELLENT",
        80.. => "GOOD",
        70.. => "ACCEPTABLE",
        50.. => "NEEDS IMPROVEMENT",
        _ => "CRITICAL",
    }
}

/// Takes findings down.
struct Findings(Vec<Finding>);

impl Findings {
    fn push(&mut self, severity: Severity, id: &str, path: &str, title: &str, detail: &str, remediation: &str) {
        self.0.push(Finding {
            id: id.to_owned(),
            severity,
            path: path.to_owned(),
            title: title.to_owned(),
            detail: detail.to_owned(),
            remediation: remediation.to_owned(),
        });
    }

    fn refuse_if(&mut self, is: bool, id: &str, path: &str, title: &str, remediation: &str) {
        if is {
            self.push(Severity::Refused, id, path, title, "this configuration does not load", remediation);
        }
    }
}

/// Every finding, the worst first.
#[must_use]
pub fn findings(config: &Config) -> Vec<Finding> {
    let mut all = Findings(Vec::new());
    gateway(config, &mut all);
    sandbox::rules(config, &mut all);
    channels::rules(config, &mut all);
    tools(config, &mut all);
    rest(config, &mut all);
    egress::rules(config, &mut all);
    agents::rules(config, &mut all);
    models::rules(config, &mut all);
    secrets::rules(config, &mut all);
    all.0.sort_by_key(|finding| finding.severity);
    all.0
}

fn gateway(config: &Config, all: &mut Findings) {
    let gateway = &config.gateway;
    all.refuse_if(
        gateway.bind != Bind::Loopback,
        "gateway.bind_not_loopback",
        "gateway.bind",
        "it would be on the network, and listens on loopback only",
        "set it to loopback; reach it by `tailscale serve`, an SSH tunnel or a proxy on this machine",
    );
    all.refuse_if(
        gateway.mode != crate::schema::Mode::Local,
        "gateway.mode_remote",
        "gateway.mode",
        "a configuration of a gateway elsewhere is not one of this gateway",
        "set it to local",
    );
    all.refuse_if(
        gateway.tailscale.mode == TailscaleMode::Funnel,
        "gateway.tailscale_funnel",
        "gateway.tailscale.mode",
        "a funnel puts it on the internet",
        "set it to serve, or to off",
    );
    all.refuse_if(
        !gateway.trusted_proxies.is_empty(),
        "gateway.trusted_proxies",
        "gateway.trustedProxies",
        "no proxy's word about an address is taken: lockouts count the address that connects",
        "set it to []",
    );
    all.refuse_if(
        gateway.control_ui.allow_insecure_auth,
        "gateway.control_ui.insecure_auth",
        "gateway.controlUi.allowInsecureAuth",
        "it would let a page in without a secure context",
        "remove it",
    );
    all.refuse_if(
        gateway.control_ui.dangerously_disable_device_auth,
        "gateway.control_ui.device_auth_disabled",
        "gateway.controlUi.dangerouslyDisableDeviceAuth",
        "it would let a page in without proof of its device",
        "remove it",
    );
    if gateway.tailscale.mode == TailscaleMode::Serve {
        all.push(
            Severity::Info,
            "gateway.tailscale_serve",
            "gateway.tailscale.mode",
            "your tailnet reaches the gateway",
            "whoever is in the tailnet can try to log in; Moltbot neither starts nor stops `tailscale serve`",
            "set it to off where you don't use it",
        );
    }
    let Some(auth) = &gateway.auth else { return };
    all.refuse_if(
        auth.token.as_deref().is_some_and(|token| token != "vault:gateway.token"),
        "gateway.auth.token_elsewhere",
        "gateway.auth.token",
        "the gateway's token is one secret of the vault, and no other can take its place",
        "remove the key, or name vault:gateway.token",
    );
    all.refuse_if(
        auth.password.as_deref().is_some_and(|password| password != "vault:gateway.password"),
        "gateway.auth.password_elsewhere",
        "gateway.auth.password",
        "the vault keeps how to tell the password, and no other secret can take its place",
        "remove the key, and set the password with `moltbot gateway password set`",
    );
    all.refuse_if(
        auth.allow_tailscale,
        "gateway.auth.allow_tailscale",
        "gateway.auth.allowTailscale",
        "a header that a proxy sets is not a proof of who somebody is",
        "set it to false",
    );
}

fn tools(config: &Config, all: &mut Findings) {
    let tools = &config.tools;
    all.refuse_if(
        tools.elevated.enabled,
        "tools.elevated.enabled",
        "tools.elevated.enabled",
        "no command runs on the host, whoever asks",
        "set it to false",
    );
    if tools.exec.ask == Ask::Off {
        all.push(
            Severity::Warn,
            "tools.exec.ask_off",
            "tools.exec.ask",
            "nobody is asked about a command that no rule knows",
            "the sandbox is then the only wall",
            "set it to on-miss",
        );
    }
    for (is, name) in [(tools.browser.enabled, "browser"), (tools.canvas.enabled, "canvas")] {
        all.refuse_if(
            is,
            &format!("tools.{name}.enabled"),
            &format!("tools.{name}.enabled"),
            &format!("there is no {name} tool"),
            "set it to false",
        );
    }
    for (channel, who) in &tools.elevated.allow_from {
        let path = format!("tools.elevated.allowFrom.{channel}");
        if who.iter().any(|id| id.0 == "*") {
            let title = "everybody could run commands on the host, were it ever turned on";
            let id = format!("{path}.wildcard");
            all.push(Severity::Critical, &id, &path, title, "it is off, and cannot be turned on", "remove the *");
        }
        if who.len() > 25 {
            let title = "a long list for commands on the host";
            let id = format!("{path}.large");
            all.push(Severity::Warn, &id, &path, title, "nobody knows all of them", "name whom it is for");
        }
    }
}

fn rest(config: &Config, all: &mut Findings) {
    let logging = &config.logging;
    all.refuse_if(
        logging.keep_files == Some(0) || logging.keep_days == Some(0),
        "logging.keep_nothing",
        "logging",
        "keepFiles and keepDays are 1 at least",
        "leave them out for 100 files and 365 days, or keep more",
    );
    all.refuse_if(
        !(1 << 16..=1 << 30).contains(&logging.max_file_bytes),
        "logging.file_size",
        "logging.maxFileBytes",
        "a file of the log is between 65536 and 1073741824 bytes",
        "leave it out for 10 MiB",
    );
    all.refuse_if(
        !(1..=3_650).contains(&logging.max_file_days),
        "logging.file_age",
        "logging.maxFileDays",
        "a file of the log is closed after 1 to 3650 days",
        "leave it out for 30",
    );
    all.refuse_if(
        logging.redact_patterns.len() > 32,
        "logging.many_patterns",
        "logging.redactPatterns",
        "at most 32 patterns are taken",
        "join some with |",
    );
    for (at, pattern) in logging.redact_patterns.iter().enumerate() {
        all.refuse_if(
            pattern.len() > 512,
            "logging.long_pattern",
            &format!("logging.redactPatterns[{at}]"),
            "longer than 512 bytes",
            "make two of it",
        );
    }
    if logging.redact_sensitive == Redact::Off {
        all.push(
            Severity::Warn,
            "logging.redact_off",
            "logging.redactSensitive",
            "the configuration wants secrets in the log",
            "the audit log is redacted all the same; another program that reads this file may not be",
            "set it to tools; `moltbot security audit --fix` does",
        );
    }
    let session = &config.session;
    let mut idle = session.resets().map(|(_, reset)| reset.idle_minutes).chain([session.idle_minutes]);
    all.refuse_if(
        idle.any(|minutes| minutes == Some(0)),
        "session.idle_nothing",
        "session",
        "silence of no minutes would begin every conversation anew",
        "idleMinutes is 1 at least; leave it out for no end by silence",
    );
    for (path, reset) in session.resets() {
        all.refuse_if(
            reset.at_hour > 23,
            "session.reset_hour",
            &format!("{path}.atHour"),
            "a day has the hours 0 to 23",
            "name one of them, in UTC",
        );
    }
    all.refuse_if(
        config.agents.defaults.timeout_seconds.is_some_and(|seconds| !(1..=86_400).contains(&seconds)),
        "agents.timeout",
        "agents.defaults.timeoutSeconds",
        "an answer is given 1 to 86400 seconds",
        "leave it out for 600",
    );
    let commands = &config.commands;
    for (is, name) in
        [(commands.bash, "bash"), (commands.config, "config"), (commands.debug, "debug"), (commands.restart, "restart")]
    {
        let path = format!("commands.{name}");
        all.refuse_if(is, &path, &path, "no message is ever such a command", "set it to false");
    }
    all.refuse_if(
        !commands.use_access_groups,
        "commands.use_access_groups_off",
        "commands.useAccessGroups",
        "allowlists hold for commands as well",
        "set it to true",
    );
}

#[cfg(test)]
mod tests;
