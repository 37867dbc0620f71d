//! Who is asked for answers.

use super::{Findings, Severity};
use crate::schema::{Config, ModelChoice, Provider, origin, secret};
use crate::source::join;

pub(super) fn rules(config: &Config, all: &mut Findings) {
    for (id, provider) in &config.models.providers {
        one(id, provider, all);
    }
    let agents = &config.agents;
    let own = agents.list.iter().enumerate().map(|(at, agent)| (format!("agents.list[{at}].model"), &agent.model));
    for (path, choice) in std::iter::once(("agents.defaults.model".to_owned(), &agents.defaults.model)).chain(own) {
        for name in choice.iter().flat_map(ModelChoice::names) {
            all.refuse_if(
                !config.models.has(name),
                "models.unknown",
                &path,
                &format!("{name:?} is not among models.providers"),
                "write it as provider/model, and list the model at its provider",
            );
            hygiene(name, &path, config.egress.allow.is_empty(), all);
        }
    }
}

/// Parameters, in billions, up to which upstream calls a model small.
const SMALL: f32 = 300.0;

/// What a model is known to be by its name. Upstream's three checks of 2026.1.30.
fn hygiene(name: &str, path: &str, web_is_closed: bool, all: &mut Findings) {
    let lower = name.to_ascii_lowercase();
    let model = lower.split_once('/').map_or(&*lower, |(_, model)| model);
    let words: Vec<&str> = model.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.')).collect();
    let mut push = |severity, id, title, detail, remediation| {
        all.push(severity, id, path, &format!("{name}: {title}"), detail, remediation);
    };
    let is_legacy = model.starts_with("gpt-3.5")
        || ["gpt-4-0314", "gpt-4-0613"].contains(&model)
        || matches!(words.as_slice(), ["claude", "instant" | "2" | "2.0" | "2.1", ..]);
    if is_legacy {
        push(
            Severity::Warn,
            "models.legacy",
            "an old generation",
            "it follows instructions that strangers hide in a text more readily than newer ones",
            "choose a model of the current generation",
        );
    } else if words.contains(&"haiku") || words.contains(&"mini") || words.contains(&"nano") {
        push(
            Severity::Warn,
            "models.weak_tier",
            "the smallest of its family",
            "smaller models resist hidden instructions less",
            "choose a larger one where strangers write to the agent",
        );
    }
    if words.iter().filter_map(|word| billions(word)).any(|size| size <= SMALL) {
        let (severity, detail) = if web_is_closed {
            (Severity::Info, "every conversation is in a sandbox without a network, which is what makes it bearable")
        } else {
            (Severity::Warn, "pages of the web, which egress.allow lets it read, can tell it what to do")
        };
        push(
            severity,
            "models.small_params",
            "a small model",
            detail,
            "keep egress.allow empty, or choose a larger one",
        );
    }
}

/// What a word like `8b`, `1.5b`, `e4b` says of parameters, in billions.
fn billions(word: &str) -> Option<f32> {
    let number = word.strip_suffix('b')?;
    let number = number.strip_prefix(|c: char| c.is_ascii_alphabetic()).unwrap_or(number);
    if !number.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    number.parse().ok().filter(|size: &f32| *size > 0.0)
}

fn one(id: &str, provider: &Provider, all: &mut Findings) {
    let path = join("models.providers", id);
    all.refuse_if(
        id.is_empty() || id.len() > 64 || id.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control()),
        "models.provider.id",
        &path,
        &format!("{id:?} is no id of a provider"),
        "an id has 1 to 64 characters, no slash and no space",
    );
    let rest = provider.base_url.splitn(4, '/').nth(3).unwrap_or_default();
    let odd = |c: char| matches!(c, '?' | '#') || c.is_whitespace() || c.is_control();
    all.refuse_if(
        origin(&provider.base_url).is_none() || rest.len() > 1024 || rest.contains(odd),
        "models.provider.base_url",
        &format!("{path}.baseUrl"),
        &format!("{:?} is not https://host[:port][/path]", provider.base_url),
        "write it as \"https://api.anthropic.com\", or \"http://localhost:11434/v1\" for a service on this machine",
    );
    all.refuse_if(
        provider.api_key.as_deref().is_some_and(|key| secret(key).is_none()),
        "models.secret_reference",
        &format!("{path}.apiKey"),
        "this is no name of a secret in the vault",
        &format!("put it into the vault, `moltbot secrets set {id}.key`, and name it here: \"vault:{id}.key\""),
    );
    let refresh = provider.refresh.as_ref();
    all.refuse_if(
        refresh.is_some_and(|refresh| origin(&refresh.url).is_none() || refresh.url.contains(odd)),
        "models.refresh.url",
        &format!("{path}.refresh.url"),
        "this is not https://host[:port]/path",
        "write the whole address of the server that gives new keys",
    );
    all.refuse_if(
        refresh.is_some_and(|refresh| secret(&refresh.credential).is_none()),
        "models.secret_reference",
        &format!("{path}.refresh.credential"),
        "this is no name of a secret in the vault",
        &format!("put it into the vault, `moltbot secrets set {id}.refresh`, and name it here: \"vault:{id}.refresh\""),
    );
    for (at, model) in provider.models.iter().enumerate() {
        all.refuse_if(
            model.id.is_empty() || model.id.len() > 200 || model.id.chars().any(char::is_control),
            "models.model.id",
            &format!("{path}.models[{at}].id"),
            &format!("{:?} is no name of a model", model.id),
            "write the provider's name for it, 1 to 200 characters",
        );
    }
}
