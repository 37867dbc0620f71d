//! A turn that a model answers. A provider that fails is asked again where that may help, and then the next one of the
//! configuration is. Whatever goes wrong ends the turn with a sentence, and the conversation goes on with the next message.

use crate::agent::{End, Plan, Turn};
use crate::model::ask::{Asking, Failure};
use crate::model::catalogue::Model;
use crate::model::messages::{FAILED, HISTORY, Talk, chosen, spent};
use crate::model::reply::{Reply, Usage};
use crate::sessions::SessionError;
use crate::state::log;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// Times that one model is asked the same.
const ATTEMPTS: u32 = 3;
/// Pause before the second time; doubled for the third.
const BACKOFF: Duration = Duration::from_millis(500);

/// Why a turn does not go on.
enum Over {
    Stopped,
    Failed(String),
}

fn history(turn: &Turn<'_>) -> Result<Vec<Value>, SessionError> {
    turn.gateway.sessions().history(turn.session, HISTORY).map(|history| history.messages)
}

/// Answers the person's message.
pub(crate) async fn answer(turn: &mut Turn<'_>, plan: &Plan) -> End {
    let history = match history(turn) {
        Ok(history) => history,
        Err(error) => return failed(turn, error.to_string()),
    };
    let gateway = turn.gateway;
    let models = gateway.catalogue.order(chosen(&history));
    if models.is_empty() {
        let why = "no model is chosen: agents.defaults.model names one for all, /model one for this session";
        return failed(turn, why.to_owned());
    }
    match first_of(turn, plan, &models, &Talk::of(&history)).await {
        Ok((model, reply)) => {
            turn.more = notes(model, &reply, &history);
            End::Final
        }
        Err(Over::Stopped) => End::Aborted,
        Err(Over::Failed(why)) => failed(turn, why),
    }
}

fn failed(turn: &mut Turn<'_>, why: String) -> End {
    turn.more = json!({"stopReason": FAILED});
    End::Error(why)
}

/// What the transcript keeps beside an answer: who gave it and what it cost, and what holds for the conversation, so that it
/// is found again near its end.
fn notes(model: &Model, reply: &Reply, history: &[Value]) -> Value {
    let (provider, id) = model.name.split_once('/').unwrap_or_default();
    let sum = spent(history).plus(reply.usage);
    let Usage { input, output } = reply.usage;
    let mut notes = json!({
        "provider": provider, "model": id, "stopReason": reply.stop,
        "usage": {"input": input, "output": output, "totalTokens": input.saturating_add(output)},
        "sessionUsage": {"input": sum.input, "output": sum.output},
    });
    if let (Some(chosen), Some(map)) = (chosen(history), notes.as_object_mut()) {
        map.insert("modelOverride".to_owned(), chosen.into());
    }
    notes
}

/// The reply of the first model that gives one.
async fn first_of<'m>(
    turn: &mut Turn<'_>,
    plan: &Plan,
    models: &[&'m Model],
    talk: &Talk,
) -> Result<(&'m Model, Reply), Over> {
    let mut failures = Vec::new();
    for model in models {
        match patiently(turn, plan, model, talk).await? {
            Ok(reply) => return Ok((model, reply)),
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
    talk: &Talk,
) -> Result<Result<Reply, String>, Over> {
    let Some(body) = talk.body(model) else {
        return Ok(Err("the message is too long for one request".to_owned()));
    };
    let mut pause = BACKOFF;
    let mut attempt = 1;
    loop {
        let failure = match once(turn, plan, model, body.clone()).await? {
            Ok(reply) => return Ok(Ok(reply)),
            Err(failure) => failure,
        };
        // What was shown cannot be taken back, so nothing else is shown behind it.
        if !turn.is_silent() {
            return Err(Over::Failed(format!("{}: the answer broke off: {}", model.name, failure.why)));
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

async fn once(turn: &mut Turn<'_>, plan: &Plan, model: &Model, body: Vec<u8>) -> Result<Result<Reply, Failure>, Over> {
    let begun = tokio::select! {
        begun = Asking::begin(turn.gateway, turn.session, model, body) => begun,
        () = plan.stop.asked() => return Err(Over::Stopped),
    };
    let mut asking = match begun {
        Ok(asking) => asking,
        Err(failure) => return Ok(Err(failure)),
    };
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
            Ok(Some(said)) => {
                turn.say(&said);
                if turn.is_cut() {
                    return Err(Over::Failed(format!("{}: its answer is longer than is shown", model.name)));
                }
            }
            Ok(None) if turn.is_silent() => return Ok(Err(Failure::lasting("it gave an empty answer"))),
            Ok(None) => return Ok(Ok(asking.into_reply())),
            Err(failure) => return Ok(Err(failure)),
        }
    }
}

/// `/model`: which there are, or another one for this conversation.
pub(crate) fn choose(turn: &mut Turn<'_>, wanted: &str) -> End {
    let catalogue = &turn.gateway.catalogue;
    if wanted.is_empty() {
        let text = standing(turn);
        let names: Vec<String> = catalogue.names().map(|name| format!("\n  {name}")).collect();
        turn.say(&format!("{text}\nmodels:{}\n/model PROVIDER/MODEL chooses one for this session.", names.concat()));
    } else if let Some(model) = catalogue.find(wanted) {
        turn.more = json!({"modelOverride": model.name});
        turn.say(&format!("This session asks {} from now on.", model.name));
    } else {
        let shown: String = wanted.chars().take(100).collect();
        turn.say(&format!("There is no model {shown}. /model lists them."));
    }
    End::Final
}

/// What this conversation asks, and what it has cost.
pub(crate) fn standing(turn: &Turn<'_>) -> String {
    let history = history(turn).unwrap_or_default();
    let order = turn.gateway.catalogue.order(chosen(&history));
    let names: Vec<&str> = order.iter().map(|model| model.name.as_str()).collect();
    let asked = if names.is_empty() { "none configured".to_owned() } else { names.join(", then ") };
    let Usage { input, output } = spent(&history);
    format!("model: {asked}\ntokens: {input} read, {output} written")
}
