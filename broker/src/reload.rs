//! `moltbot config apply`: the configuration is read anew, and exactly the roles that are told something else by it start
//! again. A file that does not load changes nothing. What was decided before broker sealed itself waits for its next start.

use crate::serve::Broker;
use config::Config;
use confine::startup::StartError;
use proto::bounded::{BoundedStr, BoundedVec};
use proto::edge::Refusal;
use proto::ids::Role;
use proto::operator::{OperatorReply, RoleState};
use supervise::state::{CHILDREN, Event};

/// A configuration that was read and is not yet in force.
#[derive(Debug)]
pub(crate) struct Reload {
    config: Config,
    /// Who starts again.
    roles: Vec<Role>,
}

impl Broker {
    /// Reads the file.
    pub(crate) fn read_config(&self) -> Result<Reload, Refusal> {
        let refuse = |error: &dyn std::fmt::Display| Refusal::new("config.invalid", &error.to_string());
        let config = Config::load(&self.setup.state_dir.config_path()).map_err(|error| refuse(&error))?;
        let differs = |role: Role| -> Result<bool, StartError> {
            Ok(self.setup.role_config(role, &config)? != self.setup.role_config(role, &self.setup.config)?)
        };
        let mut roles = Vec::new();
        for role in CHILDREN {
            if differs(role).map_err(|error| refuse(&error))? && self.table.state(role) != RoleState::Idle {
                roles.push(role);
            }
        }
        Ok(Reload { config, roles })
    }

    /// Puts it in force.
    pub(crate) fn apply_config(&mut self, reload: Reload) -> OperatorReply {
        let (is, was) = (&reload.config, &self.setup.config);
        let waits = match (is.gateway.port == was.gateway.port, is.operator == was.operator) {
            (true, true) => "",
            (false, _) => "gateway.port",
            (true, false) => "operator.group",
        };
        self.setup.config = reload.config;
        for role in &reload.roles {
            self.happen(Event::Restart(*role));
        }
        OperatorReply::Reloaded {
            roles: BoundedVec::new(reload.roles).unwrap_or_default(),
            waits: BoundedStr::truncated(waits),
        }
    }
}

impl Reload {
    /// What the log says of it.
    pub(crate) fn detail(&self) -> String {
        let names: Vec<&str> = self.roles.iter().map(|role| role.name()).collect();
        format!("restarts {}", if names.is_empty() { "nobody".to_owned() } else { names.join(", ") })
    }
}
