//! Asking until somebody answers: a provider that fails is asked again where that may help, and then the next one of the
//! configuration is.

use crate::agent::Plan;
use crate::model::ask::{Asking, Failure};
use crate::model::catalogue::Model;
use crate::model::messages::Brief;
use crate::model::refresh::refresh;
use crate::model::reply::Reply;
use crate::model::talk::Talk;
use crate::state::log;
use crate::turn::Turn;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// Times that one model is asked the same.
const ATTEMPTS: u32 = 3;
/// Pause before the second time; doubled for the third.
const BACKOFF: Duration = Duration::from_millis(500);
/// Longest text that is not shown to anybody.
const MAX_QUIET: usize = 32 * 1024;

/// Why a turn does not go on.
pub(crate) enum Over {
    /// The person stopped it.
    Stopped,
    /// Nobody answered; for a person.
    Failed(String),
}

/// What is asked.
pub(crate) struct Question<'q> {
    /// The conversation.
    pub(crate) talk: &'q Talk,
    /// What goes with it.
    pub(crate) brief: &'q Brief,
    /// The answer is shown as it comes.
    pub(crate) aloud: bool,
}

/// An answer.
pub(crate) struct Asked<'m> {
    /// Whose.
    pub(crate) model: &'m Model,
    /// How it ended.
    pub(crate) reply: Reply,
    /// Its text, where it was not shown.
    pub(crate) text: String,
}

/// The reply of the first model that gives one.
pub(crate) async fn first_of<'m>(
    turn: &mut Turn<'_>,
    plan: &Plan,
    models: &[&'m Model],
    question: &Question<'_>,
) -> Result<Asked<'m>, Over> {
    let mut failures = Vec::new();
    for model in models {
        match patiently(turn, plan, model, question).await? {
            Ok((reply, text)) => return Ok(Asked { model, reply, text }),
            Err(why) => {
                log(&format!("run {}: {}: {why}", plan.run_id, model.name));
                failures.push(format!("{}: {why}", model.name));
            }
        }
    }
    Err(Over::Failed(failures.join("\n")))
}

/// Asks one model, again where that may help and nothing was shown yet.
async fn patiently(
    turn: &mut Turn<'_>,
    plan: &Plan,
    model: &Model,
    question: &Question<'_>,
) -> Result<Result<(Reply, String), String>, Over> {
    let Some(body) = question.talk.body(model, question.brief) else {
        return Ok(Err("the message is too long for one request".to_owned()));
    };
    let mut pause = BACKOFF;
    let mut attempt = 1;
    let mut renewal = model.refresh.as_ref();
    loop {
        let failure = match once(turn, plan, model, question.aloud, body.clone()).await? {
            Ok(answered) => return Ok(Ok(answered)),
            Err(failure) => failure,
        };
        // What was shown cannot be taken back, so nothing else is shown behind it.
        if question.aloud && !turn.is_silent() {
            return Err(Over::Failed(format!("{}: the answer broke off: {}", model.name, failure.why)));
        }
        if let Some(with) = renewal.take_if(|_| failure.key) {
            let renewed = tokio::select! {
                renewed = refresh(turn.gateway, turn.session, with) => renewed,
                () = plan.stop.asked() => return Err(Over::Stopped),
            };
            match renewed {
                Ok(()) => continue,
                Err(why) => return Ok(Err(format!("{}; and no other key is had: {}", failure.why, why.why))),
            }
        }
        if !failure.again || attempt == ATTEMPTS {
            return Ok(Err(failure.why));
        }
        attempt += 1;
        tokio::select! {
            () = sleep(failure.after.unwrap_or(pause)) => {}
            () = plan.stop.asked() => return Err(Over::Stopped),
        }
        pause = pause.saturating_mul(2);
    }
}

async fn once(
    turn: &mut Turn<'_>,
    plan: &Plan,
    model: &Model,
    aloud: bool,
    body: Vec<u8>,
) -> Result<Result<(Reply, String), Failure>, Over> {
    let begun = tokio::select! {
        begun = Asking::begin(turn.gateway, turn.session, model, body) => begun,
        () = plan.stop.asked() => return Err(Over::Stopped),
    };
    let mut asking = match begun {
        Ok(asking) => asking,
        Err(failure) => return Ok(Err(failure)),
    };
    let mut quiet = String::new();
    loop {
        let flush_at = turn.flush_at();
        let next = tokio::select! {
            next = asking.next() => next,
            // Dropped, the question is taken back.
            () = plan.stop.asked() => return Err(Over::Stopped),
            () = sleep_until(flush_at.unwrap_or_else(Instant::now)), if flush_at.is_some() => {
                turn.flush();
                continue;
            }
        };
        match next {
            Ok(Some(said)) if aloud => {
                turn.say(&said);
                if turn.is_cut() {
                    return Err(Over::Failed(format!("{}: its answer is longer than is shown", model.name)));
                }
            }
            Ok(Some(said)) => {
                quiet.push_str(&said);
                if quiet.len() > MAX_QUIET {
                    return Ok(Err(Failure::lasting("its answer is longer than was asked for")));
                }
            }
            Ok(None) => {
                let silent = if aloud { turn.is_silent() } else { quiet.trim().is_empty() };
                let reply = asking.into_reply();
                if silent && (!aloud || reply.calls().is_empty()) {
                    return Ok(Err(Failure::lasting("it gave an empty answer")));
                }
                return Ok(Ok((reply, quiet)));
            }
            Err(failure) => return Ok(Err(failure)),
        }
    }
}
