//! The answering end against a client that breaks the rules: a violation is the end of the edge and is never answered.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on has failed")]

mod peer;

use peer::{CHUNK, Peer, chunk, ended, exec, malformed};
use proto::channel::{Channel, ChannelError};
use proto::edge::{Edge, EgressDialer, GatewaySandboxd, Refusal};
use proto::port::{MAX_CREDIT, Request, Server};
use proto::sandbox::SandboxRequest;
use proto::wire::Kind;
use std::io::{ErrorKind, Read as _};
use std::time::Duration;
use tokio::time::{Instant, timeout};

fn window() -> u32 {
    u32::try_from(GatewaySandboxd::WINDOW).unwrap()
}

fn server() -> (Peer, Server<GatewaySandboxd>) {
    let (peer, channel) = Peer::pair();
    (peer, Server::new(channel).unwrap())
}

fn violation(next: Result<Request<GatewaySandboxd>, ChannelError>) -> String {
    match next {
        Err(error) if error.is_violation() => error.to_string(),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("taken for a request"),
    }
}

#[tokio::test]
async fn honest_request_is_answered() {
    let (peer, server) = server();
    peer.send(Kind::Request, 7, &exec());
    let request = server.next().await.unwrap();
    assert!(matches!(request.request, SandboxRequest::Exec { .. }));
    request.responder.reply(&ended(), &[]).await.unwrap();
    assert_eq!(peer.next().await, (Kind::Reply as u8, 7));
    peer.send(Kind::Request, 8, &exec());
    server.next().await.unwrap().responder.refuse(&Refusal::new("a.b", "c")).await.unwrap();
    assert_eq!(peer.next().await, (Kind::Refused as u8, 8));
}

#[tokio::test]
async fn malformed_packet_ends_the_edge_unanswered() {
    for (what, bytes) in malformed(Kind::Request) {
        let (peer, server) = server();
        peer.raw(&bytes);
        assert!(!violation(server.next().await).is_empty(), "{what}");
        drop(server);
        peer.assert_closed_unanswered().await;
    }
}

#[tokio::test]
async fn descriptor_nobody_asked_for_ends_the_edge_and_does_not_enter() {
    let (peer, server) = server();
    let mut copies = peer
        .with_descriptor(&proto::channel::frame(Kind::Request, proto::ids::RequestId(1), 0, &exec(), 16_384).unwrap());
    assert_eq!(copies.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock, "the twin: a copy that is open shows");
    let _ = violation(server.next().await);
    assert_eq!(copies.read(&mut [0]).unwrap(), 0, "no copy is open any more");
    drop(server);
    peer.assert_closed_unanswered().await;
}

#[tokio::test]
async fn missing_descriptor_is_a_violation_where_the_edge_wants_one() {
    let (peer, channel) = Peer::pair();
    let server = Server::<proto::edge::SandboxdLauncher>::new(channel).unwrap();
    peer.send(Kind::Request, 1, &proto::sandbox::LaunchRequest::Probe);
    assert!(server.next().await.err().unwrap().is_violation());
}

#[tokio::test]
async fn answer_that_was_owed_is_not_sent_after_a_violation() {
    let (peer, server) = server();
    peer.send(Kind::Request, 1, &exec());
    let owed = server.next().await.unwrap();
    peer.raw(&[99; 7]);
    let _ = violation(server.next().await);
    drop(server);
    timeout(Duration::from_secs(5), owed.responder.cancelled()).await.unwrap();
    assert!(matches!(owed.responder.reply(&ended(), &[]).await, Err(ChannelError::Closed)));
    peer.assert_closed_unanswered().await;
}

#[tokio::test]
async fn window_is_served_whole_and_one_more_is_a_violation() {
    let (peer, server) = server();
    let mut running = Vec::new();
    for id in 0..window() {
        peer.send(Kind::Request, id, &exec());
        running.push(server.next().await.unwrap());
    }
    // An answer gives its place back.
    running.pop().unwrap().responder.reply(&ended(), &[]).await.unwrap();
    assert_eq!(peer.next().await, (Kind::Reply as u8, window() - 1));
    peer.send(Kind::Request, window(), &exec());
    running.push(server.next().await.unwrap());
    peer.send(Kind::Request, window() + 1, &exec());
    assert!(violation(server.next().await).contains("window"));
    drop((server, running));
    peer.assert_closed_unanswered().await;
}

#[tokio::test]
async fn id_in_flight_is_no_new_request() {
    let (peer, server) = server();
    peer.send(Kind::Request, 1, &exec());
    let _running = server.next().await.unwrap();
    peer.send(Kind::Request, 1, &exec());
    assert!(violation(server.next().await).contains("in flight"));
}

#[tokio::test]
async fn chunk_waits_for_credit_and_goes_when_it_comes() {
    let (peer, server) = server();
    peer.send(Kind::Request, 1, &exec());
    let request = server.next().await.unwrap();
    let short = u32::try_from(CHUNK).unwrap() - 1;
    peer.send(Kind::Credit, 1, &short);
    peer.send(Kind::Request, 2, &exec());
    let _second = server.next().await.unwrap();
    let part = chunk();
    let mut send = Box::pin(request.responder.chunk(&part));
    assert!(timeout(Duration::from_millis(20), &mut send).await.is_err());
    assert!(matches!(peer.take(), Err(ChannelError::WouldBlock)));
    peer.send(Kind::Credit, 1, &1u32);
    peer.send(Kind::Request, 3, &exec());
    let _third = server.next().await.unwrap();
    send.await.unwrap();
    assert_eq!(peer.next().await, (Kind::Chunk as u8, 1));
}

#[tokio::test]
async fn credit_over_its_bound_is_a_violation_and_for_nobody_is_passed_over() {
    let (peer, server) = server();
    peer.send(Kind::Credit, 77, &u32::MAX);
    peer.send(Kind::Request, 1, &exec());
    let _request = server.next().await.unwrap();
    peer.send(Kind::Credit, 1, &u32::try_from(MAX_CREDIT).unwrap());
    peer.send(Kind::Credit, 1, &1u32);
    assert!(violation(server.next().await).contains("credit"));
}

#[tokio::test]
async fn client_that_dies_is_no_violation_and_what_it_ran_is_cancelled() {
    let (peer, server) = server();
    peer.send(Kind::Request, 1, &exec());
    let request = server.next().await.unwrap();
    drop(peer);
    assert!(matches!(server.next().await.err().unwrap(), ChannelError::Closed));
    drop(server);
    timeout(Duration::from_secs(5), request.responder.cancelled()).await.unwrap();
    // Its credit will never come.
    assert!(matches!(request.responder.chunk(&chunk()).await, Err(ChannelError::Closed)));
}

#[tokio::test(start_paused = true)]
async fn client_that_reads_no_answer_is_bounded_and_then_reported() {
    let (peer, server) = server();
    let begin = Instant::now();
    let (mut taken, mut id) = (0u32, 0u32);
    let error = loop {
        // Asks as fast as it may, reads nothing; the server never has more than a window of it.
        while let Ok(()) = {
            let bytes =
                proto::channel::frame(Kind::Request, proto::ids::RequestId(id), 0, &SandboxRequest::Describe, 64);
            peer.0.send(&bytes.unwrap(), &[])
        } {
            id += 1;
        }
        match server.next().await {
            Ok(request) => {
                taken += 1;
                tokio::spawn(async move { request.responder.reply(&described(), &[]).await });
                tokio::task::yield_now().await;
            }
            Err(error) => break error,
        }
    };
    assert!(error.is_violation(), "{error}");
    assert!(taken < 2_000, "{taken} requests were taken from a peer that reads nothing");
    assert!(begin.elapsed() < Duration::from_secs(6));
    assert!(id >= taken);
}

#[tokio::test(start_paused = true)]
async fn one_answer_that_is_not_read_is_reported_at_its_deadline() {
    let (peer, server) = server();
    fill(&peer, &server).await;
    peer.send(Kind::Request, 9_999, &SandboxRequest::Describe);
    let request = server.next().await.unwrap();
    let begin = Instant::now();
    let answer = tokio::spawn(async move { request.responder.reply(&described(), &[]).await });
    assert!(violation(server.next().await).contains("does not read"));
    assert!(begin.elapsed() >= Duration::from_secs(5));
    assert!(matches!(answer.await.unwrap(), Err(ChannelError::Deadline)));
}

/// Answers requests until the peer's buffer is full.
async fn fill(peer: &Peer, server: &Server<GatewaySandboxd>) {
    for id in 0.. {
        peer.send(Kind::Request, id, &SandboxRequest::Describe);
        let request = server.next().await.unwrap();
        let sent = timeout(Duration::from_millis(1), request.responder.reply(&described(), &[])).await;
        if sent.is_err() {
            return;
        }
    }
}

fn described() -> proto::sandbox::SandboxReply {
    let detail = proto::bounded::BoundedStr::truncated(&"x".repeat(500));
    proto::sandbox::SandboxReply::Described { backend: proto::sandbox::Backend::None, detail }
}

#[tokio::test]
async fn each_edge_cuts_at_its_own_cap() {
    let (ours, theirs) = Channel::pair().unwrap();
    let server = Server::<EgressDialer>::new(theirs).unwrap();
    ours.send(&vec![1; EgressDialer::MAX_REQUEST + 1], &[]).unwrap();
    assert!(server.next().await.err().unwrap().is_violation());
}
