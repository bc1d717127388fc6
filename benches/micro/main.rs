//! Nanoseconds of the parts that every message passes: the frame tracker and the keepalive machine.
//!
//! `cargo bench --bench micro` measures with Criterion and compares with the last run on this
//! machine. What CI holds are instructions: see `benches/instructions`.

#![allow(missing_docs, reason = "Criterion's macro writes functions")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use q_ipc::frame::{FrameTracker, HEADER_LEN, MessageType, StreamPart};
use q_ipc::message::message;
use q_relay::relay::keepalive::{Keepalive, Stream};
use q_relay::relay::{KeepaliveMode, KeepaliveSettings};

/// Messages of the stream that the tracker walks.
const MESSAGES: usize = 1_000;
/// Longer than the benchmark runs.
const EVERY: Duration = Duration::from_secs(300);

criterion_group!(benches, tracker, keepalive);
criterion_main!(benches);

fn tracker(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame tracker");
    for (name, body, at_hand) in [
        ("messages of 16 bytes", 8, usize::MAX),
        ("messages of 1,000 bytes", 992, usize::MAX),
        ("messages of 1,000 bytes, 64 at hand", 992, 64),
    ] {
        let stream = message(MessageType::Async, &vec![1; body]).repeat(MESSAGES);
        group.throughput(Throughput::Elements(MESSAGES as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| walk(black_box(&stream), at_hand));
        });
    }
    group.finish();
}

/// Walks from header to header, as the relay does, and counts them.
fn walk(mut stream: &[u8], at_hand: usize) -> usize {
    let mut tracker = FrameTracker::default();
    let mut headers = 0;
    while let Ok(piece) = tracker.next(&stream[..stream.len().min(at_hand)]) {
        match piece {
            StreamPart::Header(_) => {
                headers += 1;
                stream = &stream[HEADER_LEN..];
            }
            StreamPart::Body(count) => stream = &stream[count..],
            StreamPart::Incomplete => break,
        }
    }
    assert_eq!(headers, MESSAGES);
    headers
}

fn keepalive(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("keepalive");
    let start = Instant::now();
    let ready = Stream {
        between_messages: true,
        outstanding: 0,
    };
    for (name, mode) in [
        ("async", KeepaliveMode::Async),
        (
            "sync",
            KeepaliveMode::Sync {
                answer_timeout: EVERY,
            },
        ),
    ] {
        let plan = KeepaliveSettings::On {
            every: EVERY,
            message: String::new(),
            mode,
        };
        let mut machine = Keepalive::new(&plan, start);
        group.bench_function(
            format!("{name}: a message was sent, none is due"),
            |bencher| {
                bencher.iter(|| {
                    machine.sent(black_box(start));
                    assert!(machine.poll(black_box(start), ready).is_none());
                });
            },
        );
        let mut now = start;
        group.bench_function(format!("{name}: a ping"), |bencher| {
            bencher.iter(|| {
                now += EVERY;
                let ping = machine.poll(black_box(now), ready);
                machine.answered();
                ping.expect("one is due")
            });
        });
    }
    group.finish();
}
