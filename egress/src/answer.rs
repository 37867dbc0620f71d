//! An answer's head and body, taken apart as they come (RFC 9112). Every byte is the server's: what could be read in two
//! ways is refused, nothing is buffered beyond a head of [`MAX_HEAD`] bytes, and a body that the server compressed is not
//! taken, since a credential in it could not be seen.

use proto::edge::Refusal;

/// Longest head.
pub const MAX_HEAD: usize = 32 * 1024;
const MAX_HEADERS: usize = 96;
/// Longest line of a chunk's size or of a trailer.
const MAX_LINE: usize = 1024;
/// Headers that a caller has a use for.
const SHOWN: [&str; 6] = ["content-type", "location", "request-id", "retry-after", "x-request-id", "x-should-retry"];

/// How long a body is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Framing {
    Length(u64),
    Size,
    Data(u64),
    DataEnd,
    Trailer,
    Close,
    Over,
}

/// A head.
#[derive(Debug)]
pub struct Head {
    /// HTTP status.
    pub status: u16,
    /// What a caller is shown of its headers.
    pub headers: Vec<(String, String)>,
    /// What takes its body.
    pub body: Body,
}

impl Head {
    /// True where events come one by one, as of a model's answer.
    #[must_use]
    pub fn is_stream_of_events(&self) -> bool {
        let kind = self.headers.iter().find(|(name, _)| name == "content-type");
        kind.is_some_and(|(_, kind)| kind.to_ascii_lowercase().starts_with("text/event-stream"))
    }
}

fn bad(why: &str) -> Refusal {
    Refusal::new("egress.answer", &format!("the answer is not HTTP that can be read in one way: {why}"))
}

/// Takes a head from the beginning of `bytes`, and says how long it was; none while it is not complete.
///
/// # Errors
/// [`Refusal`].
pub fn head(bytes: &[u8]) -> Result<Option<(Head, usize)>, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut headers);
    let length = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return Ok(None),
        Ok(httparse::Status::Partial) => return Err(bad("a head without end")),
        Err(error) => return Err(bad(&error.to_string())),
    };
    let (status, version) = (parsed.code.unwrap_or_default(), parsed.version.unwrap_or_default());
    let (mut shown, mut length_said, mut chunked) = (Vec::new(), None, false);
    for header in parsed.headers.iter() {
        let name = header.name.to_ascii_lowercase();
        let value = std::str::from_utf8(header.value).map_err(|_| bad("a header that is not text"))?.trim();
        match name.as_str() {
            "content-length" => {
                let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
                let said: u64 = value.parse().ok().filter(|_| digits).ok_or_else(|| bad("a length that is none"))?;
                if length_said.replace(said).is_some_and(|before| before != said) {
                    return Err(bad("two lengths"));
                }
            }
            "transfer-encoding" => {
                if chunked || version == 0 || !value.eq_ignore_ascii_case("chunked") {
                    return Err(bad("a transfer coding other than chunked"));
                }
                chunked = true;
            }
            "content-encoding" if !value.eq_ignore_ascii_case("identity") => {
                let why = "the answer is compressed although that was not asked for; what is in it cannot be checked";
                return Err(Refusal::new("egress.encoded", why));
            }
            _ => {}
        }
        if SHOWN.contains(&name.as_str()) {
            shown.push((name, value.to_owned()));
        }
    }
    let framing = match (length_said, chunked) {
        (Some(_), true) => return Err(bad("a length and chunks")),
        _ if matches!(status, 100..=199 | 204 | 304) => Framing::Over,
        (Some(0), false) => Framing::Over,
        (Some(length), false) => Framing::Length(length),
        (None, true) => Framing::Size,
        (None, false) => Framing::Close,
    };
    let body = Body { framing, line: Vec::new() };
    Ok(Some((Head { status, headers: shown, body }, length)))
}

/// Takes a body apart.
#[derive(Debug)]
pub struct Body {
    framing: Framing,
    line: Vec<u8>,
}

impl Body {
    /// True where nothing more comes.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.framing == Framing::Over
    }

    /// True where the end of the connection is the end of the body.
    #[must_use]
    pub fn ends_with_connection(&self) -> bool {
        matches!(self.framing, Framing::Close | Framing::Over)
    }

    /// Takes bytes; appends what is body to `out`.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn take(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
        while let Some((first, rest)) = bytes.split_first() {
            match self.framing {
                Framing::Over => return Err(bad("bytes behind the answer")),
                Framing::Close => {
                    out.extend_from_slice(bytes);
                    return Ok(());
                }
                Framing::Length(left) | Framing::Data(left) => {
                    let count = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    let (data, behind) = bytes.split_at(count);
                    out.extend_from_slice(data);
                    bytes = behind;
                    let left = left.saturating_sub(u64::try_from(count).unwrap_or(u64::MAX));
                    self.framing = match (self.framing, left) {
                        (Framing::Length(_), 0) => Framing::Over,
                        (Framing::Length(_), left) => Framing::Length(left),
                        (_, 0) => Framing::DataEnd,
                        (_, left) => Framing::Data(left),
                    };
                }
                Framing::Size | Framing::DataEnd | Framing::Trailer => {
                    bytes = rest;
                    if self.line.len() >= MAX_LINE {
                        return Err(bad("a line without end"));
                    }
                    self.line.push(*first);
                    if *first == b'\n' {
                        self.framing = self.on_line()?;
                        self.line.clear();
                    }
                }
            }
        }
        Ok(())
    }

    fn on_line(&self) -> Result<Framing, Refusal> {
        let line = self.line.strip_suffix(b"\r\n").ok_or_else(|| bad("a line that ends without CR"))?;
        match self.framing {
            Framing::Size => {
                let digits = line.split(|byte| matches!(byte, b';' | b' ' | b'\t')).next().unwrap_or_default();
                let text = std::str::from_utf8(digits).unwrap_or_default();
                let is_hex = (1..=15).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
                let size = u64::from_str_radix(text, 16).ok().filter(|_| is_hex);
                match size.ok_or_else(|| bad("a chunk without a size"))? {
                    0 => Ok(Framing::Trailer),
                    size => Ok(Framing::Data(size)),
                }
            }
            Framing::DataEnd if line.is_empty() => Ok(Framing::Size),
            Framing::DataEnd => Err(bad("a chunk longer than its size")),
            // Trailers are nobody's: they are passed over.
            _ if line.is_empty() => Ok(Framing::Over),
            other => Ok(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn body(answer: &[u8], cut: usize) -> Result<(u16, Vec<u8>, bool), Refusal> {
        let (mut head, length) = head(answer)?.unwrap();
        let mut out = Vec::new();
        let rest = &answer[length..];
        let (one, two) = rest.split_at(cut.min(rest.len()));
        head.body.take(one, &mut out)?;
        head.body.take(two, &mut out)?;
        Ok((head.status, out, head.body.is_over()))
    }

    #[test]
    fn bodies_of_every_framing_are_taken_apart_at_every_border() {
        for (answer, expected) in [
            (&b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"[..], &b"hello"[..]),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nt: u\r\n\r\n",
                b"hello",
            ),
            (b"HTTP/1.1 204 No\r\n\r\n", b""),
            (b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", b""),
        ] {
            for cut in 0..answer.len() {
                let (_, out, over) = body(answer, cut).unwrap();
                assert!(out == expected && over, "{}", String::from_utf8_lossy(answer));
            }
        }
        let (status, out, over) = body(b"HTTP/1.1 404 No\r\n\r\nuntil the end", 3).unwrap();
        assert!(status == 404 && out == b"until the end" && !over);
    }

    #[test]
    fn head_in_pieces_is_waited_for_and_the_shown_headers_are_few() {
        let answer = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Type: text/plain\r\nContent-Length: 1\r\n\r\nx";
        for cut in 0..answer.len() - 1 {
            assert!(head(&answer[..cut]).unwrap().is_none(), "{cut}");
        }
        let (head, _) = head(answer).unwrap().unwrap();
        assert_eq!(head.headers, [("content-type".to_owned(), "text/plain".to_owned())]);
    }

    #[test]
    fn answers_with_two_readings_are_refused() {
        for answer in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
            b"SSH-2.0-x\r\n\r\n",
        ] {
            let refusal = body(answer, 0).unwrap_err();
            assert_eq!(refusal.rule.as_str(), "egress.answer", "{}", String::from_utf8_lossy(answer));
        }
        let refusal = body(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", 0).unwrap_err();
        assert_eq!(refusal.rule.as_str(), "egress.encoded");
        assert!(body(b"HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\n\r\nx", 0).is_ok());
    }

    #[test]
    fn head_or_line_without_end_is_refused() {
        let long = [b"HTTP/1.1 200 OK\r\nx: ".as_slice(), &[b'a'; MAX_HEAD]].concat();
        assert!(head(&long).is_err());
        let line = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;".as_slice(), &[b'a'; MAX_LINE]].concat();
        assert!(body(&line, 0).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer_or_a_refusal(bytes in prop::collection::vec(any::<u8>(), 0..400), chunked: bool) {
            let _ = head(&bytes);
            let framing = if chunked { Framing::Size } else { Framing::Length(100) };
            let (mut body, mut out) = (Body { framing, line: Vec::new() }, Vec::new());
            let _ = body.take(&bytes, &mut out);
            prop_assert!(out.len() <= bytes.len());
        }
    }
}
