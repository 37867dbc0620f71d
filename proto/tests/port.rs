//! The asking end against a server that breaks the rules, stalls, floods or dies.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on has failed")]

mod peer;

use peer::{CHUNK, PATIENCE, Peer, chunk, ended, exec, malformed};
use proto::channel::{CallError, ChannelError, Outgoing, frame};
use proto::edge::{Edge, GatewaySandboxd, Refusal};
use proto::ids::RequestId;
use proto::port::Port;
use proto::sandbox::SandboxReply;
use proto::topology::role;
use proto::wire::{Kind, MAX_FRAME};
use std::time::Duration;
use tokio::time::{Instant, timeout};

type Asker = Port<GatewaySandboxd>;
type Call = tokio::task::JoinHandle<Result<SandboxReply, CallError>>;

fn attach(port: &Asker) -> Peer {
    let (peer, channel) = Peer::pair();
    port.attach(channel).unwrap();
    peer
}

fn call(port: &Asker) -> Call {
    let port = port.clone();
    tokio::spawn(async move { port.call(&exec(), PATIENCE).await })
}

/// A port, a question of it that has left, and its server.
async fn asked() -> (Asker, Call, Peer, u32) {
    let port = Asker::new(role::Gateway);
    let peer = attach(&port);
    let call = call(&port);
    let (kind, id) = peer.next().await;
    assert_eq!(kind, Kind::Request as u8);
    (port, call, peer, id)
}

/// The violation was noticed, the call has ended, the end is closed, and a fresh end serves.
async fn assert_lost(port: Asker, call: Call, peer: Peer, what: &str) {
    let detail = timeout(PATIENCE, port.violation()).await.unwrap_or_else(|_| panic!("{what}: nothing noticed"));
    assert!(detail.contains("violation"), "{what}: {detail}");
    assert!(matches!(call.await.unwrap(), Err(CallError::Gone)), "{what}");
    assert!(!port.is_attached(), "{what}");
    peer.assert_closed_unanswered().await;
    let fresh = attach(&port);
    let next = self::call(&port);
    let (_, id) = fresh.next().await;
    fresh.send(Kind::Reply, id, &ended());
    assert_eq!(next.await.unwrap().unwrap(), ended(), "{what}");
}

#[tokio::test]
async fn honest_answers_reach_their_questions_in_any_order() {
    let port = Asker::new(role::Gateway);
    let peer = attach(&port);
    let (first, second) = (call(&port), call(&port));
    let (_, one) = peer.next().await;
    let (_, two) = peer.next().await;
    peer.send(Kind::Refused, two, &Refusal::new("a.b", "c"));
    peer.send(Kind::Reply, one, &ended());
    assert_eq!(first.await.unwrap().unwrap(), ended());
    assert!(matches!(second.await.unwrap(), Err(CallError::Refused(_))));
}

#[tokio::test]
async fn malformed_answer_loses_the_edge_and_is_reported() {
    for (what, bytes) in malformed(Kind::Reply) {
        let (port, call, peer, _) = asked().await;
        peer.raw(&bytes);
        assert_lost(port, call, peer, what).await;
    }
}

#[tokio::test]
async fn descriptor_nobody_asked_for_loses_the_edge() {
    let (port, call, peer, id) = asked().await;
    peer.with_descriptor(&frame(Kind::Reply, RequestId(id), 0, &ended(), MAX_FRAME).unwrap());
    assert_lost(port, call, peer, "descriptor").await;
}

#[tokio::test]
async fn answer_to_no_question_loses_the_edge() {
    let (port, call, peer, id) = asked().await;
    peer.send(Kind::Reply, id + 1, &ended());
    assert_lost(port, call, peer, "no question").await;
}

#[tokio::test]
async fn second_answer_to_one_question_loses_the_edge() {
    let (port, first, peer, id) = asked().await;
    peer.send(Kind::Reply, id, &ended());
    first.await.unwrap().unwrap();
    let second = call(&port);
    let _ = peer.next().await;
    peer.send(Kind::Reply, id, &ended());
    assert_lost(port, second, peer, "second answer").await;
}

#[tokio::test]
async fn chunk_for_a_call_that_streams_nothing_loses_the_edge() {
    let (port, call, peer, id) = asked().await;
    peer.send(Kind::Chunk, id, &chunk());
    assert_lost(port, call, peer, "chunk").await;
}

#[tokio::test]
async fn chunks_within_credit_arrive_and_one_beyond_loses_the_edge() {
    let port = Asker::new(role::Gateway);
    let peer = attach(&port);
    let credit = u32::try_from(CHUNK).unwrap();
    let mut stream = port.stream(&exec(), credit, PATIENCE).await.unwrap();
    let (_, id) = peer.next().await;
    assert_eq!(peer.next().await, (Kind::Credit as u8, id));
    peer.send(Kind::Chunk, id, &chunk());
    assert!(matches!(stream.next().await, Some(Outgoing::Chunk(_))));
    stream.credit(credit).await.unwrap();
    peer.send(Kind::Chunk, id, &chunk());
    assert!(matches!(stream.next().await, Some(Outgoing::Chunk(_))));
    let waiting = call(&port);
    peer.send(Kind::Chunk, id, &chunk());
    assert!(stream.next().await.is_none());
    let detail = timeout(PATIENCE, port.violation()).await.unwrap();
    assert!(detail.contains("more of a stream"), "{detail}");
    drop(stream);
    // Asked before the end was lost, or after and then never sent: in both cases there is no answer for it.
    waiting.abort();
}

#[tokio::test]
async fn empty_chunks_cost_credit_as_well() {
    let port = Asker::new(role::Gateway);
    let peer = attach(&port);
    let _stream = port.stream(&exec(), 3, PATIENCE).await.unwrap();
    let (_, id) = peer.next().await;
    for _ in 0..4 {
        peer.send(Kind::Chunk, id, &proto::sandbox::OutputChunk::Stdout(Default::default()));
    }
    assert!(timeout(PATIENCE, port.violation()).await.is_ok());
}

#[tokio::test]
async fn question_beyond_the_window_is_busy_until_one_is_answered() {
    let port = Asker::new(role::Gateway);
    let peer = attach(&port);
    let mut calls = Vec::new();
    let mut ids = Vec::new();
    for _ in 0..GatewaySandboxd::WINDOW {
        calls.push(call(&port));
        ids.push(peer.next().await.1);
    }
    assert!(matches!(port.call(&exec(), PATIENCE).await, Err(CallError::Busy)));
    assert!(matches!(peer.take(), Err(ChannelError::WouldBlock)), "nothing of it left");
    peer.send(Kind::Reply, ids[0], &ended());
    calls.remove(0).await.unwrap().unwrap();
    let next = call(&port);
    let (_, id) = peer.next().await;
    peer.send(Kind::Reply, id, &ended());
    next.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn silent_server_costs_the_deadline_and_its_late_answer_is_passed_over() {
    let port = Asker::new(role::Gateway);
    let peer = attach(&port);
    let begin = Instant::now();
    let wait = Duration::from_millis(700);
    assert!(matches!(port.call(&exec(), wait).await, Err(CallError::Deadline)));
    assert!(begin.elapsed() >= wait && begin.elapsed() < wait * 2);
    let (_, id) = peer.next().await;
    assert_eq!(peer.next().await, (Kind::Cancel as u8, id));
    peer.send(Kind::Reply, id, &ended());
    let next = call(&port);
    let (_, id) = peer.next().await;
    peer.send(Kind::Reply, id, &ended());
    assert_eq!(next.await.unwrap().unwrap(), ended());
}

#[tokio::test(start_paused = true)]
async fn server_that_reads_nothing_costs_each_call_its_own_deadline_and_no_place_in_the_window() {
    let port = Asker::new(role::Gateway);
    let peer = attach(&port);
    // The peer's buffer, filled by questions that are cancelled and answered by nobody.
    let large = || {
        let command = proto::bounded::BoundedStr::truncated(&"x".repeat(8_000));
        let session = proto::ids::SessionKey(proto::bounded::BoundedStr::truncated("s"));
        proto::sandbox::SandboxRequest::Exec { session, command, options: proto::sandbox::ExecOptions::default() }
    };
    let wait = Duration::from_millis(100);
    let mut sent = 0;
    for _ in 0..3 * GatewaySandboxd::WINDOW {
        let begin = Instant::now();
        match port.call(&large(), wait).await {
            Err(CallError::Deadline) => sent += 1,
            other => panic!("{other:?}"),
        }
        assert!(begin.elapsed() < wait * 2, "a call outlived its deadline: {:?}", begin.elapsed());
    }
    assert!(sent > GatewaySandboxd::WINDOW);
    drop(peer);
}

#[tokio::test]
async fn server_that_dies_ends_its_calls_at_once_and_is_not_accused() {
    let (port, call, peer, _) = asked().await;
    drop(peer);
    assert!(matches!(call.await.unwrap(), Err(CallError::Gone)));
    assert!(timeout(Duration::from_millis(20), port.violation()).await.is_err());
}

#[tokio::test]
async fn server_that_dies_in_a_stream_ends_it() {
    let port = Asker::new(role::Gateway);
    let peer = attach(&port);
    let mut stream = port.stream(&exec(), 10_000, PATIENCE).await.unwrap();
    let (_, id) = peer.next().await;
    peer.send(Kind::Chunk, id, &chunk());
    drop(peer);
    assert!(matches!(stream.next().await, Some(Outgoing::Chunk(_))));
    assert!(stream.next().await.is_none());
    assert!(matches!(stream.credit(1).await, Err(CallError::Gone)));
}

#[tokio::test]
async fn question_between_two_servers_waits_for_the_second() {
    let (port, first, peer, _) = asked().await;
    drop(peer);
    assert!(first.await.unwrap().is_err());
    let second = call(&port);
    tokio::task::yield_now().await;
    let fresh = attach(&port);
    let (_, id) = fresh.next().await;
    fresh.send(Kind::Reply, id, &ended());
    assert_eq!(second.await.unwrap().unwrap(), ended());
}

#[tokio::test]
async fn dropped_question_is_cancelled() {
    let (_port, call, peer, id) = asked().await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    assert_eq!(peer.next().await, (Kind::Cancel as u8, id));
}
