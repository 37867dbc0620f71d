//! What a person chooses for a conversation: `/model`, `/think`; and how it stands. It is kept beside the answers in the
//! transcript.

use crate::model::messages::Thinking;
use crate::model::reply::Usage;
use crate::model::talk::{HISTORY, chosen, spent, thinking};
use crate::turn::{End, Turn};
use serde_json::{Value, json};

fn history(turn: &Turn<'_>) -> Vec<Value> {
    turn.gateway.sessions().history(turn.session, HISTORY).map(|history| history.messages).unwrap_or_default()
}

/// `/model`: which there are, or another one for this conversation.
pub(crate) fn model(turn: &mut Turn<'_>, wanted: &str) -> End {
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

/// `/think`: how much a model thinks before it answers in this conversation.
pub(crate) fn think(turn: &mut Turn<'_>, wanted: &str) -> End {
    let history = history(turn);
    match Thinking::named(&wanted.to_ascii_lowercase()) {
        Some(level) => {
            turn.more = json!({"thinkingLevel": level.name()});
            let order = turn.gateway.catalogue.order(turn.session, chosen(&history));
            let deaf = order.first().filter(|model| !model.reasoning && level != Thinking::Off);
            let note = deaf.map(|model| format!(" {} is not configured as one that does (`reasoning`).", model.name));
            turn.say(&format!("Thinking is {} from now on.{}", level.name(), note.unwrap_or_default()));
        }
        None => {
            let now = thinking(&history).and_then(Thinking::named).unwrap_or_default().name();
            turn.say(&format!("Thinking is {now}. /think off, low, medium or high chooses another."));
        }
    }
    End::Final
}

/// Billionths of a dollar for people.
pub(crate) fn dollars(nano: u64) -> String {
    let micros = nano / 1_000;
    format!("${}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

/// What this conversation asks, and what it has cost.
pub(crate) fn standing(turn: &Turn<'_>) -> String {
    let history = history(turn);
    let order = turn.gateway.catalogue.order(turn.session, chosen(&history));
    let names: Vec<&str> = order.iter().map(|model| model.name.as_str()).collect();
    let asked = if names.is_empty() { "none configured".to_owned() } else { names.join(", then ") };
    let Usage { input, output, nanodollars } = spent(&history);
    let level = thinking(&history).and_then(Thinking::named).unwrap_or_default().name();
    let cost = if nanodollars > 0 { format!(", {}", dollars(nanodollars)) } else { String::new() };
    format!("model: {asked}\nthinking: {level}\ntokens: {input} read, {output} written{cost}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dollars_are_written_to_the_millionth() {
        assert_eq!((dollars(0), dollars(1_234_567_890)), ("$0.000000".to_owned(), "$1.234567".to_owned()));
    }
}
