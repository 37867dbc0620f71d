//! What a secret may be used for: a policy in lines of `field value`, denied by default.
//!
//! The text comes from the operator. It is parsed strictly - a field that is unknown, stands twice or does not fit the verb
//! refuses the whole - and written back in one canonical form, whose hash is bound to the envelope. There is no verb that
//! returns bytes to a role: `reveal yes` is about the operator at broker's socket and nobody else.

use crate::days::Bounds;
use proto::bounded::BoundedStr;
use proto::ids::Role;
use proto::vault::CredentialSlot;
use std::fmt;

mod slot;

pub use slot::PathSlot;

/// Longest text of a policy, in bytes.
pub const MAX_TEXT: usize = 4096;
/// Values of one repeatable field at most.
pub const MAX_LIST: usize = 16;
/// Longest life of a lease, in seconds.
pub const MAX_TTL: u64 = 60;

/// What a role may do with a secret.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verb {
    /// egress puts it into a header of a request, or in front of its path.
    Inject,
    /// The vault computes HMAC-SHA256 with it over what egress gives; the bytes stay.
    Sign,
    /// The vault checks an HMAC-SHA256 that gateway gives; one bit leaves.
    Verify,
    /// egress asks a server for another secret with it, and gives that to the vault.
    Refresh,
}

impl Verb {
    const ALL: [Self; 4] = [Self::Inject, Self::Sign, Self::Verify, Self::Refresh];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inject => "inject",
            Self::Sign => "sign",
            Self::Verify => "verify",
            Self::Refresh => "refresh",
        }
    }

    /// The one role that may.
    #[must_use]
    pub const fn role(self) -> Role {
        match self {
            Self::Inject | Self::Sign | Self::Refresh => Role::Egress,
            Self::Verify => Role::Gateway,
        }
    }
}

/// So many uses in so many seconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rate {
    /// Uses.
    pub uses: u32,
    /// Seconds.
    pub seconds: u32,
}

/// What is allowed, all of it at once.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Grant {
    /// What may be done.
    pub verb: Verb,
    /// Which role may.
    pub role: Role,
    /// What for; for a person.
    pub purpose: String,
    /// Exact host names, lower case.
    pub hosts: Vec<String>,
    /// The port.
    pub port: u16,
    /// HTTP methods.
    pub methods: Vec<String>,
    /// Path prefixes; one without a slash at its end is a whole segment. Where there is a slot in the path, they are of what
    /// comes behind it.
    pub paths: Vec<String>,
    /// Header that it goes into, lower case.
    pub header: String,
    /// Text before it in that header.
    pub prefix: String,
    /// Where in a path it goes, in place of a header.
    pub slot: Option<PathSlot>,
    /// How often.
    pub rate: Option<Rate>,
    /// Uses in all.
    pub budget: Option<u64>,
    /// Bytes of one answer at most.
    pub bytes: Option<u64>,
    /// What a day may move and cost.
    pub day: Bounds,
    /// The secret that a new one goes into.
    pub into: String,
    /// Who asks for it, as the server knows it.
    pub client: String,
    /// Seconds that a lease lives.
    pub ttl: u64,
    /// True where each use needs the operator's word.
    pub approval: bool,
}

/// The policy of one secret. The default allows nothing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Policy {
    /// What roles may do, if anything.
    pub grant: Option<Grant>,
    /// The operator may have it printed.
    pub reveal: bool,
    /// Nobody ever uses it in earnest: any use is an incident.
    pub honey: bool,
}

/// Why a text is no policy. Names the line, from 1.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PolicyError {
    /// Too long.
    #[error("a policy has at most {MAX_TEXT} bytes")]
    TooLong,
    /// No such field.
    #[error("line {0}: there is no field {1:?}")]
    Unknown(usize, String),
    /// Twice, or too often.
    #[error("line {0}: {1} stands here once too often")]
    Again(usize, &'static str),
    /// Not a value of that field.
    #[error("line {0}: {1} {2}")]
    Value(usize, &'static str, &'static str),
    /// The verb needs it.
    #[error("{0} needs {1}")]
    Missing(&'static str, &'static str),
    /// The verb has no use for it.
    #[error("{0} has no use for {1}")]
    Superfluous(&'static str, &'static str),
}

/// Fields as they stand in the text, before they are made into a policy.
#[derive(Default)]
struct Fields<'t> {
    one: Vec<(&'static str, usize, &'t str)>,
}

const SINGLE: [&str; 20] = [
    "verb",
    "role",
    "purpose",
    "port",
    "header",
    "prefix",
    "slot",
    "rate",
    "budget",
    "bytes",
    "day-bytes",
    "day-tokens",
    "day-usd",
    "price",
    "into",
    "client",
    "ttl",
    "approval",
    "reveal",
    "honey",
];
const MANY: [&str; 3] = ["host", "method", "path"];

impl<'t> Fields<'t> {
    fn read(text: &'t str) -> Result<Self, PolicyError> {
        let mut fields = Self::default();
        for (at, line) in text.lines().enumerate() {
            let (number, line) = (at + 1, line.trim());
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (field, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let known = SINGLE.iter().chain(&MANY).find(|known| **known == field).copied();
            let field = known.ok_or_else(|| PolicyError::Unknown(number, field.chars().take(40).collect()))?;
            let allowed = if MANY.contains(&field) { MAX_LIST } else { 1 };
            if fields.all(field).count() >= allowed {
                return Err(PolicyError::Again(number, field));
            }
            fields.one.push((field, number, value.trim()));
        }
        Ok(fields)
    }

    fn all(&self, field: &'static str) -> impl Iterator<Item = (usize, &'t str)> {
        self.one.iter().filter(move |(name, ..)| *name == field).map(|(_, line, value)| (*line, *value))
    }

    fn get<V>(
        &self,
        field: &'static str,
        wanted: &'static str,
        parse: impl Fn(&'t str) -> Option<V>,
    ) -> Result<Option<V>, PolicyError> {
        let value = self.all(field).next();
        value.map(|(line, value)| parse(value).ok_or(PolicyError::Value(line, field, wanted))).transpose()
    }

    fn list(
        &self,
        field: &'static str,
        wanted: &'static str,
        is_one: impl Fn(&str) -> bool,
    ) -> Result<Vec<String>, PolicyError> {
        let mut list = Vec::new();
        for (line, value) in self.all(field) {
            if !is_one(value) {
                return Err(PolicyError::Value(line, field, wanted));
            }
            list.push(value.to_owned());
        }
        list.sort_unstable();
        list.dedup();
        Ok(list)
    }
}

fn yes_or_no(value: &str) -> Option<bool> {
    match value {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

/// A number as a person writes it: no sign, no zero in front, so that it has one form.
fn number<N: std::str::FromStr + PartialOrd + From<u8>>(value: &str) -> Option<N> {
    let plain = value.bytes().all(|byte| byte.is_ascii_digit()) && !value.starts_with('0');
    value.parse().ok().filter(|number: &N| plain && *number >= N::from(1))
}

fn rate(value: &str) -> Option<Rate> {
    let (uses, seconds) = value.split_once('/')?;
    // What was used within the window is remembered one by one.
    let bounded = |number: &u32| *number <= 10_000;
    Some(Rate { uses: number(uses).filter(bounded)?, seconds: number(seconds).filter(|of: &u32| *of <= 86_400)? })
}

/// Millionths of a dollar, of an amount as a person writes it: `2`, `0.25`.
fn dollars(value: &str) -> Option<u64> {
    let (whole, part) = value.split_once('.').unwrap_or((value, ""));
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let dangling = value.ends_with('.') || part.len() > 6 || whole.is_empty() || whole.len() > 7;
    if dangling || !plain(whole) || !plain(part) || (whole.len() > 1 && whole.starts_with('0')) {
        return None;
    }
    format!("{whole}{part:0<6}").parse().ok()
}

/// The one form of an amount.
fn amount(micro: u64) -> String {
    let text = format!("{}.{:06}", micro / 1_000_000, micro % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn price(value: &str) -> Option<(u64, u64)> {
    let (read, written) = value.split_once('/')?;
    Some((dollars(read)?, dollars(written)?))
}

fn printable(value: &str, most: usize) -> bool {
    !value.is_empty() && value.len() <= most && value.bytes().all(|byte| (b' '..0x7f).contains(&byte) && byte != b'"')
}

fn is_host(value: &str) -> bool {
    let character = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
    (1..=253).contains(&value.len())
        && value.bytes().all(character)
        && value.split('.').all(|label| (1..=63).contains(&label.len()))
        && !value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

fn is_method(value: &str) -> bool {
    (1..=16).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_uppercase())
}

fn is_header(value: &str) -> bool {
    let character = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=64).contains(&value.len()) && value.bytes().all(character)
}

/// True where a path has one reading: absolute, no dot segment, no empty one, no encoded slash, dot or backslash.
#[must_use]
pub fn is_plain_path(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    path.starts_with('/')
        && path.bytes().all(|byte| (b'!'..0x7f).contains(&byte) && byte != b'\\')
        && !path.contains("//")
        && !["%2f", "%5c", "%2e", "%00", "%25", "%3b"].iter().any(|bad| lower.contains(bad))
        && path.split('/').all(|segment| !matches!(segment.split(';').next(), Some("." | "..")))
}

fn quoted(value: &str) -> Option<String> {
    let inner = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
    printable(inner, 32).then(|| inner.to_owned())
}

impl Policy {
    /// Reads a policy.
    ///
    /// # Errors
    /// [`PolicyError`], for the operator to read.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        if text.len() > MAX_TEXT {
            return Err(PolicyError::TooLong);
        }
        let fields = Fields::read(text)?;
        let flag = |field| fields.get(field, "is yes or no", yes_or_no).map(Option::unwrap_or_default);
        let (reveal, honey) = (flag("reveal")?, flag("honey")?);
        let verb = |value: &str| Verb::ALL.into_iter().find(|verb| verb.name() == value);
        let Some(verb) = fields.get("verb", "is inject, sign, verify or refresh; no role may reveal", verb)? else {
            let other = fields.one.iter().find(|(field, ..)| *field != "reveal" && *field != "honey");
            return match other {
                Some((field, ..)) => Err(PolicyError::Missing(field, "a verb")),
                None => Ok(Self { grant: None, reveal, honey }),
            };
        };
        let grant = Grant::of(verb, &fields, flag("approval")?)?;
        Ok(Self { grant: Some(grant), reveal, honey })
    }
}

impl Grant {
    fn of(verb: Verb, fields: &Fields<'_>, approval: bool) -> Result<Self, PolicyError> {
        let path = |value: &str| value.len() <= 256 && is_plain_path(value) && !value.contains(['?', '#']);
        let role = fields.get("role", "is another role than this verb's", |value| {
            (value == verb.role().name()).then(|| verb.role())
        })?;
        let purpose = |value: &str| printable(value, 64).then(|| value.to_owned());
        let grant = Self {
            verb,
            role: role.ok_or(PolicyError::Missing(verb.name(), "a role"))?,
            purpose: fields.get("purpose", "is 1 to 64 printable characters", purpose)?.unwrap_or_default(),
            hosts: fields.list("host", "is a lower-case host name; no wildcard, no address", is_host)?,
            port: fields.get("port", "is 1 to 65535", number)?.unwrap_or(443),
            methods: fields.list("method", "is an HTTP method in capitals", is_method)?,
            paths: fields.list("path", "is a plain path that begins with /", path)?,
            header: fields
                .get("header", "is a lower-case header name", |value| is_header(value).then(|| value.to_owned()))?
                .unwrap_or_default(),
            prefix: fields.get("prefix", "is 1 to 32 printable characters", quoted)?.unwrap_or_default(),
            slot: fields.get("slot", slot::WANTED, PathSlot::parse)?,
            rate: fields.get("rate", "is USES/SECONDS, at most 10000/86400", rate)?,
            budget: fields.get("budget", "is a number from 1", number)?,
            bytes: fields.get("bytes", "is a number from 1", number)?,
            day: Bounds {
                bytes: fields.get("day-bytes", "is a number from 1", number)?,
                tokens: fields.get("day-tokens", "is a number from 1", number)?,
                microdollars: fields
                    .get("day-usd", "is an amount of dollars, as 2.50", |value| dollars(value).filter(|it| *it > 0))?,
                price: fields.get("price", "is READ/WRITTEN, dollars for a million tokens, as 3/15", price)?,
            },
            into: fields
                .get("into", "is the name of a secret", |value| {
                    crate::envelope::is_name(value).then(|| value.to_owned())
                })?
                .unwrap_or_default(),
            client: fields
                .get("client", "is 1 to 128 printable characters", |value| {
                    printable(value, 128).then(|| value.to_owned())
                })?
                .unwrap_or_default(),
            ttl: fields
                .get("ttl", "is 1 to 60 seconds", |value| number(value).filter(|ttl| *ttl <= MAX_TTL))?
                .unwrap_or(MAX_TTL),
            approval,
        };
        grant.fits(fields)?;
        Ok(grant)
    }

    /// Where egress puts it.
    #[must_use]
    pub fn place(&self) -> CredentialSlot {
        match &self.slot {
            Some(slot) => slot.told(),
            None if self.header.is_empty() => CredentialSlot::Nowhere,
            None => CredentialSlot::Header {
                name: BoundedStr::truncated(&self.header),
                prefix: BoundedStr::truncated(&self.prefix),
            },
        }
    }

    /// Each verb has the fields that it needs, and none that would read as if it meant something.
    fn fits(&self, fields: &Fields<'_>) -> Result<(), PolicyError> {
        let (needs, idle): (&[&str], &[&str]) = match self.verb {
            Verb::Inject if self.slot.is_some() => {
                (&["host", "method", "path"], &["header", "prefix", "into", "client"])
            }
            Verb::Inject => (&["host", "method", "path", "header"], &["into", "client"]),
            Verb::Sign => (
                &["host", "method", "path"],
                &["header", "prefix", "slot", "bytes", "day-bytes", "day-tokens", "day-usd", "price", "into", "client"],
            ),
            Verb::Refresh => (
                &["host", "method", "path", "into"],
                &["header", "prefix", "slot", "bytes", "day-bytes", "day-tokens", "day-usd", "price"],
            ),
            Verb::Verify => (
                &[],
                &[
                    "host",
                    "port",
                    "method",
                    "path",
                    "header",
                    "prefix",
                    "slot",
                    "bytes",
                    "day-bytes",
                    "day-tokens",
                    "day-usd",
                    "price",
                    "into",
                    "client",
                    "ttl",
                ],
            ),
        };
        match (self.day.microdollars, self.day.price) {
            (Some(_), None) => return Err(PolicyError::Missing("day-usd", "price")),
            (None, Some(_)) => return Err(PolicyError::Missing("price", "day-usd")),
            _ => {}
        }
        let known = |field: &str| SINGLE.iter().chain(&MANY).find(|known| **known == field).copied().unwrap_or("");
        if let Some(lacks) = needs.iter().map(|field| known(field)).find(|field| fields.all(field).next().is_none()) {
            return Err(PolicyError::Missing(self.verb.name(), lacks));
        }
        match idle.iter().map(|field| known(field)).find(|field| fields.all(field).next().is_some()) {
            Some(idle) => Err(PolicyError::Superfluous(self.verb.name(), idle)),
            None => Ok(()),
        }
    }
}

/// The canonical text: fields in one order, lists sorted, defaults left out. Parses to the same policy.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(grant) = &self.grant {
            writeln!(f, "verb {}\nrole {}", grant.verb.name(), grant.role)?;
            let text = [
                ("purpose", &grant.purpose),
                ("header", &grant.header),
                ("into", &grant.into),
                ("client", &grant.client),
            ];
            for (field, value) in text.into_iter().filter(|(_, value)| !value.is_empty()) {
                writeln!(f, "{field} {value}")?;
            }
            if !grant.prefix.is_empty() {
                writeln!(f, "prefix \"{}\"", grant.prefix)?;
            }
            if let Some(slot) = &grant.slot {
                writeln!(f, "slot {slot}")?;
            }
            for (field, list) in [("host", &grant.hosts), ("method", &grant.methods), ("path", &grant.paths)] {
                for value in list {
                    writeln!(f, "{field} {value}")?;
                }
            }
            if grant.verb != Verb::Verify {
                writeln!(f, "port {}\nttl {}", grant.port, grant.ttl)?;
            }
            if let Some(rate) = grant.rate {
                writeln!(f, "rate {}/{}", rate.uses, rate.seconds)?;
            }
            if let Some(budget) = grant.budget {
                writeln!(f, "budget {budget}")?;
            }
            if let Some(bytes) = grant.bytes {
                writeln!(f, "bytes {bytes}")?;
            }
            let Bounds { bytes, tokens, microdollars, price } = grant.day;
            for (field, bound) in [("day-bytes", bytes), ("day-tokens", tokens)] {
                if let Some(bound) = bound {
                    writeln!(f, "{field} {bound}")?;
                }
            }
            if let (Some(micro), Some((read, written))) = (microdollars, price) {
                writeln!(f, "day-usd {}\nprice {}/{}", amount(micro), amount(read), amount(written))?;
            }
            if grant.approval {
                f.write_str("approval yes\n")?;
            }
        }
        for (field, _) in [("reveal", self.reveal), ("honey", self.honey)].into_iter().filter(|(_, set)| *set) {
            writeln!(f, "{field} yes")?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
