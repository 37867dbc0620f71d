//! The models of the configuration. Broker checked it; what it lacks all the same is a model that is not there.

use crate::agents::agent_of;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// How a provider is spoken to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Api {
    /// Anthropic's Messages.
    Anthropic,
    /// OpenAI's chat completions.
    OpenAi,
}

/// One model of one provider.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Model {
    /// Its name here, `provider/model`.
    pub name: String,
    /// Its name for people.
    pub shown: String,
    /// The provider's name for it.
    pub id: String,
    /// How it is spoken to.
    pub api: Api,
    /// The vault's name of the key, if it needs one.
    pub credential: Option<String>,
    /// Host of the provider.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What stands before the method's own path.
    pub path: String,
    /// Tokens that it writes at most.
    pub max_tokens: Option<u64>,
    /// Tokens that it reads at once.
    pub context: Option<u64>,
    /// It thinks before it answers, where it is told to.
    pub reasoning: bool,
    /// It takes images.
    pub images: bool,
    /// What it costs.
    pub cost: Cost,
    /// Where another key is had.
    pub refresh: Option<Refresh>,
}

/// Where another key is had when a provider does not take the one there is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refresh {
    /// The vault's name of what it is asked for with.
    pub credential: String,
    /// Host that gives it.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Path there.
    pub path: String,
}

impl Refresh {
    fn of(refresh: &Value) -> Option<Self> {
        let text = |name| refresh.get(name).and_then(Value::as_str);
        let (host, port, path) = split(text("url")?)?;
        Some(Self { credential: text("credential")?.strip_prefix("vault:")?.to_owned(), host, port, path })
    }
}

/// Billionths of a US dollar, for each token.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Cost {
    /// That it reads.
    pub input: u64,
    /// That it writes.
    pub output: u64,
}

impl Cost {
    /// From `cost` of the configuration: dollars for a million tokens.
    fn of(cost: Option<&Value>) -> Self {
        let nano = |kind| {
            let dollars = cost.and_then(|cost| cost.get(kind)).and_then(Value::as_f64).unwrap_or_default();
            // The configuration was checked: no less than 0 and no more than 10 000.
            let text = format!("{:.0}", (dollars * 1000.0).clamp(0.0, 1e7));
            text.parse().unwrap_or_default()
        };
        Self { input: nano("input"), output: nano("output") }
    }

    /// What this many tokens cost.
    #[must_use]
    pub const fn nanodollars(self, input: u64, output: u64) -> u64 {
        self.input.saturating_mul(input).saturating_add(self.output.saturating_mul(output))
    }
}

#[cfg(test)]
impl Model {
    /// One of no provider.
    pub(crate) fn of(api: Api) -> Self {
        Self {
            name: String::new(),
            shown: String::new(),
            id: String::new(),
            api,
            credential: None,
            host: "localhost".to_owned(),
            port: 80,
            path: String::new(),
            max_tokens: None,
            context: None,
            reasoning: false,
            images: false,
            cost: Cost::default(),
            refresh: None,
        }
    }
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    models: Vec<Model>,
    order: Vec<String>,
    /// By the agent's id, where it has an order of its own.
    own: BTreeMap<String, Vec<String>>,
}

fn split(url: &str) -> Option<(String, u16, String)> {
    let (rest, port) = match url.strip_prefix("https://") {
        Some(rest) => (rest, 443),
        None => (url.strip_prefix("http://")?, 80),
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, said)) if !said.ends_with(']') => (host, said.parse().ok()?),
        _ => (authority, port),
    };
    let path = path.trim_end_matches('/');
    let path = if path.is_empty() { String::new() } else { format!("/{path}") };
    Some((host.to_ascii_lowercase(), port, path))
}

impl Catalogue {
    /// Reads the configuration.
    #[must_use]
    pub fn of(config: &Value) -> Self {
        let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        let mut models = Vec::new();
        let providers = config.pointer("/models/providers").and_then(Value::as_object);
        for (id, provider) in providers.into_iter().flatten() {
            let api = match provider.get("api").and_then(Value::as_str) {
                Some("anthropic-messages") => Api::Anthropic,
                Some("openai-completions") => Api::OpenAi,
                _ => continue,
            };
            let Some((host, port, path)) = text(provider, "baseUrl").as_deref().and_then(split) else { continue };
            let credential = text(provider, "apiKey").and_then(|key| key.strip_prefix("vault:").map(str::to_owned));
            for model in provider.get("models").and_then(Value::as_array).into_iter().flatten() {
                let Some(model_id) = text(model, "id") else { continue };
                let shown = text(model, "name").unwrap_or_else(|| model_id.clone());
                models.push(Model {
                    shown,
                    name: format!("{id}/{model_id}"),
                    id: model_id,
                    api,
                    credential: credential.clone(),
                    host: host.clone(),
                    port,
                    path: path.clone(),
                    max_tokens: model.get("maxTokens").and_then(Value::as_u64),
                    context: model.get("contextWindow").and_then(Value::as_u64),
                    reasoning: model.get("reasoning").and_then(Value::as_bool).unwrap_or_default(),
                    images: model
                        .get("input")
                        .and_then(Value::as_array)
                        .is_some_and(|kinds| kinds.iter().any(|kind| kind == "image")),
                    cost: Cost::of(model.get("cost")),
                    refresh: provider.get("refresh").and_then(Refresh::of),
                });
            }
        }
        let choice = config.pointer("/agents/defaults/model");
        let names = |value: &Value| -> Vec<String> {
            let fallbacks = value.get("fallbacks").and_then(Value::as_array).into_iter().flatten();
            let primary = value.as_str().or_else(|| value.get("primary").and_then(Value::as_str));
            primary.into_iter().chain(fallbacks.filter_map(Value::as_str)).map(str::to_owned).collect()
        };
        let own = config.pointer("/agents/list").and_then(Value::as_array).into_iter().flatten();
        let own = own.filter_map(|agent| Some((text(agent, "id")?, names(agent.get("model")?))));
        let own = own.filter(|(_, order)| !order.is_empty()).collect();
        Self { models, order: choice.map(names).unwrap_or_default(), own }
    }

    /// The model of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Model> {
        self.models.iter().find(|model| model.name == name)
    }

    /// The models to ask, in order: the one that was chosen for the conversation, then those of its agent, or else of every agent.
    #[must_use]
    pub fn order(&self, session: &str, chosen: Option<&str>) -> Vec<&Model> {
        let mut order: Vec<&Model> = Vec::new();
        let configured = self.own.get(agent_of(session)).unwrap_or(&self.order);
        for name in chosen.into_iter().chain(configured.iter().map(String::as_str)) {
            if let Some(model) = self.find(name).filter(|model| !order.iter().any(|known| known.name == model.name)) {
                order.push(model);
            }
        }
        order
    }

    /// True where there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.models.is_empty()
    }

    /// Every model's name.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.models.iter().map(|model| model.name.as_str())
    }

    /// `models.list`.
    #[must_use]
    pub fn list(&self) -> Value {
        let row = |model: &Model| {
            let (provider, _) = model.name.split_once('/').unwrap_or_default();
            let input = if model.images { vec!["text", "image"] } else { vec!["text"] };
            json!({"id": model.id, "name": model.shown, "provider": provider, "contextWindow": model.context,
                "reasoning": model.reasoning, "input": input})
        };
        json!({"models": self.models.iter().map(row).collect::<Vec<_>>()})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_of_a_configuration_are_found_and_asked_in_its_order() {
        let config = json!({
            "models": {"providers": {
                "anthropic": {"baseUrl": "https://api.anthropic.com", "apiKey": "vault:anthropic.key",
                    "api": "anthropic-messages", "models": [{"id": "claude", "maxTokens": 8192, "input": ["text", "image"],
                        "cost": {"input": 3, "output": 15.5}}]},
                "local": {"baseUrl": "http://LOCALHOST:11434/v1/", "api": "openai-completions",
                    "models": [{"id": "a/b"}, {"id": "c"}]},
                "odd": {"baseUrl": "https://x", "api": "telepathy", "models": [{"id": "x"}]},
            }},
            "agents": {"defaults": {"model": {"primary": "anthropic/claude", "fallbacks": ["local/a/b", "odd/x"]}},
                "list": [{"id": "main"}, {"id": "work", "model": "local/c"}, {"id": "odd", "model": {"fallbacks": []}}]},
        });
        let catalogue = Catalogue::of(&config);
        let names = |chosen| {
            catalogue.order("agent:main:main", chosen).iter().map(|model| model.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(None), ["anthropic/claude", "local/a/b"]);
        assert_eq!(names(Some("local/c")), ["local/c", "anthropic/claude", "local/a/b"]);
        let own = |session, chosen| {
            catalogue.order(session, chosen).iter().map(|model| model.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(own("agent:work:main", None), ["local/c"]);
        assert_eq!(own("agent:work:x", Some("anthropic/claude")), ["anthropic/claude", "local/c"]);
        assert_eq!(own("agent:odd:main", None), names(None));
        assert_eq!(names(Some("gone/x")), ["anthropic/claude", "local/a/b"]);
        let claude = catalogue.find("anthropic/claude").unwrap();
        assert_eq!((claude.host.as_str(), claude.port, claude.path.as_str()), ("api.anthropic.com", 443, ""));
        assert_eq!(claude.credential.as_deref(), Some("anthropic.key"));
        assert_eq!((claude.images, claude.cost), (true, Cost { input: 3_000, output: 15_500 }));
        assert_eq!(claude.cost.nanodollars(2, 10), 161_000);
        let local = catalogue.find("local/a/b").unwrap();
        assert_eq!((local.host.as_str(), local.port, local.path.as_str()), ("localhost", 11434, "/v1"));
        assert_eq!((&local.credential, local.api), (&None, Api::OpenAi));
        assert_eq!(catalogue.list()["models"][0]["provider"], "anthropic");
        assert!(Catalogue::of(&json!({})).order("agent:main:main", None).is_empty());
    }
}
