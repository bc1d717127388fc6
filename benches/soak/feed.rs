//! Clients that publish and exit at once: all that hopend's host has taken from them arrives.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use q_ipc::frame::{HEADER_LEN, Header, MessageType};
use q_ipc::message::text;
use q_ipc::value::{Value, decode};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use toml::Table;

use crate::figures::Figures;
use crate::ways::{Stream, free_address, listens};
use crate::{PATIENCE, Result};

/// The endpoint that leads to the collector.
pub(crate) const FEED: &str = "feed";
/// Messages of one publisher, and the bytes of each.
const MESSAGES: u64 = 100;
const MESSAGE: usize = 10_000;
/// Between two looks at what is to happen.
const LOOK: Duration = Duration::from_millis(5);

/// Messages that arrived in their order, by publisher.
type Arrived = Arc<Mutex<HashMap<u64, u64>>>;

/// kdb+ that counts what publishers send, and the endpoint in front of it.
pub(crate) struct Feed {
    pub(crate) address: SocketAddr,
    arrived: Arrived,
    publishers: u64,
}

impl Feed {
    /// Starts the collector and adds its endpoint to the configuration. Any password does there.
    pub(crate) async fn add_to(file: &mut Table, folder: &Path) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let password = folder.join("plain.password");
        let endpoint = format!(
            "name = \"{FEED}\"\nlisten = [\"{}\"]\nconnect = [\":{}\"]\n\
             keepalive = \"5s\"\nlogin = {{ user = \"feed\", password_file = \"{}\" }}\n",
            free_address()?,
            listener.local_addr()?,
            password.display()
        );
        let endpoints = file.get_mut("endpoint").and_then(toml::Value::as_array_mut);
        let endpoint: Table = endpoint.parse()?;
        endpoints.ok_or("no endpoints")?.push(endpoint.into());
        let arrived = Arrived::default();
        let collected = Arc::clone(&arrived);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let arrived = Arc::clone(&collected);
                // A publisher that is reset ends its session here, too.
                tokio::spawn(async move { collect(stream, &arrived).await });
            }
        });
        Ok(Self {
            address: listens(file, FEED)?,
            arrived,
            publishers: 0,
        })
    }

    /// One publisher, which exits with unread input as soon as hopend's host has its messages.
    pub(crate) async fn publish(&mut self, figures: &Figures) -> Result<()> {
        self.publishers += 1;
        let publisher = self.publishers;
        let mut stream = TcpStream::connect(self.address).await?;
        stream.write_all(b":\x06\0").await?;
        stream.read_u8().await?;
        for number in 0..MESSAGES {
            let message = format!("{publisher} {number} {}", "x".repeat(MESSAGE));
            stream
                .write_all(&text(MessageType::Async, &message))
                .await?;
        }
        let ends = [stream.local_addr()?, stream.peer_addr()?];
        let taken = async {
            while unacknowledged(ends)? > 0 {
                sleep(LOOK).await;
            }
            Ok::<_, io::Error>(())
        };
        let taken = timeout(PATIENCE, taken).await;
        taken.map_err(|_| "hopend's host has not taken a publisher's messages in time")??;
        stream.reset_at_close()?;
        drop(stream);
        let all = async {
            while self.of(publisher) < MESSAGES {
                sleep(LOOK).await;
            }
        };
        let all = timeout(PATIENCE, all).await;
        figures.judge(all.is_ok(), || {
            let arrived = self.of(publisher);
            format!("{arrived} of {MESSAGES} messages of a publisher arrived")
        });
        figures.trouble("publishers that exited");
        Ok(())
    }

    fn of(&self, publisher: u64) -> u64 {
        let arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
        arrived.get(&publisher).copied().unwrap_or_default()
    }
}

/// Serves one connection as kdb+ would, and answers each message with one that nobody reads.
async fn collect(stream: TcpStream, arrived: &Arrived) -> Result<()> {
    let mut stream = BufReader::new(stream);
    while stream.read_u8().await? != 0 {}
    stream.write_all(&[3]).await?;
    loop {
        let mut head = [0; HEADER_LEN];
        stream.read_exact(&mut head).await?;
        let header = Header::parse(head)?;
        let mut body = vec![0; usize::try_from(header.length)? - HEADER_LEN];
        stream.read_exact(&mut body).await?;
        // A keepalive is empty.
        let Value::Chars(said) = decode(&body, header.little_endian)? else {
            continue;
        };
        let said = String::from_utf8_lossy(&said).into_owned();
        let mut words = said.split(' ').map(str::parse::<u64>);
        let (Some(Ok(publisher)), Some(Ok(number))) = (words.next(), words.next()) else {
            continue;
        };
        {
            let mut arrived = arrived.lock().unwrap_or_else(PoisonError::into_inner);
            let count = arrived.entry(publisher).or_default();
            // One that is missing keeps the count below the whole.
            *count += u64::from(*count == number);
        }
        // The publisher may be gone.
        let _ = stream.write_all(&text(MessageType::Async, "heard")).await;
    }
}

/// Bytes that the first of two ends on 127.0.0.1 has sent and the other has not acknowledged. Both are needed
/// to tell a connection: another one may leave from the same port.
fn unacknowledged(ends: [SocketAddr; 2]) -> io::Result<u64> {
    let [local, peer] = ends.map(|end| format!("0100007F:{:04X}", end.port()));
    let table = std::fs::read_to_string("/proc/self/net/tcp")?;
    let mut fields = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = fields.find(|fields| {
        fields.get(1) == Some(&local.as_str()) && fields.get(2) == Some(&peer.as_str())
    });
    let queue = row.and_then(|fields| fields.get(4)?.split(':').next().map(str::to_owned));
    let queue = queue.and_then(|queue| u64::from_str_radix(&queue, 16).ok());
    queue.ok_or_else(|| io::Error::other("the publisher's socket is not in /proc/self/net/tcp"))
}
