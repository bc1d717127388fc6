//! What the relay hands on is what it was given: byte for byte, in order, however both streams are
//! cut, with pings between the client's messages only and their answers kept from the client.
//!
//! The bytes are a script of what client and cluster do; the clock is the script's too.

use std::cell::RefCell;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use q_ipc::frame::{FrameTracker, HEADER_LEN, Header, MessageType, StreamPart};
use q_ipc::message;
use q_relay::relay::{End, KeepaliveMode, KeepaliveSettings, Meters, Plan, Relay, SendQueue};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const EVERY: Duration = Duration::from_secs(60);
/// A ping says this, and no message of a script does.
const PING: &str = "ping of hopend";
/// The first byte of the body of an answer to a ping.
const PONG: u8 = 0x77;
/// Steps of one script.
const STEPS: usize = 200;

/// One end of a connection, as the relay sees it.
#[derive(Default)]
struct Pipe {
    /// What the other end has said; `read` of it the relay has taken.
    said: Vec<u8>,
    read: usize,
    /// Bytes that a read gives at most; none for now where it is 0.
    ready: usize,
    ended: bool,
    /// What the relay has written, and how much more it may.
    heard: Vec<u8>,
    room: usize,
    shut: bool,
}

#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Pipe>>);

impl SendQueue for Shared {}

impl AsyncRead for Shared {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let pipe = &mut *self.0.borrow_mut();
        let waiting = &pipe.said[pipe.read..];
        if waiting.is_empty() && pipe.ended {
            return Poll::Ready(Ok(()));
        }
        let count = waiting.len().min(pipe.ready).min(buffer.remaining());
        if count == 0 {
            return Poll::Pending;
        }
        buffer.put_slice(&waiting[..count]);
        pipe.read += count;
        pipe.ready -= count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Shared {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let pipe = &mut *self.0.borrow_mut();
        let count = bytes.len().min(pipe.room);
        if count == 0 {
            return Poll::Pending;
        }
        pipe.heard.extend_from_slice(&bytes[..count]);
        pipe.room -= count;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().shut = true;
        Poll::Ready(Ok(()))
    }
}

/// What the cluster makes of what it hears.
#[derive(Default)]
struct Cluster {
    /// Bytes of `heard` that were looked at.
    looked: usize,
    /// What it heard from the client, the pings left out.
    from_client: Vec<u8>,
    /// What it said to the client, the answers to pings left out.
    to_client: Vec<u8>,
    /// Sync messages that wait for an answer, and whether they were pings.
    waiting: Vec<bool>,
    pings: u64,
}

pub fn holds(bytes: &[u8]) {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
    }
    cut_anywhere(bytes);
    RUNTIME.with(|runtime| runtime.block_on(relayed(bytes)));
}

/// The tracker alone: `bytes` as a stream, in pieces that its own bytes tell.
fn cut_anywhere(bytes: &[u8]) {
    let walk = |mut at_hand: Box<dyn FnMut(usize) -> usize>| {
        let mut tracker = FrameTracker::new(Some(1 << 20));
        let (mut headers, mut at, mut shown) = (Vec::new(), 0, 0);
        loop {
            match tracker.next(&bytes[at..shown]) {
                Err(error) => return (headers, Some(error)),
                Ok(StreamPart::Header(header)) => {
                    assert_eq!(header.encode(), bytes[at..at + HEADER_LEN]);
                    headers.push((at, header));
                    at += HEADER_LEN;
                }
                Ok(StreamPart::Body(count)) => at += count,
                Ok(StreamPart::Incomplete) if shown == bytes.len() => return (headers, None),
                Ok(StreamPart::Incomplete) => {
                    shown = (shown + at_hand(shown).max(1)).min(bytes.len());
                }
            }
        }
    };
    let pieces = bytes.to_vec();
    let whole = walk(Box::new(|_| usize::MAX / 2));
    assert_eq!(walk(Box::new(|_| 1)), whole);
    assert_eq!(
        walk(Box::new(move |at| usize::from(pieces[at] >> 4))),
        whole
    );
    for pair in whole.0.windows(2) {
        assert_eq!(pair[0].0 as u64 + pair[0].1.length, pair[1].0 as u64);
    }
}

async fn relayed(script: &[u8]) {
    let mut script = script.iter().copied();
    let mut next = || script.next();
    let Some(first) = next() else { return };
    let sync = first & 1 == 1;
    let plan = Plan {
        keepalive: KeepaliveSettings::On {
            every: EVERY,
            message: PING.to_owned(),
            mode: if sync {
                // The script's clock never comes so far.
                KeepaliveMode::Sync {
                    answer_timeout: Duration::from_secs(365 * 24 * 3600),
                }
            } else {
                KeepaliveMode::Async
            },
        },
        max_message: None,
    };
    let (client, upstream) = (Shared::default(), Shared::default());
    let (mut to_client, mut to_upstream) = (client.clone(), upstream.clone());
    let meters = Meters::default();
    let mut cluster = Cluster::default();
    let mut relay = Relay::new(&mut to_client, &mut to_upstream, &[], &plan, &meters);
    let mut run = pin!(relay.run());
    let mut context = Context::from_waker(Waker::noop());

    for _ in 0..STEPS {
        let Some(step) = next() else { break };
        let amount = usize::from(step >> 3);
        match step & 7 {
            0 | 1 => {
                let (kind, length) = (next().unwrap_or(0), usize::from(next().unwrap_or(1)));
                say(&client, kind, amount * 8 + length);
            }
            2 => client.0.borrow_mut().ready += amount,
            3 => client.0.borrow_mut().room += amount * amount,
            4 => upstream.0.borrow_mut().ready += amount,
            5 => upstream.0.borrow_mut().room += amount * amount,
            6 => cluster.speaks(&upstream, amount),
            _ => tokio::time::advance(Duration::from_secs(5 * amount as u64)).await,
        }
        let polled = run.as_mut().poll(&mut context);
        assert!(polled.is_pending(), "it ended: {polled:?}");
        cluster.hears(&upstream.0.borrow(), sync);
        cluster.check(&client.0.borrow(), false);
    }

    // From here on nothing is in the way; the client closes and the cluster answers what it owes.
    client.0.borrow_mut().ended = true;
    let end = loop {
        for side in [&client, &upstream] {
            let pipe = &mut *side.0.borrow_mut();
            (pipe.ready, pipe.room) = (1 << 20, 1 << 20);
        }
        let polled = run.as_mut().poll(&mut context);
        cluster.hears(&upstream.0.borrow(), sync);
        if let Poll::Ready(end) = polled {
            break end;
        }
        if cluster.waiting.is_empty() && upstream.0.borrow().shut {
            upstream.0.borrow_mut().ended = true;
        }
        while !cluster.waiting.is_empty() {
            cluster.answer(&upstream);
        }
    };
    assert!(matches!(end, End::ClientClosed), "{end:?}");
    assert!(
        client.0.borrow().said == cluster.from_client,
        "all that the client said"
    );
    cluster.check(&client.0.borrow(), true);
    assert_eq!(cluster.pings, meters.pings());
}

/// The client says a message of its own.
fn say(client: &Shared, kind: u8, length: usize) {
    let mut pipe = client.0.borrow_mut();
    let message_type = match kind & 3 {
        0 | 3 => MessageType::Async,
        1 => MessageType::Sync,
        _ => MessageType::Response,
    };
    pipe.said
        .extend(frame(message_type, kind & 4 != 0, kind, length + 1));
}

/// A message whose body tells what it is.
fn frame(message_type: MessageType, little_endian: bool, mark: u8, body: usize) -> Vec<u8> {
    let header = Header {
        little_endian,
        message_type,
        compression: 0,
        length: (HEADER_LEN + body) as u64,
    };
    let mut bytes = header.encode().to_vec();
    bytes.push(mark & 0x3f | 0x80);
    bytes.extend((1..body).map(|at| (at % 251) as u8));
    bytes
}

impl Cluster {
    /// Looks at the whole messages that have come.
    fn hears(&mut self, pipe: &Pipe, sync: bool) {
        loop {
            let bytes = &pipe.heard[self.looked..];
            let Some(head) = bytes.first_chunk::<HEADER_LEN>() else {
                return;
            };
            let header = Header::parse(*head).expect("a message of the client's, or a ping");
            let Some(bytes) = bytes.get(..header.length as usize) else {
                return;
            };
            self.looked += bytes.len();
            let kind = if sync {
                MessageType::Sync
            } else {
                MessageType::Async
            };
            let ping = bytes == message::text(kind, PING);
            if ping {
                self.pings += 1;
                assert!(!sync || self.waiting.is_empty(), "a ping beside a request");
            } else {
                self.from_client.extend_from_slice(bytes);
                let answer = header.message_type == MessageType::Response;
                assert!(
                    answer || !self.waiting.contains(&true),
                    "a message beside a ping"
                );
            }
            if header.message_type == MessageType::Sync {
                self.waiting.push(ping);
            }
        }
    }

    /// Says something: an answer where it owes one, or what nobody asked for.
    fn speaks(&mut self, upstream: &Shared, amount: usize) {
        if amount.is_multiple_of(2) && !self.waiting.is_empty() {
            return self.answer(upstream);
        }
        let bytes = frame(
            MessageType::Async,
            !amount.is_multiple_of(3),
            1,
            amount * amount + 1,
        );
        self.to_client.extend_from_slice(&bytes);
        upstream.0.borrow_mut().said.extend(bytes);
    }

    fn answer(&mut self, upstream: &Shared) {
        let ping = self.waiting.remove(0);
        let mut bytes = frame(MessageType::Response, true, 2, 40);
        if ping {
            bytes[HEADER_LEN] = PONG;
        } else {
            self.to_client.extend_from_slice(&bytes);
        }
        upstream.0.borrow_mut().said.extend(bytes);
    }

    /// Whether the client has heard what was said to it, so far or all of it.
    fn check(&self, client: &Pipe, all: bool) {
        assert!(
            self.to_client.starts_with(&client.heard),
            "not what was said to it"
        );
        assert!(
            !all || self.to_client.len() == client.heard.len(),
            "not all of it"
        );
    }
}
