//! What is done while the instructions are counted: one session between a client and kdb+, all in
//! one thread, so that it goes the same way each time.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hopend::session::client::ClientStream;
use q_ipc::frame::{HEADER_LEN, Header, MessageType};
use q_relay::relay::{KeepaliveMode, KeepaliveSettings};
use q_relay::relay::{Meters, Plan, Relay};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Result;
use crate::peers::{self, Kdb};

/// The function within which instructions are counted.
pub(crate) const COUNTED: &str = "counted_poll";

/// Messages of a feed that the client writes at once.
const BATCH: u32 = 500;
/// Bytes that client and server read and write at a time.
const CHUNK: usize = 64 * 1024;

static WAKEUPS: AtomicU64 = AtomicU64::new(0);

/// A load, of which each unit costs the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// Requests of 16 bytes and their answers, one after the other, without TLS.
    RoundTrip,
    /// The same over TLS.
    RoundTripTls,
    /// Asynchronous messages of 16 bytes, hundreds at a time.
    FeedTls,
    /// One large answer.
    GetTls,
    /// One large message from the client.
    PutTls,
}

impl Load {
    pub(crate) const ALL: [Self; 5] = [
        Self::RoundTrip,
        Self::RoundTripTls,
        Self::FeedTls,
        Self::GetTls,
        Self::PutTls,
    ];

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|load| load.name() == name)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::RoundTrip => "round-trip",
            Self::RoundTripTls => "round-trip-tls",
            Self::FeedTls => "feed-tls",
            Self::GetTls => "get-tls",
            Self::PutTls => "put-tls",
        }
    }

    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::RoundTrip | Self::RoundTripTls | Self::FeedTls => "message of 16 bytes",
            Self::GetTls | Self::PutTls => "KiB",
        }
    }

    /// Rounds of the load as it is.
    fn rounds(self) -> u32 {
        match self {
            Self::RoundTrip | Self::RoundTripTls => 1_000,
            Self::FeedTls => 40,
            Self::GetTls | Self::PutTls => 24,
        }
    }

    /// Units in the load as it is.
    pub(crate) fn units(self) -> u32 {
        let in_a_round = match self {
            Self::RoundTrip | Self::RoundTripTls => 2,
            Self::FeedTls => BATCH,
            Self::GetTls | Self::PutTls => 1024,
        };
        self.rounds() * in_a_round
    }

    /// Runs it `times` as long as it is, and says how often the session's task was woken.
    pub(crate) fn run(self, times: u32) -> Result<u64> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(self.relayed(times * self.rounds()))?;
        Ok(WAKEUPS.load(Ordering::Relaxed))
    }

    async fn relayed(self, rounds: u32) -> Result<()> {
        let (mut client, there) = peers::tcp().await?;
        let (mut upstream, kdb) = match self {
            Self::RoundTrip => peers::plain().await?,
            Self::RoundTripTls | Self::FeedTls | Self::GetTls | Self::PutTls => {
                peers::tls().await?
            }
        };
        let session = tokio::spawn(async move {
            let plan = Plan {
                keepalive: KeepaliveSettings::On {
                    every: Duration::from_secs(60),
                    message: String::new(),
                    mode: KeepaliveMode::Async,
                },
                max_message: None,
            };
            let meters = Meters::default();
            let mut there = ClientStream::Tcp(there);
            let mut relay = Relay::new(&mut there, &mut upstream, &[], &plan, &meters);
            counted(relay.run()).await
        });
        let serving = tokio::spawn(self.serve(kdb, rounds));
        self.ask(&mut client, rounds).await?;
        drop(client);
        serving.await??;
        session.await?;
        Ok(())
    }

    /// The client's part.
    async fn ask(self, client: &mut TcpStream, rounds: u32) -> Result<()> {
        match self {
            Self::RoundTrip | Self::RoundTripTls => {
                let request = small(MessageType::Sync);
                let mut answer = [0; 16];
                for _ in 0..rounds {
                    client.write_all(&request).await?;
                    client.read_exact(&mut answer).await?;
                }
            }
            Self::FeedTls => {
                let batch = small(MessageType::Async).repeat(BATCH as usize);
                for _ in 0..rounds {
                    client.write_all(&batch).await?;
                    // The next batch is not there before this one has gone.
                    client.read_exact(&mut [0; 16]).await?;
                }
            }
            Self::GetTls => {
                client.write_all(&small(MessageType::Sync)).await?;
                let mut chunk = vec![0; CHUNK];
                let mut left = large_length(rounds);
                while left > 0 {
                    left -= client.read(&mut chunk).await? as u64;
                }
            }
            Self::PutTls => {
                write_large(client, MessageType::Sync, rounds).await?;
                client.read_exact(&mut [0; 16]).await?;
            }
        }
        Ok(())
    }

    /// The server's part.
    async fn serve(self, mut kdb: Kdb, rounds: u32) -> std::io::Result<()> {
        match self {
            Self::RoundTrip | Self::RoundTripTls => {
                let mut request = [0; 16];
                let answer = small(MessageType::Response);
                for _ in 0..rounds {
                    kdb.read_exact(&mut request).await?;
                    kdb.write_all(&answer).await?;
                    kdb.flush().await?;
                }
            }
            Self::FeedTls => {
                let mut batch = vec![0; 16 * BATCH as usize];
                let received = small(MessageType::Async);
                for _ in 0..rounds {
                    kdb.read_exact(&mut batch).await?;
                    kdb.write_all(&received).await?;
                    kdb.flush().await?;
                }
            }
            Self::GetTls => {
                kdb.read_exact(&mut [0; 16]).await?;
                write_large(&mut kdb, MessageType::Response, rounds).await?;
                kdb.flush().await?;
            }
            Self::PutTls => {
                let mut chunk = vec![0; CHUNK];
                let mut left = large_length(rounds);
                while left > 0 {
                    left -= kdb.read(&mut chunk).await? as u64;
                }
                kdb.write_all(&small(MessageType::Response)).await?;
                kdb.flush().await?;
            }
        }
        // Until the session has ended.
        kdb.read_to_end(&mut Vec::new()).await?;
        kdb.shutdown().await
    }
}

/// A message of 16 bytes.
fn small(message_type: MessageType) -> Vec<u8> {
    q_ipc::message::message(message_type, &[0xf9, 1, 2, 3, 4, 5, 6, 7])
}

fn large_length(mebibytes: u32) -> u64 {
    HEADER_LEN as u64 + (u64::from(mebibytes) << 20)
}

async fn write_large(
    to: &mut (impl AsyncWriteExt + Unpin),
    message_type: MessageType,
    mebibytes: u32,
) -> std::io::Result<()> {
    let header = Header {
        little_endian: true,
        message_type,
        compression: 0,
        length: large_length(mebibytes),
    };
    to.write_all(&header.encode()).await?;
    let chunk = vec![7; CHUNK];
    for _ in 0..(u64::from(mebibytes) << 20) / CHUNK as u64 {
        to.write_all(&chunk).await?;
    }
    Ok(())
}

async fn counted<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|context| counted_poll(future.as_mut(), context)).await
}

/// A function that is not inlined, so that callgrind sees when it begins and ends.
#[inline(never)]
fn counted_poll<F: Future>(future: Pin<&mut F>, context: &mut Context<'_>) -> Poll<F::Output> {
    WAKEUPS.fetch_add(1, Ordering::Relaxed);
    std::hint::black_box(future.poll(context))
}
