//! Who may run what: questions that wait for the operator, and grants. A pure table without clock or log.
//!
//! sandboxd asks, the operator answers, and nobody else has a word for either. Everything is in memory alone: a vault that
//! starts anew knows of no approval, so there is none that an older store could bring back, and none is used twice.

use proto::approval::{ApprovalId, ApprovalRow, Subject};
use proto::bounded::{BoundedStr, BoundedVec};
use proto::ids::SessionKey;
use std::collections::BTreeMap;

/// Questions at once; more would be a flood that nobody reads.
pub const MOST_QUESTIONS: usize = 16;
/// Questions of one conversation at once.
pub const MOST_OF_SESSION: usize = 4;
/// Grants at once.
pub const MOST_GRANTS: usize = 64;
/// Longest life of a grant, in seconds.
pub const LONGEST_S: u32 = 7 * 24 * 3600;
/// Longest wait for an answer, in seconds.
pub const LONGEST_WAIT_S: u32 = 24 * 3600;
/// How long an answer waits to be collected, in milliseconds.
const UNCOLLECTED_MS: u64 = 60_000;

/// SHA-256 of a subject.
pub type Digest = [u8; 32];

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Open,
    Approved,
    Denied,
}

#[derive(Debug)]
struct Question {
    subject: Box<Subject>,
    digest: Digest,
    nonce: [u8; 32],
    until_ms: u64,
    state: State,
}

#[derive(Debug)]
struct Grant {
    session: SessionKey,
    command: BoundedStr<256>,
    digest: Digest,
    until_ms: u64,
    uses: u32,
}

/// What came of a question.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answer {
    /// Nothing yet.
    Waiting(ApprovalId),
    /// It may run, once; what the token is over.
    Approved(ApprovalId, Digest, [u8; 32]),
    /// It may not.
    Denied,
    /// Nobody said anything in time, or it was revoked.
    Lapsed,
}

/// Why it is not done.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ApprovalError {
    /// Too many wait.
    #[error("too many commands wait for an approval already; answer those first")]
    Crowded,
    /// No such number.
    #[error("nothing of this number waits: it was answered, withdrawn, or is too old")]
    Unknown,
    /// Outside the bounds.
    #[error("an approval is for 1 to 1000 uses and for 7 days at most; for more than one use it needs a time")]
    Bounds,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Approvals {
    last: u32,
    questions: BTreeMap<ApprovalId, Question>,
    grants: BTreeMap<ApprovalId, Grant>,
}

fn left_s(until_ms: u64, now_ms: u64) -> u32 {
    u32::try_from(until_ms.saturating_sub(now_ms).div_ceil(1_000)).unwrap_or(u32::MAX)
}

impl Approvals {
    fn forget_old(&mut self, now_ms: u64) {
        self.questions.retain(|_, question| question.until_ms > now_ms);
        self.grants.retain(|_, grant| grant.until_ms > now_ms && grant.uses > 0);
    }

    /// sandboxd asks. A grant for the same subject, which the session is part of, answers at once and has one use less.
    ///
    /// # Errors
    /// [`ApprovalError::Crowded`].
    pub fn ask(
        &mut self,
        subject: Box<Subject>,
        digest: Digest,
        nonce: [u8; 32],
        timeout_s: u32,
        now_ms: u64,
    ) -> Result<Answer, ApprovalError> {
        self.forget_old(now_ms);
        if let Some((id, grant)) = self.grants.iter_mut().find(|(_, grant)| grant.digest == digest) {
            grant.uses = grant.uses.saturating_sub(1);
            return Ok(Answer::Approved(*id, digest, nonce));
        }
        let of_session = self.questions.values().filter(|question| question.subject.session == subject.session).count();
        if self.questions.len() >= MOST_QUESTIONS || of_session >= MOST_OF_SESSION {
            return Err(ApprovalError::Crowded);
        }
        let id = self.next();
        let until_ms = now_ms.saturating_add(u64::from(timeout_s.clamp(1, LONGEST_WAIT_S)).saturating_mul(1_000));
        self.questions.insert(id, Question { subject, digest, nonce, until_ms, state: State::Open });
        Ok(Answer::Waiting(id))
    }

    fn next(&mut self) -> ApprovalId {
        self.last = self.last.saturating_add(1);
        ApprovalId(self.last)
    }

    /// sandboxd looks for the answer. One that there is, is given once.
    pub fn collect(&mut self, id: ApprovalId, now_ms: u64) -> Answer {
        self.forget_old(now_ms);
        let Some(question) = self.questions.get(&id) else { return Answer::Lapsed };
        let answer = match question.state {
            State::Open => return Answer::Waiting(id),
            State::Approved => Answer::Approved(id, question.digest, question.nonce),
            State::Denied => Answer::Denied,
        };
        self.questions.remove(&id);
        answer
    }

    /// Nobody waits for it any more.
    pub fn withdraw(&mut self, id: ApprovalId) {
        self.questions.remove(&id);
    }

    /// Where nobody waits for any: sandboxd is gone. Grants stay.
    pub fn withdraw_all(&mut self) {
        self.questions.clear();
    }

    /// The operator says yes: to this question, and for a time to the same again, `uses` in all.
    ///
    /// # Errors
    /// [`ApprovalError`]; then nothing is approved.
    pub fn approve(&mut self, id: ApprovalId, uses: u32, for_s: u32, now_ms: u64) -> Result<(), ApprovalError> {
        self.forget_old(now_ms);
        if !(1..=1_000).contains(&uses) || for_s > LONGEST_S || (uses > 1 && for_s == 0) {
            return Err(ApprovalError::Bounds);
        }
        if uses > 1 && self.grants.len() >= MOST_GRANTS {
            return Err(ApprovalError::Crowded);
        }
        let question = self.open(id)?;
        question.state = State::Approved;
        question.until_ms = now_ms.saturating_add(UNCOLLECTED_MS);
        if uses > 1 {
            let grant = Grant {
                session: question.subject.session.clone(),
                command: BoundedStr::truncated(&question.subject.command),
                digest: question.digest,
                until_ms: now_ms.saturating_add(u64::from(for_s).saturating_mul(1_000)),
                uses: uses.saturating_sub(1),
            };
            let id = self.next();
            self.grants.insert(id, grant);
        }
        Ok(())
    }

    /// The operator says no.
    ///
    /// # Errors
    /// [`ApprovalError::Unknown`].
    pub fn deny(&mut self, id: ApprovalId, now_ms: u64) -> Result<(), ApprovalError> {
        self.forget_old(now_ms);
        let question = self.open(id)?;
        question.state = State::Denied;
        question.until_ms = now_ms.saturating_add(UNCOLLECTED_MS);
        Ok(())
    }

    fn open(&mut self, id: ApprovalId) -> Result<&mut Question, ApprovalError> {
        self.questions.get_mut(&id).filter(|question| question.state == State::Open).ok_or(ApprovalError::Unknown)
    }

    /// A question that is open, whole.
    ///
    /// # Errors
    /// [`ApprovalError::Unknown`].
    pub fn show(&mut self, id: ApprovalId, now_ms: u64) -> Result<(Box<Subject>, ApprovalRow), ApprovalError> {
        self.forget_old(now_ms);
        let question = self.open(id)?;
        Ok((question.subject.clone(), question.row(id, now_ms)))
    }

    /// What tells an open question from every other: the digest of its subject, and its nonce.
    ///
    /// # Errors
    /// [`ApprovalError::Unknown`].
    pub fn marks(&mut self, id: ApprovalId, now_ms: u64) -> Result<(Digest, [u8; 32]), ApprovalError> {
        self.forget_old(now_ms);
        self.open(id).map(|question| (question.digest, question.nonce))
    }

    /// The questions that are open.
    pub fn questions(&mut self, now_ms: u64) -> BoundedVec<ApprovalRow, 64> {
        self.forget_old(now_ms);
        let open = self.questions.iter().filter(|(_, question)| question.state == State::Open);
        BoundedVec::new(open.map(|(id, question)| question.row(*id, now_ms)).collect()).unwrap_or_default()
    }

    /// The grants that live.
    pub fn grants(&mut self, now_ms: u64) -> BoundedVec<ApprovalRow, 64> {
        self.forget_old(now_ms);
        let rows = self.grants.iter().map(|(id, grant)| ApprovalRow {
            id: *id,
            session: grant.session.clone(),
            command: grant.command.clone(),
            digest: grant.digest,
            left_s: left_s(grant.until_ms, now_ms),
            uses: grant.uses,
        });
        BoundedVec::new(rows.collect()).unwrap_or_default()
    }

    /// Takes back what one conversation was granted, and what it was allowed and has not collected. Says how many.
    pub fn suspend(&mut self, session: &SessionKey) -> usize {
        let grants = self.grants.extract_if(.., |_, grant| grant.session == *session).count();
        let of_it = |question: &Question| question.state == State::Approved && question.subject.session == *session;
        grants.saturating_add(self.questions.extract_if(.., |_, question| of_it(question)).count())
    }

    /// Takes a grant back, or everything: grants, and what was approved and not collected. Says how many.
    pub fn revoke(&mut self, id: Option<ApprovalId>) -> usize {
        match id {
            Some(id) => usize::from(self.grants.remove(&id).is_some()),
            None => {
                let count = self.grants.len();
                self.grants.clear();
                count.saturating_add(
                    self.questions.extract_if(.., |_, question| question.state == State::Approved).count(),
                )
            }
        }
    }
}

impl Question {
    fn row(&self, id: ApprovalId, now_ms: u64) -> ApprovalRow {
        ApprovalRow {
            id,
            session: self.subject.session.clone(),
            command: BoundedStr::truncated(&self.subject.command),
            digest: self.digest,
            left_s: left_s(self.until_ms, now_ms),
            uses: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(approvals: &mut Approvals, session: &str, digest: u8, now_ms: u64) -> Result<Answer, ApprovalError> {
        let subject = Subject {
            session: SessionKey(BoundedStr::truncated(session)),
            command: BoundedStr::truncated("touch x"),
            why: BoundedStr::default(),
            runs: BoundedStr::default(),
            cwd: BoundedStr::default(),
            environment: BoundedStr::default(),
            image: BoundedStr::default(),
            mounts: BoundedStr::default(),
            network: BoundedStr::default(),
            secrets: BoundedStr::default(),
        };
        approvals.ask(Box::new(subject), [digest; 32], [9; 32], 60, now_ms)
    }

    fn waiting(answer: Result<Answer, ApprovalError>) -> ApprovalId {
        let Ok(Answer::Waiting(id)) = answer else { panic!("{answer:?}") };
        id
    }

    #[test]
    fn approval_of_one_use_is_collected_once_and_covers_no_second_question() {
        let mut approvals = Approvals::default();
        let id = waiting(ask(&mut approvals, "s", 1, 0));
        assert_eq!(approvals.collect(id, 1), Answer::Waiting(id));
        approvals.approve(id, 1, 0, 2).unwrap();
        assert_eq!(approvals.collect(id, 3), Answer::Approved(id, [1; 32], [9; 32]));
        assert_eq!(approvals.collect(id, 4), Answer::Lapsed);
        let again = waiting(ask(&mut approvals, "s", 1, 5));
        assert!(again > id);
        assert_eq!(approvals.approve(id, 1, 0, 6), Err(ApprovalError::Unknown));
    }

    #[test]
    fn grant_covers_the_same_subject_as_often_and_as_long_as_was_said() {
        let mut approvals = Approvals::default();
        let id = waiting(ask(&mut approvals, "s", 1, 0));
        approvals.approve(id, 3, 100, 0).unwrap();
        assert!(matches!(approvals.collect(id, 0), Answer::Approved(..)));
        assert!(matches!(ask(&mut approvals, "s", 1, 1), Ok(Answer::Approved(..))));
        waiting(ask(&mut approvals, "s", 2, 2));
        assert!(matches!(ask(&mut approvals, "s", 1, 3), Ok(Answer::Approved(..))));
        let spent = waiting(ask(&mut approvals, "s", 1, 4));
        approvals.approve(spent, 9, 100, 5_000).unwrap();
        assert_eq!(approvals.grants(5_000)[0].uses, 8);
        waiting(ask(&mut approvals, "s", 1, 105_000));
    }

    #[test]
    fn silence_and_no_are_no() {
        let mut approvals = Approvals::default();
        let silent = waiting(ask(&mut approvals, "s", 1, 0));
        let denied = waiting(ask(&mut approvals, "s", 2, 0));
        approvals.deny(denied, 1).unwrap();
        assert_eq!(approvals.approve(denied, 1, 0, 2), Err(ApprovalError::Unknown));
        assert_eq!(approvals.collect(denied, 3), Answer::Denied);
        assert_eq!(approvals.collect(silent, 60_000), Answer::Lapsed);
        assert_eq!(approvals.approve(silent, 1, 0, 60_000), Err(ApprovalError::Unknown));
    }

    #[test]
    fn bounds_hold_for_questions_and_for_what_is_said_to_them() {
        let mut approvals = Approvals::default();
        let id = waiting(ask(&mut approvals, "s", 1, 0));
        for (uses, for_s) in [(0, 0), (1_001, 1), (1, LONGEST_S + 1), (2, 0)] {
            assert_eq!(approvals.approve(id, uses, for_s, 0), Err(ApprovalError::Bounds), "{uses} {for_s}");
        }
        for _ in 1..MOST_OF_SESSION {
            waiting(ask(&mut approvals, "s", 1, 0));
        }
        assert_eq!(ask(&mut approvals, "s", 1, 0), Err(ApprovalError::Crowded));
        for at in MOST_OF_SESSION..MOST_QUESTIONS {
            waiting(ask(&mut approvals, &at.to_string(), 1, 0));
        }
        assert_eq!(ask(&mut approvals, "other", 1, 0), Err(ApprovalError::Crowded));
        assert_eq!(approvals.questions(0).len(), MOST_QUESTIONS);
        waiting(ask(&mut approvals, "s", 1, 60_000));
    }

    #[test]
    fn suspended_is_what_one_conversation_was_granted_and_nobody_else() {
        let mut approvals = Approvals::default();
        for (session, digest) in [("s", 1), ("t", 2)] {
            let id = waiting(ask(&mut approvals, session, digest, 0));
            approvals.approve(id, 5, 100, 0).unwrap();
            assert!(matches!(approvals.collect(id, 0), Answer::Approved(..)));
        }
        let uncollected = waiting(ask(&mut approvals, "s", 3, 0));
        approvals.approve(uncollected, 1, 0, 0).unwrap();
        assert_eq!(approvals.suspend(&SessionKey(BoundedStr::truncated("s"))), 2);
        assert_eq!(approvals.collect(uncollected, 1), Answer::Lapsed);
        waiting(ask(&mut approvals, "s", 1, 1));
        assert!(matches!(ask(&mut approvals, "t", 2, 1), Ok(Answer::Approved(..))));
    }

    #[test]
    fn revoked_is_what_was_granted_and_what_was_approved_and_not_collected() {
        let mut approvals = Approvals::default();
        let id = waiting(ask(&mut approvals, "s", 1, 0));
        approvals.approve(id, 5, 100, 0).unwrap();
        let open = waiting(ask(&mut approvals, "t", 2, 0));
        assert_eq!(approvals.revoke(None), 2);
        assert_eq!(approvals.collect(id, 1), Answer::Lapsed);
        assert_eq!(approvals.collect(open, 1), Answer::Waiting(open));
        waiting(ask(&mut approvals, "s", 1, 1));
    }
}
