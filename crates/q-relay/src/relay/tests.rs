//! Tests of the relay between two in-memory pipes, most of them of a few bytes, under a paused clock.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::time::{advance, timeout};

use super::ending::LONGEST_CHECK;
use super::*;
use crate::histogram::Histogram;
use q_ipc::frame::{FrameTracker, HEADER_LEN, Header, MessageType, StreamPart};
use q_ipc::message::{error_response, message, text};

const EVERY: Duration = Duration::from_secs(60);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(7_200);
const SYNC: KeepaliveMode = KeepaliveMode::Sync {
    answer_timeout: ANSWER_TIMEOUT,
};
const PING: [u8; 14] = [1, 0, 0, 0, 14, 0, 0, 0, 10, 0, 0, 0, 0, 0];

fn plan(mode: Option<KeepaliveMode>) -> Plan {
    Plan {
        keepalive: mode.map_or(KeepaliveSettings::Off, |mode| KeepaliveSettings::On {
            every: EVERY,
            message: String::new(),
            mode,
        }),
        max_message: None,
    }
}

struct Pair {
    client: DuplexStream,
    kdb: DuplexStream,
    relay: tokio::task::JoinHandle<(End, u64)>,
}

/// A relay with a pipe of `size` bytes to the client and one to kdb+.
fn relayed(plan: Plan, size: usize) -> Pair {
    relayed_with(plan, size, Vec::new())
}

fn relayed_with(plan: Plan, size: usize, early: Vec<u8>) -> Pair {
    let (client, mut client_side) = duplex(size);
    let (kdb, mut kdb_side) = duplex(size);
    let relay = tokio::spawn(async move {
        let meters = Meters::default();
        let mut relay = Relay::new(&mut client_side, &mut kdb_side, &early, &plan, &meters);
        let end = relay.run().await;
        (end, meters.pings())
    });
    Pair { client, kdb, relay }
}

async fn read_exactly(stream: &mut DuplexStream, expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    timeout(Duration::from_secs(1), stream.read_exact(&mut bytes))
        .await
        .expect("nothing came")
        .unwrap();
    assert_eq!(bytes, expected);
}

async fn read_nothing(stream: &mut DuplexStream) {
    let mut byte = [0];
    let read = timeout(Duration::from_millis(1), stream.read(&mut byte)).await;
    assert!(read.is_err(), "{read:?} {byte:?}");
}

async fn read_end(stream: &mut DuplexStream) {
    let mut byte = [0];
    let read = timeout(Duration::from_secs(1), stream.read(&mut byte)).await;
    assert_eq!(read.expect("no end came").unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_its_answer_and_the_close() {
    let mut pair = relayed(plan(None), 4);
    let request = text(MessageType::Sync, "1+1");
    pair.client.write_all(&request).await.unwrap();
    read_exactly(&mut pair.kdb, &request).await;
    let answer = message(MessageType::Response, &[0xf9, 2, 0, 0, 0, 0, 0, 0, 0]);
    pair.kdb.write_all(&answer).await.unwrap();
    read_exactly(&mut pair.client, &answer).await;
    pair.client.shutdown().await.unwrap();
    read_end(&mut pair.kdb).await;
    pair.kdb.shutdown().await.unwrap();
    assert!(matches!(pair.relay.await.unwrap().0, End::ClientClosed));
}

#[tokio::test(start_paused = true)]
async fn what_came_with_the_handshake_goes_first() {
    let early = text(MessageType::Sync, "early");
    let mut pair = relayed_with(plan(None), 64, early.clone());
    read_exactly(&mut pair.kdb, &early).await;
}

#[tokio::test(start_paused = true)]
async fn a_header_reaches_the_client_whole() {
    let mut pair = relayed(plan(None), 64);
    let answer = message(MessageType::Response, b"abc");
    pair.kdb.write_all(&answer[..7]).await.unwrap();
    read_nothing(&mut pair.client).await;
    pair.kdb.write_all(&answer[7..8]).await.unwrap();
    read_exactly(&mut pair.client, &answer[..8]).await;
    pair.kdb.write_all(&answer[8..]).await.unwrap();
    read_exactly(&mut pair.client, &answer[8..]).await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_pinged_and_the_client_never_sees_it() {
    let mut pair = relayed(plan(Some(KeepaliveMode::Async)), 64);
    for _ in 0..10 {
        tokio::task::yield_now().await;
        advance(EVERY).await;
        read_exactly(&mut pair.kdb, &PING).await;
    }
    read_nothing(&mut pair.client).await;
    pair.client.shutdown().await.unwrap();
    read_end(&mut pair.kdb).await;
    drop(pair.kdb);
    let (end, pings) = pair.relay.await.unwrap();
    assert!(matches!(end, End::ClientClosed), "{end:?}");
    assert_eq!(pings, 10);
}

#[tokio::test(start_paused = true)]
async fn no_ping_inside_a_message_and_one_right_behind_it() {
    let mut pair = relayed(plan(Some(KeepaliveMode::Async)), 64);
    let request = text(MessageType::Async, "abc");
    pair.client.write_all(&request[..10]).await.unwrap();
    read_exactly(&mut pair.kdb, &request[..10]).await;
    advance(3 * EVERY).await;
    read_nothing(&mut pair.kdb).await;
    pair.client.write_all(&request[10..]).await.unwrap();
    read_exactly(&mut pair.kdb, &request[10..]).await;
    advance(EVERY).await;
    read_exactly(&mut pair.kdb, &PING).await;
}

#[tokio::test(start_paused = true)]
async fn a_ping_goes_before_a_header_of_which_only_a_part_has_come() {
    let mut pair = relayed(plan(Some(KeepaliveMode::Async)), 64);
    let request = text(MessageType::Async, "abc");
    pair.client.write_all(&request[..5]).await.unwrap();
    read_nothing(&mut pair.kdb).await;
    advance(EVERY).await;
    read_exactly(&mut pair.kdb, &PING).await;
    pair.client.write_all(&request[5..]).await.unwrap();
    read_exactly(&mut pair.kdb, &request).await;
}

/// A pair whose kdb+ has received a sync ping and has not answered it.
async fn awaiting_a_pong(size: usize) -> Pair {
    let mut pair = relayed(plan(Some(SYNC)), size);
    tokio::task::yield_now().await;
    advance(EVERY).await;
    read_exactly(&mut pair.kdb, &text(MessageType::Sync, "")).await;
    pair
}

#[tokio::test(start_paused = true)]
async fn a_sync_ping_holds_the_client_until_its_answer_which_is_kept() {
    let mut pair = awaiting_a_pong(64).await;
    let request = text(MessageType::Sync, "1+1");
    pair.client.write_all(&request).await.unwrap();
    read_nothing(&mut pair.kdb).await;
    // Meanwhile an update from kdb+ still reaches the client.
    let update = message(MessageType::Async, b"upd");
    pair.kdb.write_all(&update).await.unwrap();
    read_exactly(&mut pair.client, &update).await;
    let kept = message(MessageType::Response, b"the answer to the ping");
    pair.kdb.write_all(&kept).await.unwrap();
    read_exactly(&mut pair.kdb, &request).await;
    let answer = message(MessageType::Response, b"2");
    pair.kdb.write_all(&answer).await.unwrap();
    read_exactly(&mut pair.client, &answer).await;
}

#[tokio::test(start_paused = true)]
async fn no_sync_ping_while_a_request_is_outstanding() {
    let mut pair = relayed(plan(Some(SYNC)), 64);
    let request = text(MessageType::Sync, "1+1");
    pair.client.write_all(&request).await.unwrap();
    read_exactly(&mut pair.kdb, &request).await;
    advance(5 * EVERY).await;
    read_nothing(&mut pair.kdb).await;
}

#[tokio::test(start_paused = true)]
async fn a_waiting_client_is_told_that_kdb_has_gone() {
    let mut pair = relayed(plan(None), 256);
    let request = text(MessageType::Sync, "1+1");
    pair.client.write_all(&request).await.unwrap();
    read_exactly(&mut pair.kdb, &request).await;
    drop(pair.kdb);
    let error = "hopend: the cluster closed the connection with a request outstanding";
    read_exactly(&mut pair.client, &error_response(error)).await;
    read_end(&mut pair.client).await;
    drop(pair.client);
    assert!(matches!(
        pair.relay.await.unwrap().0,
        End::UpstreamClosed { outstanding: 1, .. }
    ));
}

#[tokio::test(start_paused = true)]
async fn an_idle_client_sees_a_plain_end_when_kdb_closes() {
    let mut pair = relayed(plan(None), 64);
    drop(pair.kdb);
    read_end(&mut pair.client).await;
    drop(pair.client);
    let (end, _) = pair.relay.await.unwrap();
    assert!(matches!(end, End::UpstreamClosed { outstanding: 0, .. }));
    assert_eq!(end.farewell(), Farewell::EndOfStream);
}

#[tokio::test(start_paused = true)]
async fn an_end_inside_a_message_resets_the_client() {
    for cut in [8, 9, 20] {
        let mut pair = relayed(plan(None), 64);
        let answer = text(MessageType::Response, "some text");
        pair.kdb.write_all(&answer[..cut]).await.unwrap();
        drop(pair.kdb);
        let (end, _) = pair.relay.await.unwrap();
        assert_eq!(end.farewell(), Farewell::Reset, "cut at {cut}: {end:?}");
        drop(pair.client);
    }
}

#[tokio::test(start_paused = true)]
async fn whole_messages_before_a_torn_one_wait_for_a_busy_client() {
    let mut pair = relayed(plan(None), 64);
    let whole = text(MessageType::Async, &"w".repeat(50_000));
    let torn = &text(MessageType::Async, "torn")[..12];
    pair.kdb
        .write_all(&[&whole[..], torn].concat())
        .await
        .unwrap();
    drop(pair.kdb);
    advance(10 * UPSTREAM_CLOSE_TIMEOUT).await;
    read_exactly(&mut pair.client, &whole).await;
    read_exactly(&mut pair.client, torn).await;
    let (end, _) = pair.relay.await.unwrap();
    assert_eq!(end.farewell(), Farewell::Reset, "{end:?}");
}

/// The relay refuses a message because of its header, and ends the session. kdb+ still receives the messages
/// before it.
#[tokio::test(start_paused = true)]
async fn messages_before_a_refused_one_wait_for_a_busy_kdb() {
    let mut plan = plan(None);
    plan.max_message = Some(1_000);
    let mut pair = relayed(plan, 64);
    let taken: Vec<u8> = (0..50)
        .flat_map(|_| text(MessageType::Async, &"t".repeat(500)))
        .collect();
    let refused = text(MessageType::Async, &"r".repeat(2_000));
    pair.client.write_all(&taken).await.unwrap();
    pair.client.write_all(&refused[..8]).await.unwrap();
    read_end(&mut pair.client).await;
    let ended = timeout(3 * CLIENT_CLOSE_TIMEOUT, &mut pair.relay).await;
    assert!(ended.is_err(), "{ended:?}");
    read_exactly(&mut pair.kdb, &taken).await;
    drop(pair.client);
    let (end, _) = pair.relay.await.unwrap();
    assert!(matches!(end, End::ClientMessage { .. }), "{end:?}");
}

/// kdb+ has closed, and the client has not read kdb+'s last bytes yet. The relay does not read what the
/// client writes, because it could only discard it.
#[tokio::test(start_paused = true)]
async fn a_client_that_only_writes_to_a_kdb_that_is_gone_waits() {
    let mut pair = relayed(plan(None), 64);
    let update = text(MessageType::Async, &"u".repeat(1_000_000));
    let saying = async { pair.kdb.write_all(&update).await };
    let said = timeout(EVERY, saying).await;
    assert!(said.is_err(), "the client takes nothing");
    drop(pair.kdb);
    let more = text(MessageType::Async, &"m".repeat(1_000_000));
    let written = timeout(10 * EVERY, pair.client.write_all(&more)).await;
    assert!(written.is_err(), "written into nothing");
}

#[tokio::test(start_paused = true)]
async fn an_end_inside_a_header_is_told_to_a_client_that_waits_and_a_plain_end_to_another() {
    let request = text(MessageType::Sync, "1+1");
    for (cut, asked) in [(1, true), (7, true), (1, false), (7, false)] {
        let mut pair = relayed(plan(None), 256);
        let update = text(MessageType::Async, "upd");
        pair.kdb.write_all(&update).await.unwrap();
        if asked {
            pair.client.write_all(&request).await.unwrap();
            read_exactly(&mut pair.kdb, &request).await;
        }
        let answer = text(MessageType::Response, "some text");
        pair.kdb.write_all(&answer[..cut]).await.unwrap();
        drop(pair.kdb);
        read_exactly(&mut pair.client, &update).await;
        if asked {
            let error = "hopend: the cluster's connection ended inside a message";
            read_exactly(&mut pair.client, &error_response(error)).await;
        }
        read_end(&mut pair.client).await;
        drop(pair.client);
        let (end, _) = pair.relay.await.unwrap();
        assert!(
            matches!(
                end,
                End::UpstreamCut {
                    client: ClientPosition::BetweenMessages,
                    ..
                }
            ),
            "{end:?}"
        );
        assert_eq!(end.farewell(), Farewell::EndOfStream);
    }
}

/// The client receives no byte of the answer to a ping, so a cut inside it leaves the client between
/// messages.
#[tokio::test(start_paused = true)]
async fn an_end_inside_the_answer_to_a_ping_is_told_to_a_client_that_waits_behind_it() {
    let mut pair = awaiting_a_pong(256).await;
    let request = text(MessageType::Sync, "1+1");
    pair.client.write_all(&request).await.unwrap();
    read_nothing(&mut pair.kdb).await;
    let kept = message(MessageType::Response, b"the answer to the ping");
    pair.kdb.write_all(&kept[..20]).await.unwrap();
    drop(pair.kdb);
    let error = "hopend: the cluster's connection ended inside a message";
    read_exactly(&mut pair.client, &error_response(error)).await;
    read_end(&mut pair.client).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_closed_its_sending_side_still_gets_its_answer() {
    let mut pair = relayed(plan(None), 64);
    let request = text(MessageType::Sync, "slow");
    pair.client.write_all(&request).await.unwrap();
    pair.client.shutdown().await.unwrap();
    read_exactly(&mut pair.kdb, &request).await;
    read_end(&mut pair.kdb).await;
    advance(100 * UPSTREAM_CLOSE_TIMEOUT).await;
    let answer = message(MessageType::Response, b"at last");
    pair.kdb.write_all(&answer).await.unwrap();
    read_exactly(&mut pair.client, &answer).await;
    // kdb+ does not close. It owes no answer any more, so only UPSTREAM_CLOSE_TIMEOUT applies.
    let (end, _) = timeout(2 * UPSTREAM_CLOSE_TIMEOUT, pair.relay)
        .await
        .unwrap()
        .unwrap();
    assert!(matches!(end, End::ClientClosed));
}

#[tokio::test(start_paused = true)]
async fn what_is_no_message_ends_the_session_with_its_reason() {
    for (bytes, reason) in [
        ([1, 1, 0, 0, 8, 0, 0, 0], "a message length of 8 bytes"),
        ([1, 1, 9, 0, 9, 0, 0, 0], "compression flag 9"),
    ] {
        let mut pair = relayed(plan(None), 256);
        pair.client.write_all(&bytes).await.unwrap();
        let mut answer = Vec::new();
        pair.client.read_to_end(&mut answer).await.unwrap();
        let said = String::from_utf8_lossy(&answer);
        assert!(said.contains(reason), "{said}");
        read_end(&mut pair.kdb).await;
        drop(pair.kdb);
        drop(pair.client);
        assert!(matches!(
            pair.relay.await.unwrap().0,
            End::ClientMessage {
                client: ClientPosition::BetweenMessages,
                ..
            }
        ));
    }
    let mut pair = relayed(plan(None), 256);
    pair.kdb.write_all(&[1, 7, 0, 0, 9, 0, 0, 0]).await.unwrap();
    read_end(&mut pair.client).await;
    drop((pair.client, pair.kdb));
    assert!(matches!(
        pair.relay.await.unwrap().0,
        End::UpstreamMessage(_)
    ));
}

#[tokio::test(start_paused = true)]
async fn a_message_over_the_limit_is_refused_by_its_header() {
    let limited = Plan {
        max_message: Some(100),
        ..plan(None)
    };
    let mut pair = relayed(limited, 256);
    let request = text(MessageType::Sync, &"x".repeat(100));
    pair.client.write_all(&request).await.unwrap();
    let mut answer = Vec::new();
    pair.client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(
        answer,
        error_response("hopend: a message of 114 bytes (max_message of the endpoint is 100)")
    );
    read_end(&mut pair.kdb).await;
}

/// An arbitrary q message: any header fields and any body.
fn any_message() -> impl Strategy<Value = Vec<u8>> {
    (
        any::<bool>(),
        prop_oneof![
            Just(MessageType::Async),
            Just(MessageType::Sync),
            Just(MessageType::Response)
        ],
        0..3u8,
        prop::collection::vec(any::<u8>(), 1..200),
    )
        .prop_map(|(little_endian, message_type, compression, body)| {
            let header = Header {
                little_endian,
                message_type,
                compression,
                length: (HEADER_LEN + body.len()) as u64,
            };
            [&header.encode()[..], &body].concat()
        })
}

/// Removes the pings from the bytes that kdb+ has read. Returns the other bytes, and the number of pings.
/// Panics if a ping is inside a message.
fn without_pings(mut bytes: &[u8]) -> (Vec<u8>, usize) {
    let (mut rest, mut pings) = (Vec::new(), 0);
    while !bytes.is_empty() {
        let length = match FrameTracker::default().next(bytes) {
            Ok(StreamPart::Header(header)) => usize::try_from(header.length).unwrap(),
            other => panic!("a ping inside a message: {other:?}"),
        };
        let (message, behind) = bytes.split_at(length);
        if message == PING {
            pings += 1;
        } else {
            rest.extend_from_slice(message);
        }
        bytes = behind;
    }
    (rest, pings)
}

async fn both_ways(up: Vec<u8>, down: Vec<u8>, pieces: Vec<(usize, u64)>, pipe: usize) -> u64 {
    let Pair {
        mut client,
        mut kdb,
        relay,
    } = relayed(plan(Some(KeepaliveMode::Async)), pipe);
    let (mut got_up, mut got_down) = (Vec::new(), Vec::new());
    {
        let (mut client_read, mut client_write) = tokio::io::split(&mut client);
        let (mut kdb_read, mut kdb_write) = tokio::io::split(&mut kdb);
        let writes_up = async {
            let mut pieces = pieces.iter().cycle();
            let mut rest = &up[..];
            while !rest.is_empty() {
                let &(length, pause) = pieces.next().unwrap();
                let (piece, behind) = rest.split_at(length.min(rest.len()));
                client_write.write_all(piece).await.unwrap();
                tokio::time::sleep(Duration::from_secs(pause)).await;
                rest = behind;
            }
            client_write.shutdown().await.unwrap();
        };
        let writes_down = async {
            for piece in down.chunks(pieces[0].0) {
                kdb_write.write_all(piece).await.unwrap();
            }
            // kdb+ closes after the client, which ends the session.
            kdb_read.read_to_end(&mut got_up).await.unwrap();
            kdb_write.shutdown().await.unwrap();
        };
        let reads_down = client_read.read_to_end(&mut got_down);
        let ((), (), read) = tokio::join!(writes_up, writes_down, reads_down);
        read.unwrap();
    }
    let (end, pings) = relay.await.unwrap();
    let unanswered = match end {
        End::ClientClosed => false,
        End::UpstreamClosed { outstanding, .. } => outstanding > 0,
        end => panic!("{end:?}"),
    };
    let (rest, seen) = without_pings(&got_up);
    assert_eq!(rest, up);
    assert_eq!(seen as u64, pings);
    // A client with unanswered requests receives an error after all bytes that kdb+ sent.
    let (relayed, told) = got_down.split_at(down.len());
    assert_eq!(relayed, down);
    let said = String::from_utf8_lossy(told);
    assert_eq!(said.contains("hopend: the cluster closed"), unanswered);
    assert_eq!(told.is_empty(), !unanswered, "{said}");
    pings
}

fn run_paused<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Both receivers get exactly the bytes that were sent, in whatever pieces the bytes arrive. The relay
    /// inserts pings at random times, and never inside a message.
    #[test]
    fn the_streams_are_the_same_bit_for_bit(
        up in prop::collection::vec(any_message(), 0..12),
        down in prop::collection::vec(any_message(), 0..12),
        pieces in prop::collection::vec((1..300usize, 0..200u64), 1..20),
        pipe in 1..300usize,
    ) {
        run_paused(both_ways(up.concat(), down.concat(), pieces, pipe));
    }
}

/// Two messages of each byte order, cut at every byte. The pause at the cut is longer than the ping interval.
#[test]
fn every_single_cut() {
    let little = text(MessageType::Sync, "select from trade");
    let big = [&[0, 0, 0, 0, 0, 0, 0, 11][..], b"abc"].concat();
    let stream = [little.clone(), big.clone(), little, big].concat();
    let mut pings = 0;
    for cut in 1..stream.len() {
        let pieces = vec![(cut, 70), (stream.len(), 70)];
        pings += run_paused(both_ways(stream.clone(), stream.clone(), pieces, 64));
    }
    assert!(pings > 0, "the pauses were meant to bring pings");
}

#[tokio::test(start_paused = true)]
async fn draining_ends_an_idle_session_at_once_and_a_busy_one_after_its_answer() {
    let (mut client, mut client_side) = duplex(64);
    let (mut kdb, mut kdb_side) = duplex(64);
    let (meters, plan) = (Meters::default(), plan(None));
    let mut relay = Relay::new(&mut client_side, &mut kdb_side, &[], &plan, &meters);
    let request = text(MessageType::Sync, "slow");
    client.write_all(&request).await.unwrap();
    assert!(timeout(Duration::from_secs(1), relay.run()).await.is_err());
    relay.drain();
    assert!(timeout(Duration::from_secs(1), relay.run()).await.is_err());
    read_exactly(&mut kdb, &request).await;
    let answer = message(MessageType::Response, b"done");
    kdb.write_all(&answer).await.unwrap();
    assert!(matches!(relay.run().await, End::Drained));
    read_exactly(&mut client, &answer).await;
}

/// A feed sends its batch and closes. kdb+ reads it only after an hour.
#[tokio::test(start_paused = true)]
async fn what_a_client_sent_before_it_closed_waits_for_a_busy_kdb() {
    let mut pair = relayed(plan(None), 64);
    let batch = text(MessageType::Async, &"x".repeat(1_000));
    pair.client.write_all(&batch).await.unwrap();
    drop(pair.client);
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    let mut got = Vec::new();
    pair.kdb.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, batch);
}

/// kdb+ sends an update and closes. The busy client reads it only after an hour.
#[tokio::test(start_paused = true)]
async fn what_a_kdb_sent_before_it_closed_waits_for_a_busy_client() {
    let mut pair = relayed(plan(None), 64);
    let update = text(MessageType::Async, &"x".repeat(1_000));
    pair.kdb.write_all(&update).await.unwrap();
    drop(pair.kdb);
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    let mut got = Vec::new();
    pair.client.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, update);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_message_while_an_answer_streams_resets_the_client() {
    let mut pair = relayed(plan(None), 64);
    let answer = text(MessageType::Response, "a long answer");
    pair.kdb.write_all(&answer[..12]).await.unwrap();
    read_exactly(&mut pair.client, &answer[..12]).await;
    pair.client.write_all(&[9; 8]).await.unwrap();
    let (end, _) = pair.relay.await.unwrap();
    assert!(matches!(
        end,
        End::ClientMessage {
            client: ClientPosition::InsideMessage,
            ..
        }
    ));
    assert_eq!(end.farewell(), Farewell::Reset);
}

#[tokio::test(start_paused = true)]
async fn a_torn_answer_resets_a_client_that_has_closed_its_sending_side() {
    let mut pair = relayed(plan(None), 64);
    let request = text(MessageType::Sync, "slow");
    pair.client.write_all(&request).await.unwrap();
    pair.client.shutdown().await.unwrap();
    read_exactly(&mut pair.kdb, &request).await;
    let answer = text(MessageType::Response, "a long answer");
    pair.kdb.write_all(&answer[..12]).await.unwrap();
    drop(pair.kdb);
    let (end, _) = pair.relay.await.unwrap();
    assert!(
        matches!(
            end,
            End::UpstreamCut {
                client: ClientPosition::InsideMessage,
                ..
            }
        ),
        "{end:?}"
    );
}

/// The answer to a sync ping fills the buffer after another message. The message after the answer still
/// passes.
#[tokio::test(start_paused = true)]
async fn a_large_answer_to_a_sync_ping_does_not_stop_the_lane() {
    let mut pair = awaiting_a_pong(1 << 20).await;
    let before = text(MessageType::Async, &"b".repeat(50_000));
    let kept = text(MessageType::Response, &"k".repeat(400_000));
    let behind = text(MessageType::Async, "behind");
    let all = [&before[..], &kept, &behind].concat();
    pair.kdb.write_all(&all).await.unwrap();
    read_exactly(&mut pair.client, &before).await;
    read_exactly(&mut pair.client, &behind).await;
}

/// The figures that `hopend status` shows while a session runs.
#[tokio::test(start_paused = true)]
async fn meters_tell_what_waits_and_how_long_nothing_moved_keepalives_apart() {
    let (mut client, mut client_side) = duplex(256);
    let (mut kdb, mut kdb_side) = duplex(256);
    let (meters, plan) = (Meters::default(), plan(Some(KeepaliveMode::Async)));
    let mut relay = Relay::new(&mut client_side, &mut kdb_side, &[], &plan, &meters);
    advance(EVERY / 4).await;
    let request = text(MessageType::Sync, "1+1");
    client.write_all(&request).await.unwrap();
    let second = Duration::from_secs(1);
    assert!(timeout(second, relay.run()).await.is_err());
    assert_eq!((meters.outstanding(), meters.idle()), (1, second));
    assert!(timeout(3 * EVERY, relay.run()).await.is_err());
    assert!(meters.pings() >= 2);
    assert_eq!(meters.idle(), 3 * EVERY + second);
    let answer = message(MessageType::Response, b"2");
    kdb.write_all(&answer).await.unwrap();
    assert!(timeout(second, relay.run()).await.is_err());
    assert_eq!((meters.outstanding(), meters.idle()), (0, second));
}

#[tokio::test(start_paused = true)]
async fn a_round_trip_is_from_a_request_to_its_answer_and_a_ping_is_none() {
    let (mut client, mut client_side) = duplex(256);
    let (mut kdb, mut kdb_side) = duplex(256);
    let (meters, plan) = (Meters::default(), plan(Some(SYNC)));
    let mut relay = Relay::new(&mut client_side, &mut kdb_side, &[], &plan, &meters);
    let seen = || {
        let mut seen = Histogram::default();
        seen.add_all(meters.round_trips());
        (seen.count(), seen.sum())
    };
    let second = Duration::from_secs(1);
    advance(EVERY / 4).await;
    let request = text(MessageType::Sync, "1+1");
    client.write_all(&request).await.unwrap();
    assert!(timeout(second, relay.run()).await.is_err());
    let update = text(MessageType::Async, "upd");
    kdb.write_all(&update).await.unwrap();
    assert!(timeout(second, relay.run()).await.is_err());
    assert_eq!(seen(), (0, Duration::ZERO));
    let answer = message(MessageType::Response, b"2");
    kdb.write_all(&answer).await.unwrap();
    assert!(timeout(second, relay.run()).await.is_err());
    assert_eq!(seen(), (1, 2 * second));

    assert!(timeout(2 * EVERY, relay.run()).await.is_err());
    assert_eq!(meters.pings(), 1);
    kdb.write_all(&answer).await.unwrap();
    assert!(timeout(second, relay.run()).await.is_err());
    assert_eq!(seen().0, 1);
}

/// A pipe that reports `unsent` bytes as not acknowledged by the peer's kernel.
struct Queued {
    pipe: DuplexStream,
    unsent: Arc<AtomicU64>,
}

impl SendQueue for Queued {
    fn unsent(&self) -> u64 {
        self.unsent.load(Ordering::Relaxed)
    }
}

impl AsyncRead for Queued {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_read(context, buffer)
    }
}

impl AsyncWrite for Queued {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(context)
    }
}

/// A relay whose connections have send queues, and the test's ends of both pipes.
struct QueuedPair {
    client: DuplexStream,
    kdb: DuplexStream,
    /// The length of the send queue to the client, in bytes.
    to_client: Arc<AtomicU64>,
    /// The length of the send queue to kdb+, in bytes.
    to_kdb: Arc<AtomicU64>,
    relay: tokio::task::JoinHandle<End>,
    meters: Arc<Meters>,
}

fn queued() -> QueuedPair {
    let pipe = |size| {
        let (there, here) = duplex(size);
        let unsent = Arc::new(AtomicU64::new(0));
        let side = Queued {
            pipe: here,
            unsent: Arc::clone(&unsent),
        };
        (there, side, unsent)
    };
    let (client, mut client_side, to_client) = pipe(1 << 20);
    let (kdb, mut kdb_side, to_kdb) = pipe(1 << 20);
    let meters = Arc::new(Meters::default());
    let counts = Arc::clone(&meters);
    let relay = tokio::spawn(async move {
        let plan = plan(None);
        let mut relay = Relay::new(&mut client_side, &mut kdb_side, &[], &plan, &counts);
        relay.run().await
    });
    QueuedPair {
        client,
        kdb,
        to_client,
        to_kdb,
        relay,
        meters,
    }
}

async fn goes_on(relay: &mut tokio::task::JoinHandle<End>, time: Duration) {
    let ended = timeout(time, relay).await;
    assert!(ended.is_err(), "{ended:?}");
}

/// The client closes without reading kdb+'s feed, which breaks the connection. The messages that it published
/// still reach a busy kdb+.
#[tokio::test(start_paused = true)]
async fn what_a_client_sent_before_its_connection_broke_reaches_a_busy_kdb() {
    let Pair {
        mut client,
        kdb,
        mut relay,
    } = relayed(plan(None), 64);
    let batch: Vec<u8> = (0..100)
        .flat_map(|_| text(MessageType::Async, &"x".repeat(1_000)))
        .collect();
    let (mut reads, mut writes) = tokio::io::split(kdb);
    let feed = tokio::spawn(async move {
        let update = text(MessageType::Async, &"u".repeat(1_000));
        while writes.write_all(&update).await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    client.write_all(&batch).await.unwrap();
    drop(client);
    let ended = timeout(Duration::from_secs(3_600), &mut relay).await;
    assert!(ended.is_err(), "{ended:?}");
    let mut got = Vec::new();
    reads.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, batch);
    feed.abort();
    let _ = feed.await;
    drop(reads);
    let (end, _) = relay.await.unwrap();
    assert!(matches!(end, End::ClientLost(_)), "{end:?}");
}

/// A kdb+ that writes and never reads counts as one that hangs.
#[tokio::test(start_paused = true)]
async fn a_kdb_that_takes_nothing_for_a_day_is_given_up_and_what_it_is_owed_is_counted() {
    let mut pair = queued();
    let batch = text(MessageType::Async, &"x".repeat(1_000)).repeat(3_000);
    let part = pair.client.write_all(&batch);
    let _ = timeout(Duration::from_secs(1), part).await;
    drop(pair.client);
    let (_reads, mut writes) = tokio::io::split(pair.kdb);
    let feed = tokio::spawn(async move {
        let update = text(MessageType::Async, "u");
        while writes.write_all(&update).await.is_ok() {
            tokio::time::sleep(EVERY).await;
        }
    });
    goes_on(&mut pair.relay, HANG_TIMEOUT - EVERY).await;
    timeout(2 * EVERY, pair.relay).await.unwrap().unwrap();
    let lost = pair.meters.to_kdb.lost_by(Loss::Deadline);
    assert!(lost > 100, "{lost}");
    feed.await.unwrap();
}

/// The relay discards what kdb+ sends to a refused client. Such bytes do not prolong a session whose client
/// reads nothing.
#[tokio::test(start_paused = true)]
async fn a_refused_client_that_reads_nothing_is_given_up_while_kdb_speaks() {
    let mut pair = queued();
    let (_reads, mut writes) = tokio::io::split(pair.kdb);
    let feed = tokio::spawn(async move {
        let mut update = text(MessageType::Async, &"x".repeat(3 << 20));
        while writes.write_all(&update).await.is_ok() {
            update = text(MessageType::Async, "u");
            tokio::time::sleep(EVERY).await;
        }
    });
    tokio::time::sleep(EVERY).await;
    pair.client.write_all(b"no message at all").await.unwrap();
    goes_on(&mut pair.relay, HANG_TIMEOUT - EVERY).await;
    let end = timeout(2 * EVERY, pair.relay).await.unwrap().unwrap();
    assert!(matches!(end, End::ClientMessage { .. }), "{end:?}");
    feed.await.unwrap();
}

/// A reset discards the bytes that the client's kernel has not acknowledged.
#[tokio::test(start_paused = true)]
async fn a_torn_answer_resets_the_client_only_once_its_kernel_has_what_was_written() {
    let mut pair = queued();
    pair.to_client.store(100, Ordering::Relaxed);
    let answer = text(MessageType::Response, "a long answer");
    pair.kdb.write_all(&answer[..12]).await.unwrap();
    drop(pair.kdb);
    goes_on(&mut pair.relay, Duration::from_secs(3_600)).await;
    read_exactly(&mut pair.client, &answer[..12]).await;
    pair.to_client.store(0, Ordering::Relaxed);
    let ended = timeout(2 * LONGEST_CHECK, pair.relay).await;
    let end = ended.unwrap().unwrap();
    assert_eq!(end.farewell(), Farewell::Reset, "{end:?}");
    assert_eq!(pair.meters.to_client.unacknowledged(), 0);
}

/// The session waits for the bytes that hopend's kernel holds for a busy kdb+.
#[tokio::test(start_paused = true)]
async fn a_session_outlives_what_lies_in_the_send_queue_to_kdb() {
    let mut pair = queued();
    let batch = text(MessageType::Async, "batch");
    pair.client.write_all(&batch).await.unwrap();
    pair.client.shutdown().await.unwrap();
    pair.to_kdb.store(100, Ordering::Relaxed);
    goes_on(&mut pair.relay, 10 * UPSTREAM_CLOSE_TIMEOUT).await;
    // Only the end of the stream is not acknowledged, and no message.
    pair.to_kdb.store(1, Ordering::Relaxed);
    let limit = UPSTREAM_CLOSE_TIMEOUT + 2 * LONGEST_CHECK;
    let end = timeout(limit, pair.relay).await.unwrap().unwrap();
    assert!(matches!(end, End::ClientClosed), "{end:?}");
}

#[tokio::test(start_paused = true)]
async fn what_the_kernel_holds_at_a_deadline_is_counted_in_bytes() {
    let mut pair = queued();
    pair.client.shutdown().await.unwrap();
    pair.to_kdb.store(101, Ordering::Relaxed);
    let limit = HANG_TIMEOUT + 2 * UPSTREAM_CLOSE_TIMEOUT;
    timeout(limit, pair.relay).await.unwrap().unwrap();
    assert_eq!(pair.meters.to_kdb.unacknowledged(), 100);
    assert_eq!(pair.meters.to_client.unacknowledged(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_came_before_what_is_no_message_reaches_a_busy_kdb_though_an_answer_streams() {
    let mut pair = relayed(plan(None), 64);
    let answer = text(MessageType::Response, "a long answer");
    pair.kdb.write_all(&answer[..12]).await.unwrap();
    read_exactly(&mut pair.client, &answer[..12]).await;
    let batch = text(MessageType::Async, &"x".repeat(1_000)).repeat(10);
    pair.client.write_all(&batch).await.unwrap();
    pair.client.write_all(&[9; 8]).await.unwrap();
    let ended = timeout(Duration::from_secs(3_600), &mut pair.relay).await;
    assert!(ended.is_err(), "{ended:?}");
    read_exactly(&mut pair.kdb, &batch).await;
    let (end, _) = pair.relay.await.unwrap();
    assert!(matches!(
        end,
        End::ClientMessage {
            client: ClientPosition::InsideMessage,
            ..
        }
    ));
}

/// `answer_timeout` runs only while a message of the client waits.
#[tokio::test(start_paused = true)]
async fn a_sync_ping_without_an_answer_ends_the_session_once_a_message_has_waited_behind_it() {
    for (message_type, told) in [(MessageType::Sync, true), (MessageType::Async, false)] {
        let mut pair = awaiting_a_pong(256).await;
        let idle = timeout(3 * ANSWER_TIMEOUT, &mut pair.relay).await;
        assert!(idle.is_err(), "{idle:?}");
        let request = text(message_type, "1+1");
        pair.client.write_all(&request).await.unwrap();
        let waits = ANSWER_TIMEOUT - Duration::from_secs(1);
        let waiting = timeout(waits, &mut pair.relay).await;
        assert!(waiting.is_err(), "{waiting:?}");
        tokio::time::sleep(Duration::from_secs(2)).await;
        if told {
            let text = "hopend: the cluster has not answered a sync keepalive for 7200 s while \
                        messages of the client waited behind it (answer_timeout)";
            read_exactly(&mut pair.client, &error_response(text)).await;
        }
        read_end(&mut pair.client).await;
        read_end(&mut pair.kdb).await;
        drop(pair.client);
        let (end, _) = pair.relay.await.unwrap();
        assert!(
            matches!(
                end,
                End::PingUnanswered {
                    client: ClientPosition::BetweenMessages,
                    ..
                }
            ),
            "{end:?}"
        );
    }
}

/// Cuts a session whose kdb+ has read only `read` bytes. Checks that each message either arrives or counts as
/// lost.
async fn cut_while_stalled(sent: Vec<Vec<u8>>, read: usize, pipe: usize) {
    let (mut client, mut client_side) = duplex(1 << 20);
    let (mut kdb, mut kdb_side) = duplex(pipe);
    let (meters, plan) = (Meters::default(), plan(None));
    let mut relay = Relay::new(&mut client_side, &mut kdb_side, &[], &plan, &meters);
    client.write_all(&sent.concat()).await.unwrap();
    let second = Duration::from_secs(1);
    assert!(timeout(second, relay.run()).await.is_err());
    // kdb+ reads byte by byte, so that the lane moves its buffer at many positions.
    let mut got = Vec::new();
    let read = read.min(sent.concat().len());
    while got.len() < read {
        got.push(kdb.read_u8().await.unwrap());
        let _ = timeout(Duration::from_nanos(1), relay.run()).await;
    }
    relay.finish(Farewell::Reset, Instant::now() + second);
    assert!(matches!(relay.run().await, End::Finished(_)));
    drop(kdb_side);
    kdb.read_to_end(&mut got).await.unwrap();
    assert!(sent.concat().starts_with(&got));
    let (mut arrived, mut rest) = (0, got.len());
    for message in &sent {
        if message.len() > rest {
            break;
        }
        rest -= message.len();
        arrived += 1;
    }
    let lost = meters.to_kdb.lost_by(Loss::Deadline);
    assert_eq!(
        arrived + lost,
        sent.len() as u64,
        "{arrived} arrived, {lost} lost"
    );
    assert_eq!(meters.to_kdb.lost(), lost);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn of_a_session_that_is_cut_each_message_arrives_or_is_counted(
        sent in prop::collection::vec(any_message(), 0..60),
        large in prop::collection::vec(1..60_000usize, 0..5),
        read in 0..2_000usize,
        pipe in 1..300usize,
    ) {
        let large = large.iter().map(|&length| text(MessageType::Async, &"l".repeat(length)));
        let sent = sent.into_iter().chain(large).collect();
        run_paused(cut_while_stalled(sent, read, pipe));
    }
}

/// Ends the session from the client's side: its connection breaks, or it sends an invalid header and stays
/// connected.
async fn end_for_the_client(mut client: DuplexStream, breaks: bool) -> Option<DuplexStream> {
    if breaks {
        return None;
    }
    client.write_all(&[9; 8]).await.unwrap();
    read_end(&mut client).await;
    Some(client)
}

/// kdb+ has one thread, which writes all that it has to write before it reads again.
#[tokio::test(start_paused = true)]
async fn a_kdb_that_speaks_is_heard_out_until_it_reads_what_it_is_owed() {
    let batch = text(MessageType::Async, &"x".repeat(1_000)).repeat(10);
    for breaks in [true, false] {
        let mut pair = relayed(plan(None), 64);
        pair.client.write_all(&batch).await.unwrap();
        let _client = end_for_the_client(pair.client, breaks).await;
        let update = text(MessageType::Async, &"u".repeat(1_000_000));
        let saying = timeout(EVERY, pair.kdb.write_all(&update)).await;
        saying.expect("nobody listens").unwrap();
        read_exactly(&mut pair.kdb, &batch).await;
        read_end(&mut pair.kdb).await;
        drop(pair.kdb);
        let (end, _) = pair.relay.await.unwrap();
        assert_eq!(matches!(end, End::ClientLost(_)), breaks, "{end:?}");
    }
}

/// kdb+'s kernel has acknowledged everything, and kdb+ has yet to read. hopend must read what kdb+ writes
/// before that.
#[tokio::test(start_paused = true)]
async fn a_session_lasts_until_kdb_has_closed_though_its_kernel_has_everything() {
    let update = text(MessageType::Async, "update");
    for breaks in [true, false] {
        let mut pair = relayed(plan(None), 1 << 20);
        let batch = text(MessageType::Async, "batch");
        pair.client.write_all(&batch).await.unwrap();
        let _client = end_for_the_client(pair.client, breaks).await;
        pair.kdb.write_all(&update).await.unwrap();
        let ended = timeout(UPSTREAM_CLOSE_TIMEOUT - EVERY, &mut pair.relay).await;
        assert!(ended.is_err(), "{ended:?}");
        pair.kdb.write_all(&update).await.unwrap();
        read_exactly(&mut pair.kdb, &batch).await;
        read_end(&mut pair.kdb).await;
        drop(pair.kdb);
        let (end, _) = timeout(EVERY, pair.relay).await.unwrap().unwrap();
        assert_eq!(matches!(end, End::ClientLost(_)), breaks, "{end:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_cut_still_delivers_what_was_received_both_ways() {
    let (mut client, mut client_side) = duplex(1 << 20);
    let (mut kdb, mut kdb_side) = duplex(64);
    let (meters, plan) = (Meters::default(), plan(None));
    let mut relay = Relay::new(&mut client_side, &mut kdb_side, &[], &plan, &meters);
    let batch = text(MessageType::Async, &"x".repeat(1_000)).repeat(500);
    client.write_all(&batch).await.unwrap();
    let second = Duration::from_secs(1);
    assert!(timeout(second, relay.run()).await.is_err());
    let answer = message(MessageType::Response, b"answer");
    kdb.write_all(&answer).await.unwrap();
    relay.finish(Farewell::Reset, Instant::now() + second);
    let mut got = Vec::new();
    let (end, read) = tokio::join!(relay.run(), kdb.read_to_end(&mut got));
    read.unwrap();
    assert!(matches!(end, End::Finished(_)), "{end:?}");
    assert_eq!(got, batch);
    read_exactly(&mut client, &answer).await;
    assert_eq!((meters.to_kdb.lost(), meters.to_client.lost()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_no_session_with_something_in_a_send_queue() {
    let unsent = Arc::new(AtomicU64::new(100));
    let (_client, mut client_side) = duplex(64);
    let (_kdb, pipe) = duplex(64);
    let mut kdb_side = Queued {
        pipe,
        unsent: Arc::clone(&unsent),
    };
    let (meters, plan) = (Meters::default(), plan(None));
    let mut relay = Relay::new(&mut client_side, &mut kdb_side, &[], &plan, &meters);
    relay.drain();
    assert!(timeout(EVERY, relay.run()).await.is_err());
    unsent.store(0, Ordering::Relaxed);
    let end = timeout(2 * LONGEST_CHECK, relay.run()).await.unwrap();
    assert!(matches!(end, End::Drained), "{end:?}");
}
