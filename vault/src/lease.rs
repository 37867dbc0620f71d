//! Leases, decided purely: `(policy, question, uses, now) -> lease or denial`, no clock, no file and no secret inside.
//!
//! A lease is the right to use one version of one secret once, within a minute, for one request to one destination. Every
//! word of the question comes from egress or gateway and is hostile. What does not match in every part is denied, and a
//! lease that was shown wrongly is over. What a peer may do with a credential that it redeemed is beyond this: it has it.

use crate::permit::{Grant, Policy, Verb, is_plain_path};
use proto::ids::Role;
use proto::vault::{Destination, LeaseId};
use std::collections::{BTreeMap, VecDeque};

/// Leases that live at once at most: eight times what egress may have in flight.
pub const CAPACITY: usize = 256;

/// Why nothing is leased. The text names the narrowest thing that would allow it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Denial {
    /// No role may use it at all.
    #[error("its policy names no verb; `moltbot secrets policy NAME --file FILE` sets one")]
    NoGrant,
    /// Another role's, or for another verb.
    #[error("its policy does not give this role this verb")]
    Verb,
    /// Another host or port.
    #[error("its policy does not name this host and port; `moltbot secrets policy NAME --file FILE` sets another")]
    Destination,
    /// Another method.
    #[error("its policy does not name this method")]
    Method,
    /// Another path, or one that can be read in two ways.
    #[error("its policy does not name this path")]
    Path,
    /// Too often.
    #[error("its rate is used up for now")]
    Rate,
    /// Too often, for good.
    #[error("its budget is used up; `moltbot secrets rotate NAME` starts a new one")]
    Budget,
    /// Too much, today.
    #[error(
        "what it may move or cost in a day is used up; the next begins at midnight UTC, `moltbot secrets policy` sets other bounds"
    )]
    Day,
    /// The operator has not allowed this use.
    #[error("each use needs approval; `moltbot secrets approve NAME` allows one")]
    Approval,
    /// More at once than any egress has a use for.
    #[error("{CAPACITY} leases live already")]
    Crowded,
    /// Never given, used, expired, revoked, or of a secret that is another now.
    #[error("there is no such lease")]
    NoLease,
    /// Given for another request.
    #[error("the lease is not for this; it is over")]
    Bound,
}

impl Denial {
    /// The rule that refuses, as it stands in refusals and records.
    #[must_use]
    pub const fn rule(self) -> &'static str {
        match self {
            Self::NoGrant => "vault.no_grant",
            Self::Verb => "vault.verb",
            Self::Destination => "vault.destination",
            Self::Method => "vault.method",
            Self::Path => "vault.path",
            Self::Rate => "vault.rate",
            Self::Budget => "vault.budget",
            Self::Day => "vault.day",
            Self::Approval => "vault.approval",
            Self::Crowded => "vault.crowded",
            Self::NoLease => "vault.no_lease",
            Self::Bound => "vault.lease_bound",
        }
    }
}

/// What one request is.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'w> {
    /// Where it goes.
    pub to: &'w Destination,
    /// Its method.
    pub method: &'w str,
    /// Its path and query.
    pub path: &'w str,
}

impl Grant {
    /// Does the policy allow this request, by everything but how often?
    ///
    /// # Errors
    /// [`Denial`].
    pub fn allows(&self, role: Role, wish: Wish<'_>) -> Result<(), Denial> {
        if self.role != role || self.verb == Verb::Verify {
            return Err(Denial::Verb);
        }
        // Policies have lower-case names; a name in another form is another name.
        if wish.to.port != self.port || !self.hosts.iter().any(|host| host == wish.to.host.as_str()) {
            return Err(Denial::Destination);
        }
        if !self.methods.iter().any(|method| method == wish.method) {
            return Err(Denial::Method);
        }
        let (path, query) = wish.path.split_once('?').unwrap_or((wish.path, ""));
        let covers = |prefix: &String| {
            path.strip_prefix(prefix.as_str())
                .is_some_and(|rest| prefix.ends_with('/') || rest.is_empty() || rest.starts_with('/'))
        };
        let whole = is_plain_path(path) && query.bytes().all(|byte| (b'!'..0x7f).contains(&byte) && byte != b'#');
        if whole && self.paths.iter().any(covers) { Ok(()) } else { Err(Denial::Path) }
    }
}

/// The right to use one secret once.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Lease {
    /// Name of the secret.
    pub name: String,
    /// Version of it.
    pub version: u64,
    /// What may be done.
    pub verb: Verb,
    role: Role,
    to: Destination,
    digest: [u8; 32],
    until_ms: u64,
}

/// How often each secret may still be used, and who may use one now.
#[derive(Debug, Default)]
pub struct Leases {
    live: BTreeMap<LeaseId, Lease>,
    /// Redeemed, and not yet told what came of it.
    counting: VecDeque<(LeaseId, String)>,
    uses: BTreeMap<String, VecDeque<u64>>,
    approvals: BTreeMap<(String, u64), u32>,
}

impl Leases {
    /// May this version be used once more? Counts the use where it may; `used` is what its budget has counted so far.
    ///
    /// # Errors
    /// [`Denial`].
    pub fn spend(&mut self, name: &str, version: u64, grant: &Grant, used: u64, now_ms: u64) -> Result<(), Denial> {
        if grant.budget.is_some_and(|budget| used >= budget) {
            return Err(Denial::Budget);
        }
        if let Some(rate) = grant.rate {
            let window = u64::from(rate.seconds).saturating_mul(1_000);
            let uses = self.uses.entry(name.to_owned()).or_default();
            while uses.front().is_some_and(|at| now_ms.saturating_sub(*at) >= window) {
                uses.pop_front();
            }
            if uses.len() >= usize::try_from(rate.uses).unwrap_or(usize::MAX) {
                return Err(Denial::Rate);
            }
        }
        if grant.approval {
            let key = (name.to_owned(), version);
            let left =
                self.approvals.get(&key).copied().and_then(|left| left.checked_sub(1)).ok_or(Denial::Approval)?;
            if left == 0 {
                self.approvals.remove(&key);
            } else {
                self.approvals.insert(key, left);
            }
        }
        if grant.rate.is_some() {
            self.uses.entry(name.to_owned()).or_default().push_back(now_ms);
        }
        Ok(())
    }

    /// True where another lease has a place.
    pub fn has_room(&mut self, now_ms: u64) -> bool {
        self.live.retain(|_, lease| lease.until_ms > now_ms);
        self.live.len() < CAPACITY
    }

    /// Gives a lease that was allowed. Returns the milliseconds that it lives.
    #[allow(clippy::too_many_arguments, reason = "every part of what a lease is bound to, each once")]
    pub fn give(
        &mut self,
        id: LeaseId,
        role: Role,
        name: &str,
        version: u64,
        grant: &Grant,
        to: &Destination,
        digest: [u8; 32],
        now_ms: u64,
    ) -> u32 {
        let lives = grant.ttl.min(crate::permit::MAX_TTL).saturating_mul(1_000);
        let lease = Lease {
            name: name.to_owned(),
            version,
            verb: grant.verb,
            role,
            to: to.clone(),
            digest,
            until_ms: now_ms.saturating_add(lives),
        };
        self.live.insert(id, lease);
        u32::try_from(lives).unwrap_or(u32::MAX)
    }

    /// Takes a lease for use. Whatever comes of it, it is over: one that is shown wrongly was stolen or forged.
    ///
    /// # Errors
    /// [`Denial::NoLease`], [`Denial::Bound`] with the name of the secret.
    pub fn take(
        &mut self,
        id: LeaseId,
        role: Role,
        verb: Verb,
        to: &Destination,
        digest: &[u8; 32],
        now_ms: u64,
    ) -> Result<Lease, (Denial, Option<String>)> {
        let lease = self.live.remove(&id).filter(|lease| lease.until_ms > now_ms).ok_or((Denial::NoLease, None))?;
        let fits = lease.role == role && lease.verb == verb && lease.to == *to && lease.digest == *digest;
        if fits { Ok(lease) } else { Err((Denial::Bound, Some(lease.name))) }
    }

    /// True where the secret of this lease is one that others are asked for with.
    #[must_use]
    pub fn renews(&self, id: LeaseId) -> bool {
        self.live.get(&id).is_some_and(|lease| lease.verb == Verb::Refresh)
    }

    /// The request of this lease is under way, and egress will tell what it moved.
    pub fn count(&mut self, id: LeaseId, name: &str) {
        if self.counting.len() >= CAPACITY {
            self.counting.pop_front();
        }
        self.counting.push_back((id, name.to_owned()));
    }

    /// The secret whose lease this was, where that was not told yet.
    pub fn counted(&mut self, id: LeaseId) -> Option<String> {
        let at = self.counting.iter().position(|(of, _)| *of == id)?;
        self.counting.remove(at).map(|(_, name)| name)
    }

    /// Ends one lease of this role. True where it lived.
    pub fn release(&mut self, id: LeaseId, role: Role) -> bool {
        self.live.get(&id).is_some_and(|lease| lease.role == role) && self.live.remove(&id).is_some()
    }

    /// Ends every lease and every approval that nobody used. Returns how many leases lived, and of which secrets.
    pub fn end_all(&mut self, now_ms: u64) -> (usize, Vec<String>) {
        self.approvals.clear();
        self.live.retain(|_, lease| lease.until_ms > now_ms);
        let ended = std::mem::take(&mut self.live);
        let mut names: Vec<String> = ended.values().map(|lease| lease.name.clone()).collect();
        names.sort_unstable();
        names.dedup();
        (ended.len(), names)
    }

    /// Allows one more use of this version.
    pub fn approve(&mut self, name: &str, version: u64) {
        if self.approvals.len() < CAPACITY || self.approvals.contains_key(&(name.to_owned(), version)) {
            let left = self.approvals.entry((name.to_owned(), version)).or_default();
            *left = left.saturating_add(1);
        }
    }

    /// Ends what was lent of a name, which a server gave anew. How often it was used still counts: a role had it given.
    pub fn renewed(&mut self, name: &str) {
        self.live.retain(|_, lease| lease.name != name);
        self.approvals.retain(|(of, _), _| of != name);
    }

    /// Forgets what was allowed of a name, and how often it was used: it is another secret now.
    pub fn forget(&mut self, name: &str) {
        self.renewed(name);
        self.uses.remove(name);
    }
}

/// What roles may do by this policy.
///
/// # Errors
/// [`Denial::NoGrant`].
pub fn granted(policy: &Policy) -> Result<&Grant, Denial> {
    policy.grant.as_ref().ok_or(Denial::NoGrant)
}

#[cfg(test)]
mod tests;
