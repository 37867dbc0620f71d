//! `moltbot logs prune`: the oldest files of the log go, with the operator's own rights, because no process of the set has
//! the right to remove one. What goes was checked first, and is recorded before it goes; its hashes stay.

use crate::CliError;
use crate::args::{Args, StreamName};
use crate::door::{Door, unexpected};
use auditd::clock::Instant;
use auditd::prune::{Keep, Plan, plan};
use proto::audit::Stream;
use proto::operator::{OperatorReply, OperatorRequest};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// What the operator asked for.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct Options {
    /// Newest files to keep of each stream [default: logging.keepFiles of moltbot.json; 100 where neither is said]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep_files: Option<u32>,
    /// Days to keep a file for after it was closed, however many there are [default: logging.keepDays of moltbot.json; 365 where neither is said]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep_days: Option<u32>,
    /// Only this stream
    #[arg(long, value_enum)]
    stream: Option<StreamName>,
    /// Say what would go, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Stay, and look again every hour; where there is no service manager with timers
    #[arg(long, conflicts_with = "dry_run")]
    watch: bool,
}

/// How often one that stays looks.
const EVERY: Duration = Duration::from_secs(3_600);

/// Removes what may go.
///
/// # Errors
/// [`CliError`]; where the log does not verify nothing goes, and where Moltbot does not run nothing can be recorded.
pub fn run(dir: &Path, options: Options, args: &Args) -> Result<(), CliError> {
    if !options.watch {
        return once(dir, options, args);
    }
    loop {
        // A Moltbot that is down, or a log that does not verify, is for the next time: nothing has gone.
        if let Err(error) = once(dir, options, args) {
            eprintln!("moltbot: {error}");
        }
        std::thread::sleep(EVERY);
    }
}

fn once(dir: &Path, options: Options, args: &Args) -> Result<(), CliError> {
    // Read each time: the policy may have changed.
    let keep = keep(dir, options)?;
    let logs = dir.join("logs");
    let streams = options.stream.map_or_else(|| Stream::ALL.to_vec(), |stream| vec![stream.into()]);
    let mut plans = Vec::new();
    for stream in streams {
        plans.extend(plan(&logs, stream, &keep, Instant::now().wall).map_err(CliError::failed)?);
    }
    if !options.dry_run && !plans.is_empty() {
        let mut door = Door::open(dir)?;
        plans.iter().try_for_each(|plan| remove(&logs, plan, &mut door))?;
    }
    let done = if options.dry_run { "would go" } else { "gone" };
    if args.json {
        println!("{}", Value::Array(plans.iter().map(|plan| as_json(plan, !options.dry_run)).collect()));
    } else if plans.is_empty() {
        println!("nothing is over what is to be kept");
    } else {
        for Plan { stream, files, first, until, bytes } in &plans {
            let last = until.saturating_sub(1);
            println!(
                "{:<14} records {first} to {last} in {} file(s), {bytes} bytes: {done}",
                stream.name(),
                files.len()
            );
        }
    }
    Ok(())
}

fn keep(dir: &Path, options: Options) -> Result<Keep, CliError> {
    let config = config::Config::load(&dir.join("moltbot.json")).map_err(CliError::failed)?;
    // One that is said here stands for both: `--keep-files 3` is no wish to keep thirty days as well.
    let (files, days) = match (options.keep_files, options.keep_days) {
        (None, None) => (config.logging.keep_files, config.logging.keep_days),
        said => said,
    };
    if (files, days) == (None, None) {
        return Ok(Keep::USUAL);
    }
    Ok(Keep {
        files: files.and_then(|files| usize::try_from(files).ok()),
        age: days.map(|days| Duration::from_secs(u64::from(days).saturating_mul(86_400))),
    })
}

fn remove(logs: &Path, plan: &Plan, door: &mut Door) -> Result<(), CliError> {
    plan.keep_keys(logs).map_err(CliError::failed)?;
    let request = OperatorRequest::PruneLogs {
        stream: plan.stream,
        first: plan.first,
        until: plan.until,
        files: u32::try_from(plan.files.len()).unwrap_or(u32::MAX),
    };
    match door.ask(&request)? {
        (OperatorReply::Started, _) => plan.remove(logs).map_err(CliError::failed),
        _ => Err(unexpected()),
    }
}

fn as_json(plan: &Plan, gone: bool) -> Value {
    json!({
        "stream": plan.stream.name(), "firstSeq": plan.first, "nextSeq": plan.until, "files": plan.files.len(),
        "bytes": plan.bytes, "gone": gone,
    })
}
