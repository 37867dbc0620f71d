//! A turn that a model answers: it is asked, what it calls is done, and it is asked again with what came of that, until it
//! answers. Whatever goes wrong ends the turn with a sentence, and the conversation goes on with the next message.

use crate::agent::Plan;
use crate::brief;
use crate::model::asking::{Asked, Over, Question, first_of};
use crate::model::catalogue::Model;
use crate::model::messages::{Brief, Thinking};
use crate::model::reply::Usage;
use crate::model::talk::{FAILED, HISTORY, Item, Outcome, SUMMARY, Talk, chosen, spent, thinking};
use crate::sessions::SessionError;
use crate::state::log;
use crate::tools::{self, Offer, Stopped};
use crate::turn::{End, Turn};
use serde_json::{Value, json};

/// Times that a model may ask for tools before it answers.
const ROUNDS: usize = 24;
/// Tokens that a model reads at once where the configuration does not say.
const CONTEXT: u64 = 32_000;
/// What a model is told to do to a conversation that is too long.
const SUM_UP: &str = "Sum up this conversation so that it can go on from your summary alone: what is wanted, what was found \
    out, what was decided, what was done to which files, what is still to do. Keep names, paths and numbers. Write only the \
    summary.";

fn history(turn: &Turn<'_>) -> Result<Vec<Value>, SessionError> {
    turn.gateway.sessions().history(turn.session, HISTORY).map(|history| history.messages)
}

fn failed(turn: &mut Turn<'_>, why: String) -> End {
    turn.more = json!({"stopReason": FAILED});
    End::Error(why)
}

/// What a turn is about: the conversation, whom to ask, and with what.
struct Scene<'g> {
    talk: Talk,
    models: Vec<&'g Model>,
    brief: Brief,
    offer: Offer,
    chosen: Option<String>,
    thinking: Option<String>,
    spent: Usage,
}

async fn scene<'g>(turn: &Turn<'g>) -> Result<Scene<'g>, String> {
    let history = history(turn).map_err(|error| error.to_string())?;
    let models = turn.gateway.catalogue.order(turn.session, chosen(&history));
    if models.is_empty() {
        return Err(
            "no model is chosen: agents.defaults.model names one for all, /model one for this session".to_owned()
        );
    }
    let offer = tools::offered(turn.gateway, turn.session).await;
    let fence = turn.gateway.fence(turn.session);
    let files = brief::files(turn, &offer, &fence).await;
    let level = thinking(&history).and_then(Thinking::named).unwrap_or_default();
    Ok(Scene {
        talk: Talk::of(&history, &fence, offer.outside),
        brief: Brief { files, tools: offer.tools.clone(), thinking: level },
        models,
        chosen: chosen(&history).map(str::to_owned),
        thinking: thinking(&history).map(str::to_owned),
        spent: spent(&history),
        offer,
    })
}

/// Answers the person's message.
pub(crate) async fn answer(turn: &mut Turn<'_>, plan: &Plan) -> End {
    let mut scene = match scene(turn).await {
        Ok(scene) => scene,
        Err(why) => return failed(turn, why),
    };
    let context = scene.models.first().and_then(|model| model.context).unwrap_or(CONTEXT);
    if scene.talk.is_long(context) && scene.talk.items.len() > 1 {
        match shorten(turn, plan, &mut scene, "", true).await {
            Ok(_) => {}
            Err(Over::Stopped) => return End::Aborted,
            // It may fit all the same: what is too long loses its beginning.
            Err(Over::Failed(why)) => log(&format!("run {}: not compacted: {why}", plan.run_id)),
        }
    }
    for _ in 0..ROUNDS {
        let question = Question { talk: &scene.talk, brief: &scene.brief, aloud: true };
        let Asked { model, reply, .. } = match first_of(turn, plan, &scene.models, &question).await {
            Ok(asked) => asked,
            Err(Over::Stopped) => return End::Aborted,
            Err(Over::Failed(why)) => return failed(turn, why),
        };
        scene.spent = scene.spent.plus(reply.usage);
        let notes = scene.notes(model, &reply.stop, reply.usage);
        let calls = reply.calls();
        if calls.is_empty() {
            turn.more = notes;
            return End::Final;
        }
        let text = match turn.keep(&calls, &notes) {
            Ok(text) => text,
            Err(error) => return failed(turn, error.to_string()),
        };
        scene.talk.model(text, calls.clone(), reply.thoughts(), model.name.clone());
        for call in &calls {
            let outcome = match tools::run(turn, plan, &scene.offer, call).await {
                Ok(outcome) => outcome,
                Err(Stopped) => {
                    let text = "the person stopped it; what it did by then is done".to_owned();
                    let outcome = Outcome { id: call.id.clone(), name: call.name.clone(), text, is_error: true };
                    // Where this is not written down, the conversation mends itself when it is read.
                    let _ = turn.keep_result(&outcome);
                    return End::Aborted;
                }
            };
            if let Err(error) = turn.keep_result(&outcome) {
                return failed(turn, error.to_string());
            }
            scene.talk.result(outcome);
            if plan.stop.is_asked() {
                return End::Aborted;
            }
        }
    }
    failed(
        turn,
        format!("the model asked for tools {ROUNDS} times and did not answer; say \"go on\" to let it continue"),
    )
}

impl Scene<'_> {
    /// What the transcript keeps beside an answer: who gave it and what it cost, and what holds for the conversation, so that
    /// it is found again near its end.
    fn notes(&self, model: &Model, stop: &str, usage: Usage) -> Value {
        let (provider, id) = model.name.split_once('/').unwrap_or_default();
        let Usage { input, output, nanodollars } = usage;
        let mut notes = json!({
            "provider": provider, "model": id, "stopReason": stop,
            "usage": {"input": input, "output": output, "totalTokens": input.saturating_add(output),
                "cost": {"nanodollars": nanodollars}},
            "sessionUsage": {
                "input": self.spent.input, "output": self.spent.output, "nanodollars": self.spent.nanodollars,
            },
        });
        for (name, value) in [("modelOverride", &self.chosen), ("thinkingLevel", &self.thinking)] {
            if let (Some(value), Some(map)) = (value, notes.as_object_mut()) {
                map.insert(name.to_owned(), value.as_str().into());
            }
        }
        notes
    }
}

/// Has a model sum the conversation up, and goes on from that. Returns how many parts there were.
async fn shorten(
    turn: &mut Turn<'_>,
    plan: &Plan,
    scene: &mut Scene<'_>,
    focus: &str,
    keep_last: bool,
) -> Result<usize, Over> {
    let parts = scene.talk.items.len();
    let mut talk = scene.talk.clone();
    let last = if keep_last { talk.items.pop() } else { None };
    let mut wish = SUM_UP.to_owned();
    if !focus.is_empty() {
        wish.push_str(" What matters most: ");
        wish.push_str(focus);
    }
    // The wish is ours and no stranger's.
    talk.items.push(Item::Person(wish, Vec::new()));
    talk.outside = false;
    let brief = Brief::default();
    let question = Question { talk: &talk, brief: &brief, aloud: false };
    let Asked { model, reply, text } = first_of(turn, plan, &scene.models, &question).await?;
    scene.spent = scene.spent.plus(reply.usage);
    let mut notes = scene.notes(model, &reply.stop, reply.usage);
    if let Some(map) = notes.as_object_mut() {
        map.insert("keepsLast".to_owned(), keep_last.into());
    }
    let recorded = turn.gateway.sessions().record_with(turn.session, SUMMARY, &text, &notes);
    let summary = recorded.map_err(|error| Over::Failed(error.to_string()))?;
    scene.talk.shortened(&summary, last);
    Ok(parts)
}

/// `/compact`: makes the conversation shorter.
pub(crate) async fn compact(turn: &mut Turn<'_>, plan: &Plan, focus: &str) -> End {
    let mut scene = match scene(turn).await {
        Ok(scene) => scene,
        Err(why) => return failed(turn, why),
    };
    if scene.talk.items.len() < 2 {
        turn.say("There is nothing to make shorter.");
        return End::Final;
    }
    match shorten(turn, plan, &mut scene, focus, false).await {
        Ok(parts) => {
            turn.say(&format!("The conversation goes on from a summary of its {parts} parts."));
            End::Final
        }
        Err(Over::Stopped) => End::Aborted,
        Err(Over::Failed(why)) => failed(turn, why),
    }
}
