//! Who is asked for answers.

use super::Findings;
use crate::schema::{Config, Provider, origin, secret};
use crate::source::join;

pub(super) fn rules(config: &Config, all: &mut Findings) {
    for (id, provider) in &config.models.providers {
        one(id, provider, all);
    }
    let Some(choice) = &config.agents.defaults.model else { return };
    for name in choice.names() {
        all.refuse_if(
            !config.models.has(name),
            "models.unknown",
            "agents.defaults.model",
            &format!("{name:?} is not among models.providers"),
            "write it as provider/model, and list the model at its provider",
        );
    }
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
