//! What a login is worth: what lets the client in and what it may do then, or why not. Nothing is counted or written here,
//! but a nonce is used up, and a device that nobody knows yet may come to wait for the operator's word.

use super::Moment;
use super::devices::{Beside, Device, Offered};
use super::signature::{device_of, holds, is_timely};
use crate::lockout::Party;
use crate::state::State;
use crate::token;
use proto::audit::{AuthMethod, AuthReason};
use proto::auth::{Admission, DeviceProof, Login, Pass, Scopes, Who};
use proto::bounded::BoundedVec;
use proto::edge::Refusal;
use proto::secret::Secret;

/// What was offered, and what came of it.
pub(super) type Weighed = (AuthMethod, Result<Admission, AuthReason>);

/// What a login offers, before anything of it is known to be right.
pub(super) fn offered(login: &Login) -> AuthMethod {
    match (&login.who, &login.token, &login.password) {
        (Who::Device(proof), ..) => AuthMethod::Device(device_of(&proof.public_key)),
        (_, Some(_), _) => AuthMethod::Token,
        (_, None, Some(_)) => AuthMethod::Password,
        (_, None, None) => AuthMethod::None,
    }
}

/// Weighs a login of an address that is not locked out. The password is looked at last: it costs.
pub(super) fn weigh(state: &mut State, login: &Login, party: Party, at: Moment) -> Result<Weighed, Refusal> {
    let (device, asked) = match &login.who {
        Who::Bearer(asked) => (None, *asked),
        Who::Device(proof) => (Some(proof), Scopes::of(proof.scopes.split(','))),
    };
    let refused = |reason| Ok((offered(login), Err(reason)));
    if let Some(proof) = device
        && let Err(reason) = prove(state, proof, login.token.as_ref(), at)
    {
        return refused(reason);
    }
    let known = device.and_then(|proof| state.devices().get(device_of(&proof.public_key))).cloned();
    if known.as_ref().is_some_and(|known| !known.stands) {
        return refused(AuthReason::DeviceRevoked);
    }
    // What opens every door gives what was asked for, and all where nothing was.
    let bearer = |pass| {
        let scopes = if asked.is_empty() { Scopes::ALL } else { asked };
        let by = [Some(pass), known.as_ref().map(|known| Pass::Device(known.since))];
        Admission { scopes, by: BoundedVec::new(by.into_iter().flatten().collect()).unwrap_or_default() }
    };
    if let Some(token) = &login.token {
        if state.gateway_token().is_some_and(|kept| token::same(&kept, token)) {
            return Ok((AuthMethod::Token, Ok(bearer(Pass::Token(state.token_version())))));
        }
        match (device, &known, known.as_ref().map(|known| known.offered(token))) {
            (Some(proof), Some(known), Some(Offered::Right)) => {
                return Ok((offered(login), let_in(state, known, proof, login, party, at)));
            }
            (.., Some(Offered::Stale)) => return refused(AuthReason::DeviceTokenStale),
            _ => {}
        }
    }
    if let Some(typed) = &login.password {
        match by_password(state, typed)? {
            Ok(pass) => return Ok((AuthMethod::Password, Ok(bearer(pass)))),
            // Of two that are wrong the token is named: it is the better known.
            Err(reason) if login.token.is_none() => return Ok((AuthMethod::Password, Err(reason))),
            Err(_) => {}
        }
    }
    match (&login.token, device, &known) {
        (Some(_), ..) => refused(AuthReason::TokenMismatch),
        (None, Some(proof), Some(known)) if known.beside == Beside::Nothing => {
            Ok((offered(login), let_in(state, known, proof, login, party, at)))
        }
        (None, Some(_), Some(_)) => refused(AuthReason::DeviceTokenMissing),
        (None, Some(proof), None) => {
            let waits = state.waiting().ask(proof, &login.address, party, at.now);
            refused(if waits { AuthReason::DeviceUnpaired } else { AuthReason::DevicesWaiting })
        }
        (None, None, _) => refused(AuthReason::TokenMissing),
    }
}

/// That the device holds its key, for this connection and now.
fn prove(state: &mut State, proof: &DeviceProof, token: Option<&Secret>, at: Moment) -> Result<(), AuthReason> {
    let nonce = state.waiting().redeem(proof.connection, at.now_ms).ok_or(AuthReason::DeviceNonce)?;
    if !is_timely(proof, at.now) {
        return Err(AuthReason::DeviceExpired);
    }
    if holds(proof, token, &nonce.to_string()) { Ok(()) } else { Err(AuthReason::DeviceSignature) }
}

/// A paired device that showed what it must: it gets what it asks for, of what it was paired for.
fn let_in(
    state: &mut State,
    known: &Device,
    proof: &DeviceProof,
    login: &Login,
    party: Party,
    at: Moment,
) -> Result<Admission, AuthReason> {
    let asked = Scopes::of(proof.scopes.split(','));
    if !known.scopes.cover(asked) {
        let waits = state.waiting().ask(proof, &login.address, party, at.now);
        return Err(if waits { AuthReason::DeviceScopes } else { AuthReason::DevicesWaiting });
    }
    let scopes = if asked.is_empty() { known.scopes } else { asked };
    Ok(Admission { scopes, by: BoundedVec::new(vec![Pass::Device(known.since)]).unwrap_or_default() })
}

fn by_password(state: &State, typed: &Secret) -> Result<Result<Pass, AuthReason>, Refusal> {
    let Some(kept) = state.password() else { return Ok(Err(AuthReason::PasswordUnset)) };
    let is = kept.is(typed).map_err(|error| Refusal::new("vault.memory", &error.to_string()))?;
    Ok(if is { Ok(Pass::Password(kept.since)) } else { Err(AuthReason::PasswordMismatch) })
}
