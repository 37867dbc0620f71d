//! Server-sent events out of bytes that come in any pieces (WHATWG HTML, section 9.2). The bytes are a provider's: whatever
//! they are, no more than one event is held.

/// Bytes that one event may have.
const MAX_EVENT: usize = 512 * 1024;

/// One event's data; its name says nothing that the data does not.
pub type Event = String;

/// Why a stream is none.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SseError {
    /// More than anybody sends at once.
    #[error("it sent an event of more than {MAX_EVENT} bytes")]
    TooLarge,
    /// Not text.
    #[error("it sent what is not UTF-8")]
    NotText,
}

/// What has come of an event.
#[derive(Debug, Default)]
pub struct Sse {
    line: Vec<u8>,
    data: Option<String>,
    /// The last byte was CR, so that a LF now belongs to it.
    cr: bool,
}

impl Sse {
    /// Takes bytes; returns the events that are complete.
    ///
    /// # Errors
    /// [`SseError`]; nothing more is to be taken then.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Event>, SseError> {
        let mut events = Vec::new();
        for byte in bytes {
            let after_cr = std::mem::replace(&mut self.cr, *byte == b'\r');
            match byte {
                b'\n' if after_cr => {}
                b'\n' | b'\r' => events.extend(self.on_line()?),
                _ => {
                    self.line.push(*byte);
                    let held = self.line.len().saturating_add(self.data.as_ref().map_or(0, String::len));
                    if held > MAX_EVENT {
                        return Err(SseError::TooLarge);
                    }
                }
            }
        }
        Ok(events)
    }

    fn on_line(&mut self) -> Result<Option<Event>, SseError> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return Ok(self.data.take());
        }
        let line = String::from_utf8(line).map_err(|_| SseError::NotText)?;
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        if field == "data" {
            let value = value.strip_prefix(' ').unwrap_or(value);
            match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn events_come_whole_whatever_ends_their_lines_and_wherever_they_are_cut() {
        for end in ["\n", "\r\n", "\r"] {
            let stream =
                [": ping", "", "event: x", "data: {\"a\":", "data:  1}", "id: 7", "", "data: [DONE]", "", ""].join(end);
            for cut in 0..stream.len() {
                let mut sse = Sse::default();
                let mut events = sse.push(&stream.as_bytes()[..cut]).unwrap();
                events.extend(sse.push(&stream.as_bytes()[cut..]).unwrap());
                assert_eq!(events, ["{\"a\":\n 1}", "[DONE]"], "{end:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn event_without_end_is_refused_and_one_below_the_bound_is_not() {
        let mut sse = Sse::default();
        assert_eq!(sse.push(&[b'x'; MAX_EVENT + 1]), Err(SseError::TooLarge));
        let mut sse = Sse::default();
        let line = [b"data: ".as_slice(), &[b'x'; MAX_EVENT - 6], b"\n"].concat();
        assert!(sse.push(&line).unwrap().is_empty());
        assert_eq!(sse.push(b"data: more than that\n"), Err(SseError::TooLarge));
        assert_eq!(Sse::default().push(b"data: \xff\n"), Err(SseError::NotText));
    }

    proptest! {
        #[test]
        fn any_bytes_give_events_or_an_error(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..10)) {
            let mut sse = Sse::default();
            for piece in pieces {
                if sse.push(&piece).is_err() {
                    break;
                }
            }
        }
    }
}
