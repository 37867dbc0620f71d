//! P6: what a boundary between two processes costs, over what a raw SEQPACKET round trip does.

use super::control::Control;
use super::net::{Ws, start};
use super::{Bound, Row, alternate, p50_us};
use crate::play_broker::Sealed;
use proto::auth::Login;
use proto::bounded::BoundedStr;
use proto::channel::{Channel, Client};
use proto::edge::{GatewaySandboxd, GatewayVault};
use proto::ids::Role;
use proto::sandbox::SandboxRequest;
use proto::topology::{EdgeId, role};
use proto::vault::VaultRequest;
use std::time::{Duration, Instant};

const CALLS: usize = 2_000;
const PATIENCE: Duration = Duration::from_secs(10);

fn round_trip(channel: &Channel) {
    channel.send(&[b'x'; 64], &[]).unwrap();
    channel.recv_by(4096, 0, Instant::now() + PATIENCE).unwrap();
}

pub fn p6(_full: bool) -> Vec<Row> {
    vec![through_gateway(), sandboxd(), vault()]
}

/// As the goal has it: `status` is `health` and one question to sandboxd.
fn through_gateway() -> Row {
    let system = start();
    let token = system.token();
    let (mut crossing, mut staying) = (Ws::login(system.port(), &token), Ws::login(system.port(), &token));
    crossing.call("status");
    let (_packets, channel) = Control::packets();
    let (measured, control) = alternate(
        7,
        || p50_us(CALLS, || crossing.call("status")),
        || p50_us(CALLS, || staying.call("health")) + p50_us(CALLS, || round_trip(&channel)),
    );
    Row {
        goal: "P6",
        what: "WebSocket call that asks sandboxd / one that asks nobody, plus a raw packet round trip".to_owned(),
        measured,
        control,
        unit: "us",
        bound: Bound::RatioAtMost(1.5),
        published: "",
    }
}

/// The sealed role alone, asked without a gateway: codec, filter and dispatch over the raw round trip.
fn sandboxd() -> Row {
    let sealed = Sealed::start(Role::Sandboxd);
    sealed.make_ready();
    let mut client = Client::<GatewaySandboxd>::new(role::Gateway);
    client.attach(sealed.grant(EdgeId::GatewaySandboxd).0);
    let (_packets, channel) = Control::packets();
    let mut ask = || client.call(&SandboxRequest::Describe, &[], PATIENCE).map(drop).unwrap();
    ask();
    let (measured, control) = alternate(7, || p50_us(CALLS, &mut ask), || p50_us(CALLS, || round_trip(&channel)));
    Row {
        goal: "P6",
        what: "question to a sealed sandboxd / a raw packet round trip".to_owned(),
        measured,
        control,
        unit: "us",
        bound: Bound::Shown,
        published: "",
    }
}

/// A login at the sealed vault crosses two boundaries: its record is written before it is answered. The log is a stand-in
/// without a disk, or the disk would be all there is to see.
fn vault() -> Row {
    let sealed = Sealed::start(Role::Vault);
    sealed.make_ready();
    let token = sealed.gateway_token();
    let mut client = Client::<GatewayVault>::new(role::Gateway);
    client.attach(sealed.grant(EdgeId::GatewayVault).0);
    let (_packets, channel) = Control::packets();
    let mut ask = || {
        let token = proto::secret::Secret::new(token.clone()).ok();
        let request =
            VaultRequest::VerifyClient(Box::new(Login::with_token(BoundedStr::truncated("192.0.2.1"), token)));
        let (reply, _) = client.call(&request, &[], PATIENCE).unwrap();
        assert_eq!(reply, proto::vault::VaultReply::Accepted);
    };
    let both = || {
        round_trip(&channel);
        round_trip(&channel);
    };
    let (measured, control) = alternate(7, || p50_us(CALLS, &mut ask), || p50_us(CALLS, both));
    Row {
        goal: "P6",
        what: "login at a sealed vault, log without a disk / two raw packet round trips".to_owned(),
        measured,
        control,
        unit: "us",
        bound: Bound::Shown,
        published: "",
    }
}
