//! `moltbot explain rule RULE`, and `moltbot explain blast-radius ROLE`: what whoever takes a role over has then, and what not. From the wiring, the walls of
//! this build, the configuration, and what runs; nothing of it is a text that could grow old.

pub mod rule;

use crate::CliError;
use crate::args::Args;
use crate::confine_report::{Wall, design};
use crate::door::Door;
use crate::paint::{Paint, beside};
use config::Config;
use proto::ids::Role;
use proto::operator::RoleStatus;
use proto::topology::TOPOLOGY;
use serde_json::json;
use std::path::Path;

/// System calls that decide what an attacker can do next, in words.
const DECISIVE: [(&str, &str); 12] = [
    ("execve", "start a program"),
    ("execveat", "start a program"),
    ("fork", "make a process"),
    ("vfork", "make a process"),
    ("socket", "make a socket"),
    ("connect", "connect somewhere"),
    ("bind", "listen somewhere"),
    ("openat", "open a file by its path"),
    ("open", "open a file by its path"),
    ("ptrace", "read another process"),
    ("mount", "mount something"),
    ("unshare", "make a namespace"),
];

/// Prints it.
///
/// # Errors
/// [`CliError`].
pub fn blast_radius(dir: &Path, name: &str, args: &Args) -> Result<(), CliError> {
    let role = Role::from_name(name).ok_or_else(|| {
        let names: Vec<&str> = Role::ALL.iter().map(|role| role.name()).collect();
        CliError::Failed(format!("there is no role {name}; there are {}", names.join(", ")))
    })?;
    let design = design()?;
    let wall = design.wall(role).ok_or_else(|| CliError::Failed(format!("this build has no wall for {role}")))?;
    let status = match Door::open(dir).and_then(|mut door| door.status()) {
        Ok(status) => Some(status),
        Err(CliError::NotRunning(_)) => None,
        Err(error) => return Err(error),
    };
    let row = status.as_ref().and_then(|status| status.roles.iter().find(|row| row.role == role && row.pid != 0));
    let config = Config::load(&dir.join("moltbot.json")).map_err(CliError::failed)?;
    let radius = Radius::of(role, wall, &config, row);
    if args.json {
        println!("{}", radius.as_json());
    } else {
        print!("{}", radius.as_text(Paint::new(args)));
    }
    Ok(())
}

struct Radius<'a> {
    role: Role,
    row: Option<&'a RoleStatus>,
    /// Whom it may ask, and what.
    asks: Vec<(Role, &'static str)>,
    /// Whom it answers.
    answers: Vec<(Role, &'static str)>,
    files: Vec<(String, String)>,
    hosts: Vec<String>,
    can: Vec<&'static str>,
    cannot: Vec<&'static str>,
    calls: usize,
}

impl<'a> Radius<'a> {
    fn of(role: Role, wall: &Wall, config: &Config, row: Option<&'a RoleStatus>) -> Self {
        let (mut can, mut cannot) = (Vec::new(), Vec::new());
        for (call, what) in DECISIVE {
            let list = if wall.allows(call) { &mut can } else { &mut cannot };
            if !list.contains(&what) {
                list.push(what);
            }
        }
        cannot.retain(|what| !can.contains(what));
        // Egress has no socket and reaches what the dialer connects it to.
        let reaches = matches!(role, Role::Dialer | Role::Egress);
        Self {
            role,
            row,
            asks: TOPOLOGY.iter().filter(|wire| wire.client == role).map(|wire| (wire.server, wire.says)).collect(),
            answers: TOPOLOGY.iter().filter(|wire| wire.server == role).map(|wire| (wire.client, wire.says)).collect(),
            files: wall.grants(),
            hosts: if reaches {
                [config.allowed(), config.local(true), config.local(false)].concat()
            } else {
                Vec::new()
            },
            can,
            cannot,
            calls: wall.calls(),
        }
    }

    fn as_json(&self) -> serde_json::Value {
        let wires = |wires: &[(Role, &str)]| -> Vec<_> {
            wires.iter().map(|(role, says)| json!({ "role": role.name(), "says": says })).collect()
        };
        json!({
            "role": self.role.name(),
            "running": self.row.map(crate::status::role_as_json),
            "asks": wires(&self.asks),
            "answers": wires(&self.answers),
            "files": self.files.iter().map(|(name, access)| json!({ "resource": name, "access": access })).collect::<Vec<_>>(),
            "hosts": self.hosts,
            "can": self.can,
            "cannot": self.cannot,
            "systemCalls": self.calls,
        })
    }

    fn as_text(&self, paint: Paint) -> String {
        let mut text = format!("Whoever takes {} over\n", self.role);
        let mut line = |name: &str, what: &str| text += &format!("  {name:<9} {}\n", beside(12, what));
        match self.row {
            Some(row) => line("is", &format!("pid {}, uid {}, epoch {}", row.pid, row.uid, row.epoch.0)),
            None => line("is", "not running now"),
        }
        if self.asks.is_empty() {
            line("asks", &paint.good("nobody: it has no way to any other process"));
        }
        for (role, says) in &self.asks {
            line("asks", &paint.warn(&format!("{role}: {says}")));
        }
        for (role, says) in &self.answers {
            line("answers", &format!("{role}, who may ask: {says}"));
        }
        match self.files.as_slice() {
            [] => line("files", &paint.good("none")),
            files => files.iter().for_each(|(name, access)| line("files", &paint.warn(&format!("{name}: {access}")))),
        }
        if matches!(self.role, Role::Dialer | Role::Egress) {
            match self.hosts.as_slice() {
                [] => line("reaches", &paint.good("nothing: no host is allowed")),
                hosts => line("reaches", &paint.warn(&hosts.join(", "))),
            }
        }
        if !self.can.is_empty() {
            line("can", &paint.warn(&self.can.join(", ")));
        }
        if !self.cannot.is_empty() {
            line("cannot", &paint.good(&self.cannot.join(", ")));
        }
        let calls = match self.role {
            Role::Broker | Role::Launcher => {
                format!("{} forbidden: it starts others, which have walls of their own", self.calls)
            }
            _ => format!("{} allowed; any other ends it, and that is an incident", self.calls),
        };
        line("calls", &calls);
        text += &paint
            .dim(&beside(0, "moltbot confine-report has every rule with its reason; moltbot drill run attacks them"));
        text.push('\n');
        text
    }
}
