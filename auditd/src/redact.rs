//! Secrets taken out of texts before they are hashed, because nothing can be taken out afterwards.
//!
//! The texts are strangers': commands that a model wrote, reasons that another process gave. What is looked for, in this
//! order: the vault's own secrets, by fingerprints that do not give them away (`known`); what the operator's patterns
//! match (`patterns`); keys that show what they are by their shape (`shapes`); values given to a name that says what they
//! are (`named`); and what was drawn at random beside a word that speaks of keys (`random`). A rule that is too eager costs
//! a reader a word; one that is too shy costs a secret. But for the first, this is no wall: a secret that looks like
//! nothing goes through.
//!
//! What is taken out is replaced by the rule's name and a keyed fingerprint, so that equal values can be told to be equal
//! and cannot be tried out without the key.

use crate::chain::hex;
use std::borrow::Cow;
use std::ops::Range;
use zeroize::Zeroizing;

mod known;
mod named;
mod patterns;
mod random;
mod rules;
mod shapes;
mod words;

pub use known::{Known, fingerprint};
pub use patterns::{BadPattern, Patterns};
use rules::by_rules;
use shapes::{Set, run};

/// The rule by which the vault's own secrets go.
const VAULT: &str = "vault-secret";

/// Takes secrets out of texts.
pub struct Redactor {
    key: Zeroizing<[u8; 32]>,
    patterns: Patterns,
    known: Known,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Redactor")
    }
}

/// By what something goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Rule {
    Own(&'static str),
    /// The operator's, by its place in the configuration.
    Pattern(usize),
}

impl Rule {
    /// The lower, the more is known of what was found.
    fn rank(self) -> u8 {
        match self {
            Self::Own(VAULT) => 0,
            Self::Pattern(_) => 1,
            Self::Own(_) => 2,
        }
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Own(rule) => f.write_str(rule),
            Self::Pattern(place) => write!(f, "pattern-{place}"),
        }
    }
}

/// What a rule found: bytes of the text.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Span {
    rule: Rule,
    start: usize,
    end: usize,
}

impl Span {
    const fn new(rule: &'static str, start: usize, end: usize) -> Self {
        Self { rule: Rule::Own(rule), start, end }
    }
}

impl Redactor {
    /// With this key for fingerprints.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        Self { key: Zeroizing::new(*key), patterns: Patterns::default(), known: Known::default() }
    }

    /// Uses the operator's patterns as well.
    pub fn use_patterns(&mut self, patterns: Patterns) {
        self.patterns = patterns;
    }

    /// Knows these secrets of the vault from now on, and no others.
    pub fn learn(&mut self, known: Known) {
        self.known = known;
    }

    /// The text without what looks like a secret.
    #[must_use]
    pub fn clean<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut spans = Vec::new();
        by_rules(text, &mut spans);
        self.known.find(text, &mut spans);
        self.patterns.find(text, &mut spans);
        self.replace(text, spans)
    }

    /// The name without a secret of the vault's. What looks like another is left: a name must stay what it is.
    #[must_use]
    pub fn clean_name<'t>(&self, name: &'t str) -> Cow<'t, str> {
        let mut spans = Vec::new();
        self.known.find(name, &mut spans);
        self.replace(name, spans)
    }

    fn replace<'t>(&self, text: &'t str, mut spans: Vec<Span>) -> Cow<'t, str> {
        if spans.is_empty() {
            return Cow::Borrowed(text);
        }
        // What was replaced before is no secret.
        let marks = marks(text);
        spans.retain(|span| !marks.iter().any(|mark| span.start < mark.end && mark.start < span.end));
        spans.sort_unstable_by_key(|span| (span.start, span.end));
        let (mut clean, mut from) = (String::with_capacity(text.len()), 0);
        let mut spans = spans.into_iter().peekable();
        while let Some(mut span) = spans.next() {
            while let Some(next) = spans.next_if(|next| next.start < span.end) {
                let rule = if next.rule.rank() < span.rule.rank() { next.rule } else { span.rule };
                span = Span { rule, start: span.start, end: span.end.max(next.end) };
            }
            // An end within a character takes the whole of it.
            let (start, end) = (text.floor_char_boundary(span.start), text.ceil_char_boundary(span.end));
            let (Some(before), Some(value)) = (text.get(from..start), text.get(start..end)) else { continue };
            clean.push_str(before);
            clean.push_str(&format!("[redacted:{}:{}]", span.rule, self.fingerprint(value)));
            from = end;
        }
        clean.push_str(text.get(from..).unwrap_or_default());
        Cow::Owned(clean)
    }

    fn fingerprint(&self, value: &str) -> String {
        hex(fingerprint(&self.key, value.as_bytes()).get(..4).unwrap_or_default())
    }
}

/// Where texts stand that were replaced before.
fn marks(text: &str) -> Vec<Range<usize>> {
    let heads = text.match_indices("[redacted:");
    heads.filter_map(|(at, _)| Some(at..at + replaced(text.as_bytes().get(at..)?)?)).collect()
}

/// How long the replacement is that stands here, in exactly the form that [`Redactor::clean`] gives it.
fn replaced(bytes: &[u8]) -> Option<usize> {
    let head = b"[redacted:";
    let rest = bytes.strip_prefix(head)?;
    let of_rule = |byte: &&u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || **byte == b'-';
    let rule = rest.iter().take(24).take_while(of_rule).count();
    let fingerprint = rest.get(rule..)?.strip_prefix(b":")?;
    let whole = run(fingerprint, Set::Hex) == 8 && fingerprint.get(8) == Some(&b']');
    whole.then(|| head.len().saturating_add(rule).saturating_add(10))
}

#[cfg(test)]
mod tests;
