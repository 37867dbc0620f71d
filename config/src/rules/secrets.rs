//! Secrets that stand in the file, or in the environment.

use super::{Findings, Severity};
use crate::schema::Config;
use crate::secrets::{Held, Origin, PASSWORD};

pub(super) fn rules(config: &Config, all: &mut Findings) {
    for held in &config.secrets {
        one(held, all);
    }
}

/// Upstream's names where it has one.
fn id(held: &Held) -> &'static str {
    match held.path.split('.').next() {
        _ if held.name == PASSWORD => "config.secrets.gateway_password_in_config",
        Some("gateway") => "gateway.auth.token_in_config",
        Some("channels") => "channels.secret_in_config",
        Some("models") => "models.secret_in_config",
        _ => "config.secrets.in_config",
    }
}

fn one(held: &Held, all: &mut Findings) {
    let Held { path, name, origin, .. } = held;
    match origin {
        Origin::File => all.push(
            Severity::Critical,
            id(held),
            path,
            "a secret stands here in clear",
            "whoever reads the file, or a copy of it, has it",
            &format!("`moltbot config seal` moves it into the vault as {name}, and so does the next `moltbot up`"),
        ),
        Origin::Included(_) => all.refuse_if(
            true,
            id(held),
            path,
            "a secret stands in clear in a file that is included",
            &format!("put it into the vault, `moltbot secrets set {name}`, and write \"vault:{name}\" here"),
        ),
        Origin::Environment if name == PASSWORD => all.refuse_if(
            true,
            "gateway.auth.password_in_environment",
            path,
            "a password from the environment would come back at every start, also after it was changed",
            "remove the key, and set the password with `moltbot gateway password set`",
        ),
        Origin::Environment => all.push(
            Severity::Info,
            "config.secrets.in_environment",
            path,
            "a secret comes from the environment",
            "every program that is started with it can read it",
            &format!("the vault has it as {name} after `moltbot up`; the variable is not needed any more then"),
        ),
    }
}
