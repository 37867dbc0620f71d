//! New credentials in an answer. Who asks with a credential may be given another one: an access token for a refresh token (RFC
//! 6749 section 5.1). Such an answer is not for gateway, so what comes behind the name of such a member is never given out.
//!
//! What this does not protect against: a server that gives credentials under other names, or in a stream of events, where a
//! model's words stand.

use proto::edge::Refusal;

/// Names as they stand in JSON and in a form.
const NAMES: [&[u8]; 6] =
    [b"\"access_token\"", b"\"refresh_token\"", b"\"id_token\"", b"access_token=", b"refresh_token=", b"id_token="];
/// The longest of them, less one: a name may begin in one piece and end in the next.
const KEPT: usize = 14;

/// Looks for them in one answer, in any pieces.
#[derive(Debug, Default)]
pub struct Issued {
    /// The end of what has come.
    tail: Vec<u8>,
}

impl Issued {
    /// Takes a piece, before it is given out.
    ///
    /// # Errors
    /// [`Refusal`], where the answer gives a new credential; nothing more of it is to be given out then.
    pub fn look(&mut self, piece: &[u8]) -> Result<(), Refusal> {
        self.tail.extend(piece.iter().map(u8::to_ascii_lowercase));
        let found = NAMES.iter().find(|name| self.tail.windows(name.len()).any(|window| window == **name));
        if let Some(name) = found {
            let name = String::from_utf8_lossy(name);
            let why = format!(
                "the answer gives a new credential ({}), which is not for gateway; `moltbot secrets rotate` takes one",
                name.trim_matches(['"', '='])
            );
            return Err(Refusal::new("egress.new_credential", &why));
        }
        let past = self.tail.len().saturating_sub(KEPT);
        self.tail.drain(..past);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(answer: &[u8], cut: usize) -> Result<(), Refusal> {
        let (one, two) = answer.split_at(cut);
        let mut issued = Issued::default();
        issued.look(one)?;
        issued.look(two)
    }

    #[test]
    fn new_credential_is_seen_wherever_its_answer_is_cut_and_talk_of_one_is_none() {
        for answer in [
            &br#"{"token_type":"bearer","Access_Token" : "x"}"#[..],
            br#"{"refresh_token":"x"}"#,
            br#"{"id_token":"x"}"#,
            b"token_type=bearer&access_token=x",
        ] {
            for cut in 0..=answer.len() {
                assert_eq!(look(answer, cut).unwrap_err().rule.as_str(), "egress.new_credential");
            }
        }
        for answer in [&br#"{"text":"your \"access_token\" is safe"}"#[..], b"access_tokens", b""] {
            for cut in 0..=answer.len() {
                assert!(look(answer, cut).is_ok());
            }
        }
    }

    #[test]
    fn longest_name_is_what_is_kept() {
        assert_eq!(NAMES.iter().map(|name| name.len() - 1).max(), Some(KEPT));
    }
}
