//! Use of secrets by roles: the question, the decision, the count on disk, the record, the answer, in this order.
//!
//! Every word comes from egress or gateway and is hostile; a name may be one that the log must not be filled with. Nothing
//! is answered before its record is durable, and a use that was counted stays counted whatever happens after. A honey
//! secret answers nobody: who asks for one has its edge closed, and broker is told.

use crate::audit::Log;
use crate::auth::{AskError, recorded, stored};
use crate::entropy;
use crate::lease::{Denial, Leases, Wish, granted};
use crate::permit::{Grant, Verb};
use crate::state::{GATEWAY_TOKEN, State, unix_now};
use crate::verbs::changed;
use hmac::{Hmac, Mac as _};
use proto::audit::Record;
use proto::bounded::BoundedStr;
use proto::edge::Refusal;
use proto::ids::Role;
use proto::secret::Secret;
use proto::vault::{Destination, LeaseId, LeaseReply, LeaseRequest, VaultReply};
use sha2::Sha256;

/// Seconds of a day.
const DAY: u64 = 86_400;

/// What a question about a secret meets, beside the question.
pub struct Desk<'d, L> {
    /// What the vault knows.
    pub state: &'d mut State,
    /// What is lent now.
    pub leases: &'d mut Leases,
    /// Where it is written.
    pub log: &'d mut L,
    /// Milliseconds since the machine started, those asleep included.
    pub now_ms: u64,
}

/// A record about one secret.
#[must_use]
pub fn secret_record(name: &str, verb: &str, requester: &str, granted: bool, detail: &str) -> Record {
    Record::Secret {
        name: BoundedStr::truncated(name),
        verb: BoundedStr::truncated(verb),
        requester: BoundedStr::truncated(requester),
        granted,
        detail: BoundedStr::truncated(detail),
    }
}

fn short(id: LeaseId) -> String {
    id.0.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

impl<L: Log> Desk<'_, L> {
    /// Answers egress.
    ///
    /// # Errors
    /// [`AskError`].
    pub fn on_lease(&mut self, request: LeaseRequest) -> Result<LeaseReply, AskError> {
        match request {
            LeaseRequest::Lease { session, credential, to, method, path, digest } => {
                self.may_lease(&session, &credential)?;
                self.lease(&credential, &to, &method, &path, digest)
            }
            LeaseRequest::Fetch { session, host } => self.may_fetch(&session, &host).map(|()| LeaseReply::MayFetch),
            LeaseRequest::Redeem { lease, to, digest } => {
                let verb = if self.leases.renews(lease) { Verb::Refresh } else { Verb::Inject };
                self.take(lease, verb, &to, &digest).map(LeaseReply::Redeemed)
            }
            LeaseRequest::Sign { lease, to, digest, message } => {
                let key = self.take(lease, Verb::Sign, &to, &digest)?;
                Ok(LeaseReply::Signed(mac(&key, &message)?.finalize().into_bytes().into()))
            }
            LeaseRequest::Spent { lease, bytes, read, written } => self.spent(lease, bytes, read, written),
            LeaseRequest::Store { lease, access, refresh } => self.store(lease, &access, refresh.as_ref()),
            LeaseRequest::Release { lease } => {
                if self.leases.release(lease, Role::Egress) {
                    let detail = format!("lease {}", short(lease));
                    recorded(self.log, secret_record("", "release", "egress", true, &detail), "the release")?;
                }
                Ok(LeaseReply::Released)
            }
        }
    }

    fn lease(
        &mut self,
        name: &str,
        to: &Destination,
        method: &str,
        path: &str,
        digest: [u8; 32],
    ) -> Result<LeaseReply, AskError> {
        // What follows the path may hold what should be in no log.
        let (shown, _) = path.split_once('?').unwrap_or((path, ""));
        let what = format!("{method} {}:{}{shown}", to.host, to.port);
        let wish = Wish { to, method, path };
        let (version, grant) =
            self.admit(name, "lease", Role::Egress, &what, |grant| grant.allows(Role::Egress, wish))?;
        if !self.leases.has_room(self.now_ms) {
            return self.denied(name, "lease", Role::Egress, Denial::Crowded, &what);
        }
        self.spend(name, "lease", Role::Egress, version, &grant, &what)?;
        // Where the credential stands is the policy's word, so it is in the record of what was lent.
        let place = grant.slot.as_ref().map(ToString::to_string).unwrap_or_default();
        let what = format!("{method} {}:{}{place}{shown}", to.host, to.port);
        let mut id = [0; 16];
        entropy::fill(&mut id)
            .map_err(|errno| Refusal::new("vault.random", &format!("getrandom: {errno}; nothing is leased")))?;
        let id = LeaseId(id);
        let detail = format!("lease {} of version {version}: {what}", short(id));
        recorded(self.log, secret_record(name, "lease", "egress", true, &detail), "the lease")?;
        let ttl_ms = self.leases.give(id, Role::Egress, name, version, &grant, to, digest, self.now_ms);
        Ok(LeaseReply::Leased {
            lease: id,
            ttl_ms,
            slot: grant.place(),
            bytes: grant.bytes,
            counted: grant.day.is_some(),
            renews: (grant.verb == Verb::Refresh).then(|| BoundedStr::truncated(&grant.client)),
        })
    }

    /// Seals what a server gave for a secret that others are asked for with, where that one's policy says. It keeps the policy
    /// that was there: who gives a secret does not say what for.
    fn store(&mut self, id: LeaseId, access: &Secret, refresh: Option<&Secret>) -> Result<LeaseReply, AskError> {
        let what = format!("lease {}", short(id));
        let Some(name) = self.leases.counted(id) else {
            return self.denied("", "refresh", Role::Egress, Denial::NoLease, &what);
        };
        let grant = self.state.record(&name).and_then(|record| record.policy().grant);
        let Some(grant) = grant.filter(|grant| grant.verb == Verb::Refresh && grant.into != name) else {
            return self.denied(&name, "refresh", Role::Egress, Denial::Verb, &what);
        };
        let into = grant.into;
        let version = match self.state.record(&into).map(|record| (record.version(), record.policy().honey)) {
            Some((version, false)) if into != GATEWAY_TOKEN => version.saturating_add(1),
            _ => return self.denied(&into, "refresh", Role::Egress, Denial::NoGrant, &what),
        };
        let detail = format!("version {version}, by {name}, {what}");
        recorded(self.log, secret_record(&into, "refresh", "egress", true, &detail), "the new secret")?;
        // The old one may be used up already, so what takes its place comes first.
        if let Some(refresh) = refresh {
            self.state.renew(&name, refresh, unix_now()).map_err(changed)?;
            self.leases.renewed(&name);
        }
        let version = self.state.renew(&into, access, unix_now()).map_err(changed)?;
        self.leases.renewed(&into);
        Ok(LeaseReply::Stored(version))
    }

    /// Counts what a request moved, on disk.
    fn spent(&mut self, id: LeaseId, bytes: u64, read: u64, written: u64) -> Result<LeaseReply, AskError> {
        let no_lease = || Refusal::new(Denial::NoLease.rule(), &Denial::NoLease.to_string());
        let name = self.leases.counted(id).ok_or_else(no_lease)?;
        let grant = self.state.record(&name).and_then(|record| record.policy().grant);
        if let Some(grant) = grant.filter(|grant| grant.day.is_some()) {
            let amount = grant.day.amount(bytes, read, written);
            self.state.days().add(&name, unix_now() / DAY, amount);
            stored(self.state, "what a secret has moved")?;
        }
        Ok(LeaseReply::Counted)
    }

    /// The secret behind a lease, recorded.
    fn take(&mut self, id: LeaseId, verb: Verb, to: &Destination, digest: &[u8; 32]) -> Result<Secret, AskError> {
        let said = if verb == Verb::Sign { "sign" } else { "redeem" };
        let what = format!("lease {}: {}:{}", short(id), to.host, to.port);
        let lease = match self.leases.take(id, Role::Egress, verb, to, digest, self.now_ms) {
            Ok(lease) => lease,
            Err((denial, name)) => {
                return self.denied(name.as_deref().unwrap_or_default(), said, Role::Egress, denial, &what);
            }
        };
        // Rotated, removed, or put under another policy since: what was leased is not there any more.
        if self.state.record(&lease.name).is_none_or(|record| record.version() != lease.version) {
            return self.denied(&lease.name, said, Role::Egress, Denial::NoLease, &what);
        }
        recorded(self.log, secret_record(&lease.name, said, "egress", true, &what), "the use of a lease")?;
        self.leases.count(id, &lease.name);
        self.open(&lease.name)
    }

    /// Answers gateway about the code of a message: one bit.
    ///
    /// # Errors
    /// [`AskError`].
    pub fn verify(&mut self, name: &str, message: &[u8], code: &[u8; 32]) -> Result<VaultReply, AskError> {
        let verifies = |grant: &Grant| {
            if grant.verb == Verb::Verify && grant.role == Role::Gateway { Ok(()) } else { Err(Denial::Verb) }
        };
        let (version, grant) = self.admit(name, "verify", Role::Gateway, "", verifies)?;
        self.spend(name, "verify", Role::Gateway, version, &grant, "")?;
        let right = mac(&self.open(name)?, message)?.verify_slice(code).is_ok();
        let detail = if right { "" } else { "the code is wrong" };
        recorded(self.log, secret_record(name, "verify", "gateway", right, detail), "the check")?;
        Ok(if right { VaultReply::Accepted } else { VaultReply::Denied })
    }

    /// The version and what its policy grants, where it grants this.
    fn admit(
        &mut self,
        name: &str,
        verb: &str,
        role: Role,
        what: &str,
        allows: impl Fn(&Grant) -> Result<(), Denial>,
    ) -> Result<(u64, Grant), AskError> {
        let Some((version, policy)) = self.state.record(name).map(|record| (record.version(), record.policy())) else {
            // Names are the operator's; one that is none is whatever a caller made up.
            let detail = format!("there is no such secret: {what}");
            recorded(self.log, secret_record(name, verb, role.name(), false, &detail), "the refusal")?;
            let message = format!("no credential {name:?} is in the vault; `moltbot secrets set NAME` puts one there");
            return Err(Refusal::new("vault.no_such_credential", &message).into());
        };
        if policy.honey {
            let detail = format!("a honey secret was asked for: {what}");
            // Whether or not it can be written, broker hears of it.
            let written = recorded(self.log, secret_record(name, "honey", role.name(), false, &detail), "the refusal");
            if let Err(error @ (AskError::Store(_) | AskError::AuditdViolated(_))) = written {
                return Err(error);
            }
            return Err(AskError::Honey(name.to_owned()));
        }
        match granted(&policy).and_then(|grant| allows(grant).map(|()| grant.clone())) {
            Ok(grant) => Ok((version, grant)),
            Err(denial) => self.denied(name, verb, role, denial, what),
        }
    }

    /// Counts one use, on disk where it has a budget.
    fn spend(
        &mut self,
        name: &str,
        verb: &str,
        role: Role,
        version: u64,
        grant: &Grant,
        what: &str,
    ) -> Result<(), AskError> {
        if grant.day.is_some() && !grant.day.has_room(self.state.days().spent(name, unix_now() / DAY)) {
            return self.denied(name, verb, role, Denial::Day, what);
        }
        let used = self.state.budgets().used(name, version);
        if let Err(denial) = self.leases.spend(name, version, grant, used, self.now_ms) {
            return self.denied(name, verb, role, denial, what);
        }
        if grant.budget.is_some() {
            self.state.budgets().count(name, version);
            stored(self.state, "the use of a secret")?;
        }
        Ok(())
    }

    fn denied<T>(&mut self, name: &str, verb: &str, role: Role, denial: Denial, what: &str) -> Result<T, AskError> {
        let detail = format!("{}: {what}", denial.rule());
        recorded(self.log, secret_record(name, verb, role.name(), false, &detail), "the refusal")?;
        Err(Refusal::new(denial.rule(), &format!("{name}: {denial}")).into())
    }

    fn open(&self, name: &str) -> Result<Secret, AskError> {
        self.state.open_secret(name).map_err(|error| Refusal::new("vault.envelope", &format!("{name}: {error}")).into())
    }
}

fn mac(key: &Secret, message: &[u8]) -> Result<Hmac<Sha256>, AskError> {
    let mac =
        Hmac::<Sha256>::new_from_slice(key.expose()).map_err(|_| Refusal::new("vault.mac", "the secret is no key"))?;
    Ok(mac.chain_update(message))
}

#[cfg(test)]
mod tests;
