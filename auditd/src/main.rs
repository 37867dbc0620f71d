//! moltbot-auditd: the start order of the log's keeper. Its files are opened, checked to their last line and repaired by
//! appending before the walls go up; behind them it can make the next file of a stream, and read, and nothing else. What a
//! record said that must not be in the log is not left behind in freed memory either.
#![forbid(unsafe_code)]

use auditd::journal::Journal;
use auditd::redact::Patterns;
use auditd::state::Limits;
use auditd::writer::Writer;
use auditd::{policy, serve};
use confine::secret_memory::Wiping;
use confine::startup::{Start, StartError};
use proto::control::{Resource, RoleConfig};
use proto::exit::Exit;
use proto::ids::Role;
use std::process::ExitCode;

#[global_allocator]
static HEAP: Wiping = Wiping;

fn main() -> ExitCode {
    confine::startup::run(Role::Auditd, start)
}

fn start(mut start: Start) -> Result<Exit, StartError> {
    let RoleConfig::Auditd { layout, redact, files } = start.config() else { return Err(start.wrong_config()) };
    let patterns = Patterns::new(redact.iter().map(|pattern| pattern.as_str())).map_err(StartError::permanent)?;
    let (layout, limits) = (layout.to_string(), Limits::of(*files));
    confine::privileges::answer_file_size_limit_with_errno()
        .map_err(|errno| StartError::internal(format!("SIGXFSZ cannot be blocked: {errno}")))?;
    let writer = Writer::from_system(layout).map_err(StartError::internal)?;
    let directory = start.take(Resource::LogDir)?;
    let mut journal = Journal::open(directory, writer, limits)?;
    journal.use_patterns(patterns);
    let (sealed, control) = start.seal(&policy::POLICY, &[(Resource::LogDir, journal.directory())])?;
    serve::serve(&sealed, &control, journal)
}
