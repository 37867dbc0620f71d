//! Conversations that strangers' words have reached. Whoever met the words says so, and nobody can take it back but the operator:
//! what a model has read stays in what it says, and in the files that it wrote.
//!
//! Names of conversations come from gateway, egress and sandboxd and are hostile; the most that one of them gets by lying is a
//! conversation held more strictly. A table that is full says yes to every name.

use crate::audit::Log;
use crate::auth::{AskError, recorded};
use crate::codec::{Reader, Writer};
use crate::lend::{Desk, secret_record};
use crate::verbs::{changed, refuse};
use proto::bounded::{BoundedStr, BoundedVec};
use proto::ids::{Role, SessionKey};
use proto::taint::{TaintRow, TaintVerb};
use proto::vault::VaultAnswer;
use std::collections::BTreeMap;

/// Conversations at most.
pub const MOST: usize = 1024;
/// Longest name of a conversation.
const MAX_SESSION: usize = 128;
/// Longest reason.
const MAX_WHY: usize = 128;
/// Rows of one page.
const PAGE: usize = 32;

/// The table: conversation, and what reached it first.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Taints(BTreeMap<String, String>);

impl Taints {
    /// True where strangers' words have reached the conversation, or may have.
    #[must_use]
    pub fn has(&self, session: &str) -> bool {
        self.0.contains_key(session) || self.0.len() >= MOST
    }

    /// What reached it first, where it was marked.
    #[must_use]
    pub fn why(&self, session: &str) -> Option<&str> {
        self.0.get(session).map(String::as_str)
    }

    /// Marks one. True where it was not marked.
    pub fn add(&mut self, session: &str, why: &str) -> bool {
        if self.has(session) {
            return false;
        }
        self.0.insert(session.to_owned(), why.to_owned());
        true
    }

    /// Takes the mark off. True where there was one.
    pub fn clear(&mut self, session: &str) -> bool {
        self.0.remove(session).is_some()
    }

    /// Appends the table as the store has it.
    pub fn encode(&self, into: &mut Writer) {
        into.count(self.0.len());
        for (session, why) in &self.0 {
            into.bytes(session.as_bytes()).bytes(why.as_bytes());
        }
    }

    /// Reads the table.
    #[must_use]
    pub fn decode(from: &mut Reader<'_>) -> Option<Self> {
        let mut all = BTreeMap::new();
        for _ in 0..from.count(MOST)? {
            let session = from.text(MAX_SESSION)?.to_owned();
            all.insert(session, from.text(MAX_WHY)?.to_owned());
        }
        Some(Self(all))
    }
}

impl<L: Log> Desk<'_, L> {
    /// A role says that strangers' words reach the conversation now. Durable before it is answered.
    ///
    /// # Errors
    /// [`AskError`]; then whoever asked must not go on.
    pub fn taint(&mut self, session: &SessionKey, by: Role, why: &str) -> Result<(), AskError> {
        let name = session.0.as_str();
        if self.state.contents().taints.has(name) {
            return Ok(());
        }
        let why: BoundedStr<MAX_WHY> = BoundedStr::truncated(why);
        recorded(self.log, secret_record("", "taint", by.name(), true, &format!("{name}: {}", &*why)), "the mark")?;
        self.state.change_taints(|taints| taints.add(name, &why)).map_err(changed)?;
        Ok(())
    }

    /// May words of one conversation go into another? Words of strangers do not leave the conversation that they were said in,
    /// what they have reached does not go where strangers read, and wherever else it goes it marks.
    ///
    /// # Errors
    /// [`AskError`]; then nothing goes anywhere.
    pub fn carry(&mut self, from: &SessionKey, to: &SessionKey) -> Result<(), AskError> {
        let (name, into) = (from.0.as_str(), to.0.as_str());
        let marked = self.state.contents().taints.has(name);
        let refusal = if from.is_outside() {
            Some("strangers speak in this conversation, and nothing leaves it but answers")
        } else if marked && to.is_outside() {
            Some(
                "strangers' words have reached this conversation, and it says nothing where strangers read; \
                `moltbot sessions untaint KEY` says that they count no more",
            )
        } else {
            None
        };
        if let Some(why) = refusal {
            let detail = format!("{name}: to {into}: taint.no_way_out");
            recorded(self.log, secret_record("", "carry", "gateway", false, &detail), "the refusal")?;
            return Err(refuse("taint.no_way_out", why));
        }
        if marked { self.taint(to, Role::Gateway, &format!("the conversation {name}")) } else { Ok(()) }
    }

    /// May egress fetch something from this host for the conversation? It is marked by that, before a byte is read; and once it
    /// is marked, it reaches what marked it and nothing else: what it read could have it carry things out.
    ///
    /// # Errors
    /// [`AskError`].
    pub fn may_fetch(&mut self, session: &SessionKey, host: &str) -> Result<(), AskError> {
        let name = session.0.as_str();
        let taints = &self.state.contents().taints;
        let refusal = if session.is_outside() {
            Some("strangers speak in this conversation, and nothing leaves it but answers".to_owned())
        } else if taints.has(name) && taints.why(name) != Some(host) {
            let by = taints.why(name).unwrap_or("something that is not known");
            Some(format!(
                "this conversation has read {by}, and reaches nothing else since; another one can, or `moltbot sessions untaint KEY`"
            ))
        } else {
            None
        };
        match refusal {
            Some(why) => {
                let detail = format!("{name}: {host}: {why}");
                recorded(self.log, secret_record("", "fetch", "egress", false, &detail), "the refusal")?;
                Err(refuse("taint.no_way_out", &why))
            }
            None => self.taint(session, Role::Egress, host),
        }
    }

    /// May a credential be leased for the conversation? For one that strangers' words have reached, only what its answers need.
    ///
    /// # Errors
    /// [`AskError`].
    pub fn may_lease(&mut self, session: &SessionKey, credential: &str) -> Result<(), AskError> {
        let name = session.0.as_str();
        let strict = session.is_outside() || self.state.contents().taints.has(name);
        if !strict || self.state.is_answer(credential) {
            return Ok(());
        }
        let why = "strangers' words have reached this conversation, and it leases what its answers need and nothing else; \
            `moltbot sessions untaint KEY` says that they count no more";
        // The credential's name is the caller's word, and is not written as one that there is.
        let detail = format!("{name}: taint.no_lease");
        recorded(self.log, secret_record("", "lease", "egress", false, &detail), "the refusal")?;
        Err(refuse("taint.no_lease", why))
    }

    /// Carries out what the operator of this uid asks.
    ///
    /// # Errors
    /// [`AskError`]; where it is a refusal, nothing has changed.
    pub fn on_taint_verb(&mut self, uid: u32, verb: &TaintVerb) -> Result<VaultAnswer, AskError> {
        let who = format!("operator:{uid}");
        match verb {
            TaintVerb::List { after } => {
                let rows = self.state.contents().taints.0.iter();
                let rows = rows.filter(|(session, _)| session.as_str() > after.0.as_str()).take(PAGE);
                let rows = rows.map(|(session, why)| TaintRow {
                    session: SessionKey(BoundedStr::truncated(session)),
                    why: BoundedStr::truncated(why),
                });
                Ok(VaultAnswer::Taints(BoundedVec::new(rows.collect::<Vec<_>>()).unwrap_or_default()))
            }
            TaintVerb::Clear { session } => {
                let record = secret_record("", verb.name(), &who, true, session.0.as_str());
                recorded(self.log, record, "the verb")?;
                let was = self.state.change_taints(|taints| taints.clear(session.0.as_str())).map_err(changed)?;
                Ok(VaultAnswer::Done(u64::from(was)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::tests::Kept;
    use crate::lease::Leases;
    use crate::state::tests::Dirs;

    fn key(session: &str) -> SessionKey {
        SessionKey(BoundedStr::truncated(session))
    }

    #[test]
    fn mark_outlives_the_vault_and_the_operator_alone_takes_it_off() {
        let dirs = Dirs::new();
        let (mut state, mut leases, mut log) = (dirs.open().unwrap(), Leases::default(), Kept::default());
        let mut desk = Desk { state: &mut state, leases: &mut leases, log: &mut log, now_ms: 1 };
        desk.taint(&key("agent:main:main"), Role::Gateway, "read another conversation").unwrap();
        desk.taint(&key("agent:main:main"), Role::Egress, "again").unwrap();
        assert_eq!(log.records.len(), 1);
        drop(state);
        let mut state = dirs.open().unwrap();
        assert_eq!(state.contents().taints.why("agent:main:main"), Some("read another conversation"));
        assert!(!state.contents().taints.has("agent:main:work"));
        let mut desk = Desk { state: &mut state, leases: &mut leases, log: &mut log, now_ms: 1 };
        let clear = TaintVerb::Clear { session: key("agent:main:main") };
        assert!(matches!(desk.on_taint_verb(0, &clear), Ok(VaultAnswer::Done(1))));
        assert!(!state.contents().taints.has("agent:main:main"));
        assert_eq!(log.records.len(), 2);
    }

    #[test]
    fn mark_that_cannot_be_recorded_is_not_made_and_not_granted() {
        let dirs = Dirs::new();
        let (mut state, mut leases, mut log) = (dirs.open().unwrap(), Leases::default(), Kept::default());
        log.broken = true;
        let mut desk = Desk { state: &mut state, leases: &mut leases, log: &mut log, now_ms: 1 };
        assert!(desk.may_fetch(&key("agent:main:main"), "docs.test").is_err());
        assert!(!state.contents().taints.has("agent:main:main"));
    }

    #[test]
    fn conversation_that_fetched_reaches_that_host_alone_and_a_strangers_none() {
        let dirs = Dirs::new();
        let (mut state, mut leases, mut log) = (dirs.open().unwrap(), Leases::default(), Kept::default());
        let mut desk = Desk { state: &mut state, leases: &mut leases, log: &mut log, now_ms: 1 };
        let main = key("agent:main:main");
        desk.may_fetch(&main, "docs.test").unwrap();
        desk.may_fetch(&main, "docs.test").unwrap();
        let rule = |outcome: Result<(), AskError>| match outcome {
            Err(AskError::Refused(refusal)) => refusal.rule.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(rule(desk.may_fetch(&main, "evil.test")), "taint.no_way_out");
        assert_eq!(rule(desk.may_fetch(&key("agent:main:telegram:7"), "docs.test")), "taint.no_way_out");
        desk.may_fetch(&key("agent:main:work"), "evil.test").unwrap();
    }

    #[test]
    fn words_carry_their_mark_along_and_go_to_no_stranger() {
        let dirs = Dirs::new();
        let (mut state, mut leases, mut log) = (dirs.open().unwrap(), Leases::default(), Kept::default());
        let mut desk = Desk { state: &mut state, leases: &mut leases, log: &mut log, now_ms: 1 };
        let [main, work, strangers] = ["agent:main:main", "agent:main:work", "agent:main:telegram:7"].map(key);
        desk.carry(&main, &work).unwrap();
        desk.carry(&main, &strangers).unwrap();
        assert!(!desk.state.contents().taints.has("agent:main:work"), "the owner's words mark nothing");
        assert!(desk.carry(&strangers, &work).is_err());
        desk.taint(&main, Role::Egress, "docs.test").unwrap();
        assert!(desk.carry(&main, &strangers).is_err());
        desk.carry(&main, &work).unwrap();
        assert_eq!(desk.state.contents().taints.why("agent:main:work"), Some("the conversation agent:main:main"));
        desk.log.broken = true;
        assert!(desk.carry(&main, &key("agent:main:other")).is_err(), "what cannot be written down does not go on");
        assert!(!desk.state.contents().taints.has("agent:main:other"));
    }

    #[test]
    fn credential_that_answers_do_not_need_is_not_for_conversations_that_strangers_reach() {
        let dirs = Dirs::new();
        let (mut state, mut leases, mut log) = (dirs.open().unwrap(), Leases::default(), Kept::default());
        state.set_answers(vec!["model.key".to_owned()]);
        let mut desk = Desk { state: &mut state, leases: &mut leases, log: &mut log, now_ms: 1 };
        let (main, strangers) = (key("agent:main:main"), key("agent:main:telegram:7"));
        for name in ["model.key", "mail.key"] {
            desk.may_lease(&main, name).unwrap();
        }
        desk.may_lease(&strangers, "model.key").unwrap();
        assert!(desk.may_lease(&strangers, "mail.key").is_err());
        desk.taint(&main, Role::Gateway, "x").unwrap();
        desk.may_lease(&main, "model.key").unwrap();
        assert!(desk.may_lease(&main, "mail.key").is_err());
    }

    #[test]
    fn table_that_is_full_says_yes_to_every_name() {
        let mut taints = Taints::default();
        for at in 0..MOST {
            assert!(!taints.has("never seen"));
            assert!(taints.add(&format!("agent:main:s{at}"), "x"));
        }
        assert!(taints.has("never seen") && !taints.add("one more", "x"));
        let mut writer = Writer::new(64);
        taints.encode(&mut writer);
        let bytes = writer.finish();
        assert_eq!(Taints::decode(&mut Reader::new(&bytes)), Some(taints));
    }
}
