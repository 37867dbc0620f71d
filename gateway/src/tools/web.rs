//! `web_fetch`: something of the web, read for a model. The request leaves by egress, which reaches the hosts of the configuration
//! and no others; before it does, the conversation counts as one that strangers' words have reached.

use super::args::Args;
use super::{Ran, session_key};
use crate::agent::Plan;
use crate::model::calls::Call;
use crate::turn::Turn;
use proto::bounded::{BoundedBytes, BoundedStr, BoundedVec};
use proto::channel::{CallError, Outgoing};
use proto::edge::{Chunk as _, Refusal};
use proto::egress::{EgressChunk, EgressRequest, HeaderField};
use std::time::Duration;

/// Output that may be on its way from egress, in bytes.
const CREDIT: u32 = 256 * 1024;
/// How long a request waits for egress to be there.
const EGRESS_WAIT: Duration = Duration::from_secs(15);
/// Seconds that a server may be silent.
const PATIENCE_S: u16 = 30;
/// Bytes of a page that are read.
const MAX_PAGE: usize = 512 << 10;
/// Redirects that are followed, each to a host that may be reached.
const REDIRECTS: usize = 3;
/// Characters that a model is given where it does not say.
const CHARS: u64 = 12_000;

/// An address, taken apart.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Address {
    host: String,
    port: u16,
    path: String,
}

impl Address {
    fn of(url: &str) -> Result<Self, String> {
        let rest = url.strip_prefix("https://").ok_or("web_fetch: url must begin with https://")?;
        let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("web_fetch: url must be one of ASCII without spaces, without a user".to_owned());
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) => {
                (host, port.parse().map_err(|_| "web_fetch: url has a port that is none".to_owned())?)
            }
            None => (authority, 443),
        };
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { host: host.to_ascii_lowercase(), port, path })
    }

    /// Where a redirect leads.
    fn join(&self, location: &str) -> Result<Self, String> {
        if location.starts_with("//") {
            return Self::of(&format!("https:{location}"));
        }
        if location.starts_with('/') {
            return Self::of(&format!("https://{}:{}{location}", self.host, self.port));
        }
        Self::of(location)
    }
}

/// An answer.
struct Page {
    status: u16,
    kind: String,
    location: Option<String>,
    body: Vec<u8>,
    cut: bool,
}

enum Failed {
    Stopped,
    Why(String),
}

fn refused(refusal: &Refusal) -> Failed {
    Failed::Why(format!("refused: {refusal}"))
}

pub(super) async fn fetch(turn: &mut Turn<'_>, plan: &Plan, call: &Call) -> Result<Ran, super::Stopped> {
    match fetched(turn, plan, call).await {
        Ok(text) => Ok(Ran::ok(text)),
        Err(Failed::Why(why)) => Ok(Ran::error(why)),
        Err(Failed::Stopped) => Err(super::Stopped),
    }
}

async fn fetched(turn: &mut Turn<'_>, plan: &Plan, call: &Call) -> Result<String, Failed> {
    let args = Args::of(call, &["url", "extractMode", "maxChars"]).map_err(Failed::Why)?;
    let most = args.number("maxChars").map_err(Failed::Why)?.unwrap_or(CHARS).min(CHARS);
    let mut address = args.needed(&["url"]).and_then(Address::of).map_err(Failed::Why)?;
    let mut page = get(turn, plan, &address).await?;
    for _ in 0..REDIRECTS {
        let Some(location) = page.location.take().filter(|_| (300..400).contains(&page.status)) else { break };
        address = address.join(&location).map_err(Failed::Why)?;
        page = get(turn, plan, &address).await?;
    }
    if page.status != 200 {
        return Err(Failed::Why(format!("{} answered {}", address.host, page.status)));
    }
    let text = readable(&page).map_err(Failed::Why)?;
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let shown: String = text.chars().take(most).collect();
    let cut = page.cut || shown.len() < text.len();
    Ok(if cut { format!("{shown}\n[there is more; it is cut here]") } else { shown })
}

/// The text of a page for a reader.
fn readable(page: &Page) -> Result<String, String> {
    let kind = page.kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let text = || String::from_utf8_lossy(&page.body).into_owned();
    match kind.as_str() {
        "text/html" | "application/xhtml+xml" => {
            html2text::from_read(page.body.as_slice(), 100).map_err(|error| format!("the page does not read: {error}"))
        }
        kind if kind.starts_with("text/") || kind.ends_with("json") || kind.ends_with("xml") => Ok(text()),
        kind => Err(format!("it is {}, and no text", kind.chars().take(60).collect::<String>())),
    }
}

async fn get(turn: &mut Turn<'_>, plan: &Plan, address: &Address) -> Result<Page, Failed> {
    let long = |_| Failed::Why("web_fetch: url is too long".to_owned());
    let accept = HeaderField {
        name: BoundedStr::truncated("accept"),
        value: BoundedStr::truncated("text/html, text/plain, application/json;q=0.9, */*;q=0.1"),
    };
    let request = EgressRequest::Http {
        session: session_key(turn.session),
        credential: None,
        host: BoundedStr::new(address.host.as_str()).map_err(long)?,
        port: address.port,
        method: BoundedStr::truncated("GET"),
        path: BoundedStr::new(address.path.as_str()).map_err(long)?,
        headers: BoundedVec::new(vec![accept]).map_err(long)?,
        patience_s: PATIENCE_S,
        body: BoundedBytes::new(Vec::new()).map_err(long)?,
    };
    let mut stream = turn.gateway.egress.stream(&request, CREDIT, EGRESS_WAIT).await.map_err(|error| match error {
        CallError::Refused(refusal) => refused(&refusal),
        other => Failed::Why(format!("egress: {other}")),
    })?;
    let mut page = Page { status: 0, kind: String::new(), location: None, body: Vec::new(), cut: false };
    loop {
        let next = tokio::select! {
            next = stream.next() => next,
            // Dropped, the request is taken back.
            () = plan.stop.asked() => return Err(Failed::Stopped),
        };
        match next {
            Some(Outgoing::Chunk(chunk)) => {
                let cost = chunk.cost();
                match chunk {
                    EgressChunk::Head { status, headers } => {
                        let header = |name: &str| {
                            headers
                                .iter()
                                .find(|field| field.name.as_str() == name)
                                .map(|field| field.value.to_string())
                        };
                        page.status = status;
                        page.kind = header("content-type").unwrap_or_default();
                        page.location = header("location");
                    }
                    EgressChunk::Body(bytes) => {
                        let room = MAX_PAGE.saturating_sub(page.body.len()).min(bytes.len());
                        page.body.extend_from_slice(bytes.get(..room).unwrap_or_default());
                        if room < bytes.len() {
                            page.cut = true;
                            return Ok(page);
                        }
                    }
                }
                let _ = stream.credit(cost).await;
            }
            Some(Outgoing::Reply(..)) => return Ok(page),
            Some(Outgoing::Refused(refusal)) => return Err(refused(&refusal)),
            None => return Err(Failed::Why("egress ended before the answer did".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart_and_what_is_none_is_refused() {
        let of = |url| Address::of(url).map(|address| (address.host, address.port, address.path));
        assert_eq!(of("https://Docs.test"), Ok(("docs.test".to_owned(), 443, "/".to_owned())));
        assert_eq!(of("https://docs.test:8443/a?b=c#d"), Ok(("docs.test".to_owned(), 8443, "/a?b=c".to_owned())));
        assert_eq!(of("https://docs.test?x"), Ok(("docs.test".to_owned(), 443, "/?x".to_owned())));
        for url in [
            "http://docs.test/",
            "file:///etc/passwd",
            "https://me@docs.test/",
            "https://docs.test/a b",
            "https://docs.test:x/",
        ] {
            assert!(of(url).is_err(), "{url}");
        }
        let here = Address::of("https://docs.test/a").unwrap();
        assert_eq!(here.join("/b").unwrap().path, "/b");
        assert_eq!(here.join("//other.test/c").unwrap().host, "other.test");
        assert!(here.join("http://docs.test/").is_err());
    }

    #[test]
    fn page_is_made_readable_and_what_is_no_text_is_refused() {
        let page = |kind: &str, body: &[u8]| Page {
            status: 200,
            kind: kind.to_owned(),
            location: None,
            body: body.to_vec(),
            cut: false,
        };
        let html = b"<html><head><style>b{}</style><script>alert(1)</script></head><body><h1>Title</h1><p>Some <b>text</b>.</p></body>";
        let text = readable(&page("text/html; charset=utf-8", html)).unwrap();
        assert!(
            text.contains("Title") && text.contains("text") && !text.contains("alert") && !text.contains('<'),
            "{text}"
        );
        assert_eq!(readable(&page("application/json", b"{\"a\":1}")).unwrap(), "{\"a\":1}");
        assert!(readable(&page("image/png", b"x")).is_err());
    }
}
