//! One client: it opens, asks, compares, and opens again.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use q_ipc::frame::{HEADER_LEN, Header, MessageType};
use q_ipc::message::text;
use q_ipc::value::{Value, decode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::figures::Figures;
use crate::ways::{At, Handle, Stream, Way};

/// Requests of all sessions together.
pub(crate) const REQUESTS_A_SECOND: f64 = 300.0;
/// Far more than an answer takes, and than a fault lasts.
const PATIENCE: Duration = Duration::from_secs(90);
/// Before the next try to open, where one failed.
const RETRY: Duration = Duration::from_secs(2);

/// One client of many.
pub(crate) struct Client {
    pub(crate) number: u64,
    pub(crate) at: At,
    pub(crate) figures: Arc<Figures>,
    pub(crate) stopped: watch::Receiver<bool>,
    /// Between two requests, on average.
    pub(crate) pause: Duration,
    /// Whether it goes on asking; else it asks once and stays.
    pub(crate) busy: bool,
}

/// What the node does not like, and what it says.
const REFUSED: [&str; 2] = ["til[1;2]", "rank"];

/// How a session went on without being over.
type Outcome = Result<(), Ended>;

/// Why a session is over before its client wanted it.
pub(crate) enum Ended {
    /// The connection broke or was closed.
    Lost(io::Error),
    /// hopend told why a request has no answer, and closes.
    Told(String),
    /// Something came that is not what was asked for.
    Wrong(String),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}

impl Client {
    pub(crate) async fn run(self) {
        let mut random = fastrand::Rng::with_seed(self.number);
        let mut stopped = self.stopped.clone();
        while !*stopped.borrow() {
            let stream = match self.open().await {
                Ok(stream) => stream,
                Err(error) => {
                    let expected = self.at.troubled;
                    self.figures.judge(expected, || {
                        format!("client {} could not open: {error}", self.number)
                    });
                    self.figures.count(&self.figures.refused);
                    tokio::select! {
                        () = sleep(RETRY) => continue,
                        () = told(&mut stopped) => return,
                    }
                }
            };
            self.figures.count(&self.figures.opened);
            self.figures.count(&self.figures.open);
            let outcome = self.session(stream, &mut random).await;
            self.figures
                .open
                .fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
            match outcome {
                Ok(()) => self.figures.count(&self.figures.left),
                Err(Ended::Wrong(why)) => {
                    self.figures
                        .judge(false, || format!("client {}: {why}", self.number));
                }
                Err(ended) => {
                    self.figures.count(&self.figures.ended);
                    self.figures.judge(self.at.troubled, || match ended {
                        Ended::Lost(error) => format!("client {} was cut: {error}", self.number),
                        Ended::Told(why) | Ended::Wrong(why) => {
                            format!("client {} was told: {why}", self.number)
                        }
                    });
                }
            }
        }
    }

    async fn open(&self) -> io::Result<Handle> {
        let late = |_| Err(io::ErrorKind::TimedOut.into());
        timeout(PATIENCE, self.at.open()).await.unwrap_or_else(late)
    }

    /// From the first request to the last, and the end that the client chooses.
    async fn session(&self, mut stream: Handle, random: &mut fastrand::Rng) -> Outcome {
        let mut stopped = self.stopped.clone();
        loop {
            let asked = timeout(PATIENCE, self.ask(&mut *stream, random)).await;
            asked.map_err(|_| Ended::Wrong("no answer, and no end".into()))??;
            if self.busy && self.at.troubled && random.u8(..40) == 0 {
                return leave(stream, random).await;
            }
            let pause = if self.busy {
                self.pause.mul_f64(0.5 + random.f64())
            } else {
                PATIENCE * 100
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = told(&mut stopped) => {
                    stream.shutdown().await?;
                    let rest = stream.read(&mut [0]).await?;
                    return self.torn(stream, rest).await;
                }
            }
        }
    }

    /// The end, behind the last answer: nothing more, or what a fault has torn and then a reset, where
    /// the way knows one.
    async fn torn(&self, mut stream: Handle, rest: usize) -> Outcome {
        if rest == 0 {
            return Ok(());
        }
        let end = stream.read_to_end(&mut Vec::new()).await;
        let is_told = end.is_err() || matches!(self.at.way, Way::Unix(_));
        if self.at.troubled && is_told {
            return Ok(());
        }
        Err(Ended::Wrong("bytes behind the last answer".into()))
    }

    async fn ask(&self, stream: &mut dyn Stream, random: &mut fastrand::Rng) -> Outcome {
        match random.u8(..20) {
            // A vector that the node makes.
            0..4 => {
                let count = random.u32(1..20_000);
                let expected = Value::Longs((0..i64::from(count)).collect());
                let answer = self.request(stream, &format!("til {count}"), false).await?;
                self.compare(answer, &expected, 8 * u64::from(count))
            }
            // A variable, set without an answer and asked for behind it.
            4..7 => {
                let pattern = self.pattern(random, 2_000);
                let set = text(MessageType::Async, &format!("a:\"{pattern}\""));
                stream.write_all(&set).await?;
                let answer = self.request(stream, "a", false).await?;
                self.compare(answer, &Value::text(&pattern), pattern.len() as u64)
            }
            // Two requests at once.
            7..9 => {
                let patterns = [self.pattern(random, 500), self.pattern(random, 500)];
                let quoted = |pattern: &String| text(MessageType::Sync, &format!("\"{pattern}\""));
                stream
                    .write_all(&patterns.each_ref().map(quoted).concat())
                    .await?;
                for pattern in patterns {
                    let answer = answer(stream, false).await?;
                    self.compare(answer, &Value::text(&pattern), pattern.len() as u64)?;
                }
                Ok(())
            }
            // Long, in pieces, and read slowly.
            9 => {
                let pattern = self.pattern(random, 200_000);
                let request = text(MessageType::Sync, &format!("\"{pattern}\""));
                for piece in request.chunks(random.usize(1_000..70_000)) {
                    stream.write_all(piece).await?;
                    sleep(Duration::from_millis(5)).await;
                }
                let answer = answer(stream, true).await?;
                self.compare(answer, &Value::text(&pattern), pattern.len() as u64)
            }
            10 => {
                let [question, error] = REFUSED;
                let answer = self.request(stream, question, false).await?;
                self.compare(answer, &Value::Error(error.into()), 0)
            }
            _ => {
                let pattern = self.pattern(random, 200);
                let answer = self
                    .request(stream, &format!("\"{pattern}\""), false)
                    .await?;
                self.compare(answer, &Value::text(&pattern), pattern.len() as u64)
            }
        }
    }

    async fn request(
        &self,
        stream: &mut dyn Stream,
        question: &str,
        slowly: bool,
    ) -> Result<Value, Ended> {
        stream.write_all(&text(MessageType::Sync, question)).await?;
        answer(stream, slowly).await
    }

    /// Nobody else's: it begins with the client's number.
    fn pattern(&self, random: &mut fastrand::Rng, longest: usize) -> String {
        let mut pattern = format!("{}.", self.number);
        let length = random.usize(..longest);
        pattern.extend((0..length).map(|_| random.alphanumeric()));
        pattern
    }

    fn compare(&self, answer: Value, expected: &Value, bytes: u64) -> Outcome {
        match answer {
            answer if answer == *expected => {
                self.figures.count(&self.figures.answers);
                self.figures
                    .bytes
                    .fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
                Ok(())
            }
            Value::Error(why) if why.starts_with("hopend: ") => Err(Ended::Told(why)),
            answer => {
                let mut shown = format!("{answer:?}");
                shown.truncate(shown.floor_char_boundary(200));
                Err(Ended::Wrong(format!(
                    "another answer than was asked for: {shown}"
                )))
            }
        }
    }
}

/// Comes back when the clients are to end.
async fn told(stopped: &mut watch::Receiver<bool>) {
    // The end of the sender is the end of it all.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

pub(crate) async fn answer(stream: &mut dyn Stream, slowly: bool) -> Result<Value, Ended> {
    let mut head = [0; HEADER_LEN];
    stream.read_exact(&mut head).await?;
    let wrong = |why: String| Ended::Wrong(why);
    let header = Header::parse(head).map_err(|error| wrong(error.to_string()))?;
    if header.message_type != MessageType::Response {
        return Err(wrong(format!(
            "{:?} in place of an answer",
            header.message_type
        )));
    }
    let length = usize::try_from(header.length).unwrap_or(usize::MAX) - HEADER_LEN;
    let mut body = vec![0; length];
    let piece = if slowly { 16 * 1024 } else { length };
    for piece in body.chunks_mut(piece) {
        stream.read_exact(piece).await?;
        if slowly {
            sleep(Duration::from_millis(2)).await;
        }
    }
    decode(&body, header.little_endian).map_err(|error| wrong(error.to_string()))
}

/// Goes in one of the ways that clients go.
async fn leave(mut stream: Handle, random: &mut fastrand::Rng) -> Outcome {
    let request = text(MessageType::Sync, "til 10000");
    let left = match random.u8(..4) {
        // In order.
        0 => stream.shutdown().await,
        // With a request open.
        1 => stream.write_all(&request).await,
        // Inside a message.
        2 => stream.write_all(&request[..11]).await,
        // As a process that was killed with unread bytes.
        _ => stream.reset_at_close(),
    };
    Ok(left?)
}
