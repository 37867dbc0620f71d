//! `models`: who is asked for answers, in the shape that upstream's files have. A key is never here: `apiKey` names a secret
//! of the vault.

use super::scalar::Dollars;
use super::{choice, origin, section};
use crate::secrets::REFERENCE;
use std::collections::BTreeMap;

section! {
    /// `models`
    #[derive(Default)]
    pub struct Models {
        /// Providers by their id, which models are named with: `id/model`. They are reached without standing in `egress.allow`.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        pub providers: BTreeMap<String, Provider>,
    }
}

section! {
    /// `models.providers.<id>`
    #[derive(Default)]
    pub struct Provider {
        /// Where it is, as `https://api.anthropic.com`; without TLS only on this machine, as `http://localhost:11434/v1`.
        pub base_url: String,
        /// `vault:NAME`, the name of a secret in the vault. A key that stands here goes there at the start. A service of this
        /// machine may need none.
        #[serde(skip_serializing_if = "is_no_reference")]
        pub api_key: Option<String>,
        /// Where another key is had when this one is not taken any more.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub refresh: Option<Refresh>,
        /// How it is spoken to.
        pub api: Api,
        /// What it has.
        pub models: Vec<Model>,
    }
}

section! {
    /// `models.providers.<id>.refresh`
    #[derive(Default)]
    pub struct Refresh {
        /// The server's address, as `https://auth.example.org/oauth/token`.
        pub url: String,
        /// `vault:NAME`, a secret whose policy says `verb refresh`.
        pub credential: String,
    }
}

choice! {
    /// `models.providers.<id>.api`
    pub enum Api {
        /// Anthropic's Messages.
        AnthropicMessages,
        /// OpenAI's chat completions, which most others speak.
        #[default]
        OpenaiCompletions,
    }
}

section! {
    /// `models.providers.<id>.models[]`
    #[derive(Default)]
    pub struct Model {
        /// The provider's name for it.
        pub id: String,
        /// A name for people.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub name: Option<String>,
        /// Tokens that it reads at once; a conversation is summed up before it comes near that.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub context_window: Option<u64>,
        /// Tokens that it writes at most.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub max_tokens: Option<u64>,
        /// Whether it thinks before it answers, where `/think` says so; thoughts are not shown.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub reasoning: Option<bool>,
        /// What it takes: `text`, `image`.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub input: Vec<String>,
        /// What it costs, for what a conversation has cost.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub cost: Option<Cost>,
    }
}

section! {
    /// `models.providers.<id>.models[].cost`: US dollars for a million tokens.
    #[derive(Default)]
    pub struct Cost {
        /// That it reads.
        pub input: Dollars,
        /// That it writes.
        pub output: Dollars,
        /// That it reads from its cache. No effect: counted as read.
        pub cache_read: Dollars,
        /// That it puts there. No effect: counted as read.
        pub cache_write: Dollars,
    }
}

/// `agents.defaults.model`
#[derive(Clone, Debug, serde::Deserialize, Eq, PartialEq, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "expected \"provider/model\", or an object of primary and fallbacks")]
pub enum ModelChoice {
    /// One model, as `provider/model`.
    One(String),
    /// One, and what is asked where it fails.
    Several(Fallbacks),
}

section! {
    /// `agents.defaults.model` where there are fallbacks.
    #[derive(Default)]
    pub struct Fallbacks {
        /// Asked first.
        pub primary: String,
        /// Asked in this order where that one fails.
        pub fallbacks: Vec<String>,
    }
}

impl ModelChoice {
    /// All of them, the first first.
    pub(crate) fn names(&self) -> Vec<&str> {
        match self {
            Self::One(name) => vec![name],
            Self::Several(several) => {
                std::iter::once(&several.primary).chain(&several.fallbacks).map(String::as_str).collect()
            }
        }
    }
}

impl Models {
    /// Whether each provider is spoken to over TLS, and its `host:port`.
    pub(crate) fn origins(&self) -> impl Iterator<Item = (bool, String)> {
        let refresh =
            self.providers.values().filter_map(|provider| provider.refresh.as_ref()).map(|refresh| &refresh.url);
        self.providers.values().map(|provider| &provider.base_url).chain(refresh).filter_map(|url| origin(url))
    }

    /// What the key of this name may be used for, in the vault's words: to ask its one provider for answers, over TLS, in the
    /// header that its protocol has for keys. Nothing where no provider has it, or several, or one that has no name.
    pub(crate) fn key_policy(&self, name: &str) -> Option<String> {
        let of = |provider: &&Provider| provider.api_key.as_deref().and_then(secret) == Some(name);
        let mut providers = self.providers.values().filter(of);
        let (Some(provider), None) = (providers.next(), providers.next()) else { return None };
        let (true, at) = origin(&provider.base_url)? else { return None };
        let (host, port) = at.rsplit_once(':')?;
        let base = provider.base_url.splitn(4, '/').nth(3).unwrap_or_default().trim_end_matches('/');
        let (header, path) = match provider.api {
            Api::AnthropicMessages => ("x-api-key", "v1/messages"),
            Api::OpenaiCompletions => ("authorization\nprefix \"Bearer \"", "chat/completions"),
        };
        let base = if base.is_empty() { String::new() } else { format!("/{base}") };
        let named = host.contains(|c: char| c.is_ascii_alphabetic()) && !host.contains([':', '[', ']']);
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.' | '~');
        let one_reading = base.chars().all(plain) && !base.contains("//") && !base.contains("/.");
        (named && one_reading && base.len() <= 200).then(|| {
            format!(
                "verb inject\nrole egress\nheader {header}\nhost {host}\nport {port}\nmethod POST\npath {base}/{path}\n"
            )
        })
    }

    /// True where there is a model of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        let (id, model) = name.split_once('/').unwrap_or((name, ""));
        self.providers.get(id).is_some_and(|provider| provider.models.iter().any(|known| known.id == model))
    }
}

/// The name of a secret, where the text is a reference to one that the vault could have.
pub(crate) fn secret(reference: &str) -> Option<&str> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    reference.strip_prefix(REFERENCE).filter(|name| {
        (1..=64).contains(&name.len())
            && name.starts_with(|first: char| first.is_ascii_lowercase())
            && name.bytes().all(plain)
    })
}

/// What is no reference might be a secret, and is never written out.
fn is_no_reference(key: &Option<String>) -> bool {
    key.as_deref().and_then(secret).is_none()
}
