//! `moltbot`: the operator's command. It holds no right of its own: everything goes to broker over a socket on which the
//! kernel says who asks.
#![forbid(unsafe_code)]

#[macro_use]
mod out;

mod approvals;
mod args;
mod audit;
mod backup;
mod chat;
mod config;
mod confine_report;
mod confirm;
mod devices;
mod doctor;
mod door;
mod drill;
mod explain;
mod import;
mod incident;
mod lockdown;
mod logins;
mod logs;
mod man;
mod migrate;
mod overwrite;
mod paint;
mod people;
mod propose;
mod prune;
mod qr;
mod restart;
mod sandbox;
mod secrets;
mod sessions;
mod shell;
mod status;
mod up;
mod vault;
mod verify;
mod watch;
mod why;
mod witness;
mod ws;

use args::{Args, Command, DrillCommand, ExplainCommand, GatewayCommand, IncidentCommand, SecurityCommand};
use proto::ids::Role;
use proto::operator::{OperatorReply, OperatorRequest};
use std::process::{ExitCode, ExitStatus};

/// What a command that did not succeed ends with.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// There is no broker on the state directory.
    #[error("moltbot is not running on {0}; start it with `moltbot up`")]
    NotRunning(String),
    /// A rule refused.
    #[error("refused ({}): {}", .0.rule, .0.message)]
    Refused(Box<proto::edge::Refusal>),
    /// Anything else, in a sentence.
    #[error("{0}")]
    Failed(String),
    /// Broker ended, with this status.
    #[error("{1}")]
    Ended(u8, String),
    /// The log is there and could not be checked. Not the same as one that is wrong.
    #[error("{0}")]
    Unchecked(String),
    /// It failed, and what is printed says so.
    #[error("failed")]
    Said,
    /// Whoever read our output has gone. Not worth a word.
    #[error("output closed")]
    OutputClosed,
}

impl CliError {
    fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }

    /// The command that says more of it.
    fn explained_by(&self) -> Option<String> {
        match self {
            Self::NotRunning(_) => Some("moltbot doctor".to_owned()),
            Self::Refused(refusal) => Some(refusal.explained_by()),
            Self::Unchecked(_) => Some("moltbot logs verify --help".to_owned()),
            Self::Failed(_) | Self::Ended(..) | Self::Said | Self::OutputClosed => None,
        }
    }

    /// The exit status.
    fn status(&self) -> u8 {
        match self {
            Self::NotRunning(_) => 3,
            Self::Unchecked(_) => 4,
            Self::Refused(refusal) => proto::exit::of_refusal(&refusal.rule),
            Self::Ended(status, _) => *status,
            Self::Failed(_) | Self::Said | Self::OutputClosed => 1,
        }
    }

    /// A refusal of our own, by a rule that the vault has as well.
    fn refused(rule: &str, why: &str) -> Self {
        Self::Refused(Box::new(proto::edge::Refusal::new(rule, why)))
    }

    /// That broker ended, as `text` tells it: with its own status where a person must look, else 1.
    fn ended(status: ExitStatus, text: String) -> Self {
        let code = status.code().filter(|code| proto::exit::Exit::is_permanent(*code));
        Self::Ended(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1), text)
    }
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe { Self::OutputClosed } else { Self::failed(error) }
    }
}

fn main() -> ExitCode {
    let args = args::parse();
    match run(&args) {
        Ok(()) | Err(CliError::OutputClosed) => ExitCode::SUCCESS,
        Err(CliError::Said) => ExitCode::FAILURE,
        Err(error) => {
            if args.json {
                let explain = error.explained_by();
                println!("{}", serde_json::json!({ "ok": false, "error": error.to_string(), "explain": explain }));
            }
            eprintln!("{}", paint::told(&format!("moltbot: {error}")));
            if let Some(command) = error.explained_by() {
                eprintln!("  `{command}` says more");
            }
            ExitCode::from(error.status())
        }
    }
}

fn run(args: &Args) -> Result<(), CliError> {
    let dir = args.state_dir()?;
    match &args.command {
        Command::Up { port, foreground } => up::up(&dir, *port, *foreground, args),
        Command::Down => up::down(&dir, args),
        Command::Status => status::show(&dir, args),
        Command::ConfineReport => confine_report::show(&dir, args),
        Command::Chat { message, session } => chat::chat(&dir, message, session),
        Command::Gateway { test: true, .. } | Command::Gateway { command: Some(GatewayCommand::Test), .. } => {
            doctor::would_start(&dir, args)
        }
        Command::Gateway { command: Some(command), .. } => gateway(&dir, command, args),
        // clap shows the help instead.
        Command::Gateway { command: None, .. } => Ok(()),
        Command::Config { command } => config::run(&dir, command, args),
        Command::Security { command: SecurityCommand::Audit(options) } => audit::run(&dir, options, args),
        Command::Security { command: SecurityCommand::Migrate(options) } => migrate::run(&dir, options, args),
        Command::Doctor(options) => doctor::run(&dir, *options, args),
        Command::Explain { command: ExplainCommand::BlastRadius { role } } => explain::blast_radius(&dir, role, args),
        Command::Explain { command: ExplainCommand::Rule { rule } } => explain::rule::show(&dir, rule, args),
        Command::Why(options) => why::run(&dir, options, args),
        Command::Incident { command: IncidentCommand::Report(options) } => incident::report(&dir, options, args),
        Command::Lockdown { command } => lockdown::run(&dir, *command, args),
        Command::Drill { command: DrillCommand::Run } => drill::run(&dir, args),
        Command::Pairing { command } => people::pairing(&dir, command, args),
        Command::Allowlist { command } => people::allowlist(&dir, command, args),
        Command::Sessions { command } => sessions::run(&dir, command, args),
        Command::Secrets { command } => secrets::run(&dir, command, args),
        Command::Devices { command } => devices::run(&dir, command, args),
        Command::Sandbox { command } => sandbox::run(&dir, command, args),
        Command::Approvals { command } => approvals::run(&dir, command, args),
        Command::Vault { command } => vault::run(&dir, command, args),
        Command::Logs { show, command: None } => logs::show(&dir, show, args),
        Command::Logs { command: Some(command), .. } => verify::run(&dir, command, args),
        Command::Man { to } => man::write(to),
        Command::Shell => shell::run(&dir, args),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut args::command(), "moltbot", &mut script);
            print!("{}", String::from_utf8_lossy(&script));
            Ok(())
        }
    }
}

fn gateway(dir: &std::path::Path, command: &GatewayCommand, args: &Args) -> Result<(), CliError> {
    let mut door = door::Door::open(dir)?;
    match command {
        GatewayCommand::Token { reveal: false } => Err(CliError::failed(
            "the token is in the vault; `moltbot gateway token --reveal` prints it, and that is recorded",
        )),
        GatewayCommand::Token { reveal: true } => match door.ask(&OperatorRequest::RevealGatewayToken)? {
            (OperatorReply::GatewayToken(token), _) => {
                let text = String::from_utf8_lossy(token.expose());
                if args.json {
                    println!("{}", serde_json::json!({ "token": text }));
                } else {
                    println!("{text}");
                }
                Ok(())
            }
            _ => Err(door::unexpected()),
        },
        GatewayCommand::Call { method, params } => {
            let params =
                serde_json::from_str(params).map_err(|error| CliError::Failed(format!("--params: {error}")))?;
            let payload = ws::Session::open(&mut door)?.request(method, params)?;
            let text = if args.json { serde_json::to_string(&payload) } else { serde_json::to_string_pretty(&payload) };
            println!("{}", text.map_err(CliError::failed)?);
            Ok(())
        }
        GatewayCommand::Password { command } => logins::password(&mut door, *command, args),
        GatewayCommand::Test => doctor::would_start(dir, args),
        GatewayCommand::Unlock => secrets::forget_lockouts(&mut door, args),
        GatewayCommand::Restart { role } => {
            let role = Role::from_name(role)
                .ok_or_else(|| CliError::Failed(format!("there is no role {role}; `moltbot status` lists them")))?;
            restart::run(&mut door, role, args)
        }
    }
}
