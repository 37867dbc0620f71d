//! Test builds alone (feature `probes`): the sealed process attacks its own wall when broker's place asks for it. Such a
//! build also lets each layer be raised alone, so that one cannot hide a hole in the other. Nothing of it is in a release.

use super::{CONTROL_FD, Control, STEP, StartError};
use crate::policy::Policy;
use crate::probe::{Held, World, probes};
use crate::seccomp::Filters;
use crate::walls;
use crate::walls::Opened;
use proto::channel::{Channel, ChannelError};
use proto::control::{Layout, MAX_CONTROL};
use proto::probe::{Layers, Outcome, ToProbed};
use std::time::{Duration, Instant};

/// How long such a process waits for a word.
const IDLE: Duration = Duration::from_secs(600);
/// What a test looks for in a program to know whether it is such a build.
const MARKER: &str = "moltbot-probes-are-answered-here";

/// Raises the layers that the word after the configuration names.
pub(super) fn raise(
    control: &Control,
    policy: &'static Policy,
    opened: &[Opened<'_>],
    ports: &[u16],
    layout: Layout,
) -> Result<(u8, Vec<&'static str>, u16), StartError> {
    eprintln!("{MARKER}");
    let ToProbed::Raise(Layers { landlock, seccomp }) = hear(control).map_err(StartError::internal)? else {
        return Err(StartError::internal("a test build is told its layers first"));
    };
    let (abi, lacks) = if landlock { walls::raise(policy, opened, ports, layout)? } else { (0, Vec::new()) };
    let rules = if seccomp { Filters::of(policy)?.install()? } else { 0 };
    Ok((abi, lacks, rules))
}

/// Makes attempts until the channel ends. A test build never gets further.
pub(super) fn answer(control: &Control, held: Held) -> ChannelError {
    loop {
        let outcome = match hear(control) {
            Ok(ToProbed::Probe(number, targets)) => {
                let world = World::new(targets, CONTROL_FD, held);
                probes().nth(number.into()).map_or(Outcome::Absent, |probe| probe.run(&world))
            }
            Ok(ToProbed::Raise(_)) => return ChannelError::Violation("the layers are raised"),
            Err(error) => return error,
        };
        if let Err(error) = control.0.send_note(&outcome, MAX_CONTROL, &[], Instant::now() + STEP) {
            return error;
        }
    }
}

fn hear(control: &Control) -> Result<ToProbed, ChannelError> {
    Channel::decode_note(control.0.recv_by(MAX_CONTROL, 0, Instant::now() + IDLE)?, MAX_CONTROL).map(|(word, _)| word)
}
