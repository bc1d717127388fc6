//! The control socket, where `hopend status` and `hopend kill` ask a running daemon: one JSON request
//! line, one JSON answer line, over a Unix socket for root and the daemon's own account.

use std::io::{self, BufRead, Read, Write};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::config::{self, Endpoint};
use crate::daemon::listener::{FileId, Listener};
use crate::identity::Peer;
use crate::session::Services;
use crate::session::client::ClientStream;
use crate::surface::status::Status;
use crate::telemetry::live::{Grants, Selection};

/// Who may ask at a time; a further one waits.
const AT_A_TIME: usize = 16;
/// From a connection to its request.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);
/// How long a session may take to end once it was told to.
const KILL_WITHIN: Duration = Duration::from_secs(5);
/// How long the daemon may take to read a file that it is asked about.
const PREVIEW_WITHIN: Duration = Duration::from_secs(10);
/// From an answer to its last byte.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long whoever asks waits for the next byte.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most bytes of a request.
const LONGEST_REQUEST: u64 = 4 * 1024;
/// Most bytes of an answer: several times what a hundred thousand sessions take.
const LONGEST_ANSWER: u64 = 256 * 1024 * 1024;
/// The pause after a failed accept.
const PAUSE: Duration = Duration::from_millis(100);

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Everything that the daemon shows of itself.
    Status,
    /// The end of a session.
    Kill {
        /// Its number.
        session: u64,
    },
    /// The end of all sessions of a user, of an endpoint, or of a user at an endpoint.
    KillAll(Selection),
    /// Which sessions a reload of this file would end.
    Preview {
        /// An absolute path.
        config: PathBuf,
    },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// The session has ended.
    Killed,
    /// There is no such session, user or endpoint.
    NoSession(String),
    /// So many sessions have ended.
    KilledAll {
        /// How many.
        ended: u64,
    },
    /// To [`Request::Preview`].
    Preview {
        /// Open sessions.
        open: u64,
        /// Why some of them would end, each with its number of sessions.
        ends: Vec<(String, u64)>,
    },
    /// Whoever asks may not.
    Denied(String),
    /// There is no answer.
    Failed(String),
}

/// Why there is no answer of a daemon's.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The system does not let this account connect.
    #[error("{}: {source}", .path.display())]
    NotPermitted {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Nobody listens.
    #[error("no hopend answers at {}: {source}", .path.display())]
    Nobody {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The conversation broke.
    #[error("the hopend at {} gave no whole answer: {source}", .path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What broke.
        source: io::Error,
    },
}

/// A control socket that answers, until it is dropped.
#[derive(Debug)]
pub struct Control {
    socket: ControlSocket,
    serving: JoinHandle<()>,
}

/// The file of a control socket.
#[derive(Debug, Clone)]
pub struct ControlSocket {
    path: PathBuf,
    /// Its device and number.
    file: Option<FileId>,
}

/// A control socket that nobody answers at yet.
#[derive(Debug)]
pub struct BoundControl {
    listener: Listener,
    socket: ControlSocket,
}

impl ControlSocket {
    /// Whether it can be asked at `path`: its file may have been removed, or replaced. Blocks.
    pub fn is_at(&self, path: &Path) -> bool {
        self.path == path && self.file.is_some() && FileId::at(path) == self.file
    }
}

impl BoundControl {
    /// Binds. A daemon does its work without it, so a failure is logged and that is all. Blocks. Must be
    /// called within a tokio runtime.
    pub fn bind(path: &Path) -> Option<Self> {
        // One that a killed daemon left is replaced, a live daemon's is not.
        match Listener::bind_private(path) {
            Ok(listener) => Some(Self {
                listener,
                socket: ControlSocket {
                    path: path.to_path_buf(),
                    file: FileId::at(path),
                },
            }),
            Err(error) => {
                tracing::warn!(
                    "[daemon] control {} can't be bound ({}), so `hopend status` will not find this \
                     daemon. Fix: set it to a path in a folder that the daemon may write to, or to \"off\".",
                    path.display(),
                    error.cause()
                );
                None
            }
        }
    }
}

impl Control {
    /// Answers from now on. Must be called within a tokio runtime.
    pub fn serve(bound: BoundControl, services: &Arc<Services>) -> Self {
        Self {
            socket: bound.socket,
            serving: tokio::spawn(serve(bound.listener, Arc::clone(services))),
        }
    }

    /// Where it answers.
    pub fn socket(&self) -> ControlSocket {
        self.socket.clone()
    }

    /// Answers no more; returns when the file is gone.
    pub async fn stop(mut self) {
        self.serving.abort();
        // It ends as aborted.
        let _ = (&mut self.serving).await;
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: Listener, services: Arc<Services>) {
    let places = Arc::new(Semaphore::new(AT_A_TIME));
    let mut conversations = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = conversations.join_next() => continue,
        };
        let stream = match accepted {
            Ok(ClientStream::Unix(stream)) => stream,
            Ok(_) => continue,
            Err(error) => {
                tracing::warn!("control socket: accept failed: {error}");
                sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let services = Arc::clone(&services);
        conversations.spawn(async move {
            if let Err(error) = converse(stream, services).await {
                tracing::debug!("control socket: {error}");
            }
            drop(place);
        });
    }
}

async fn converse(mut stream: UnixStream, services: Arc<Services>) -> io::Result<()> {
    // The mode of the file keeps others out; this does where somebody changed it.
    let uid = Peer::of_unix(&stream).ok().and_then(|peer| peer.uid());
    let answer = match uid.filter(|uid| *uid == 0 || *uid == geteuid().as_raw()) {
        Some(uid) => match timeout(REQUEST_WITHIN, read(&mut stream)).await?? {
            Ok(request) => answer(request, uid, services).await,
            Err(error) => Answer::Failed(format!("no request: {error}")),
        },
        None => {
            let who = uid.map_or_else(|| "an unknown account".into(), |uid| format!("uid {uid}"));
            tracing::warn!("control socket: {who} was refused");
            Answer::Denied(format!("{who} is neither root nor the daemon's account"))
        }
    };
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    timeout(ANSWER_WITHIN, stream.write_all(&line)).await?
}

async fn read(stream: &mut UnixStream) -> io::Result<serde_json::Result<Request>> {
    let mut line = Vec::new();
    let mut limited = BufReader::new(stream.take(LONGEST_REQUEST));
    limited.read_until(b'\n', &mut line).await?;
    Ok(serde_json::from_slice(&line))
}

async fn answer(request: Request, uid: u32, services: Arc<Services>) -> Answer {
    match request {
        Request::Status => services.look().await.map_or_else(
            |panicked| Answer::Failed(panicked.to_string()),
            |status| Answer::Status(Box::new(Arc::unwrap_or_clone(status))),
        ),
        Request::Kill { session } => {
            match timeout(KILL_WITHIN, services.live.kill(session, uid)).await {
                Ok(Ok(())) => Answer::Killed,
                Ok(Err(_)) if services.sessions.is_earlier(session) => Answer::NoSession(format!(
                    "session {session} is of an earlier run of hopend, which has started again since. \
                     Fix: take a number from `hopend status`."
                )),
                Ok(Err(none)) => Answer::NoSession(none.to_string()),
                Err(_) => Answer::Failed(format!("session {session} has not ended yet")),
            }
        }
        Request::KillAll(selection) => kill_all(&selection, uid, &services).await,
        Request::Preview { config } => preview(config, services).await,
    }
}

async fn kill_all(selection: &Selection, uid: u32, services: &Services) -> Answer {
    let live = &services.live;
    let known = |name: &Option<String>, is: fn(&Endpoint, &str) -> bool| {
        let endpoints = live.endpoints();
        name.as_deref()
            .is_none_or(|name| endpoints.iter().any(|bound| is(&bound.endpoint, name)))
    };
    let has_user = |endpoint: &Endpoint, name: &str| {
        endpoint.users.iter().any(|user| user.name == name)
            || endpoint.users_left_out.iter().any(|user| user == name)
    };
    let killing = live.kill_all(selection, uid);
    if killing.count() == 0 {
        if !known(&selection.endpoint, |endpoint, name| endpoint.name == name) {
            return Answer::NoSession(format!(
                "no endpoint is called {:?}. Fix: take a name from `hopend status`.",
                selection.endpoint.as_deref().unwrap_or_default()
            ));
        }
        if !known(&selection.user, has_user) {
            return Answer::NoSession(format!(
                "no user of an endpoint is called {:?}, and none of that name has a session. Fix: take \
                 a name from `hopend check`.",
                selection.user.as_deref().unwrap_or_default()
            ));
        }
    }
    let count = killing.count();
    match timeout(KILL_WITHIN, killing.ended()).await {
        Ok(()) => Answer::KilledAll {
            ended: count as u64,
        },
        Err(_) => Answer::Failed(format!(
            "{count} sessions were told to end, and some have not ended yet"
        )),
    }
}

/// Reads the file as a reload would, and takes nothing over.
async fn preview(config: PathBuf, services: Arc<Services>) -> Answer {
    let endpoints = services.live.endpoints().into_iter();
    let running: Vec<_> = endpoints.map(|bound| bound.endpoint).collect();
    let load = move || config::load_to_serve(&config, &config::system_account, &running);
    match timeout(PREVIEW_WITHIN, tokio::task::spawn_blocking(load)).await {
        Ok(Ok(Ok(loaded))) => {
            let (open, ends) = services.live.would_end(&Grants::of(&loaded));
            Answer::Preview { open, ends }
        }
        Ok(Ok(Err(problems))) => Answer::Failed(problems.to_string()),
        Ok(Err(panicked)) => Answer::Failed(panicked.to_string()),
        Err(_) => Answer::Failed("the daemon could not read the file in time".into()),
    }
}

/// Asks the daemon behind `path`. Blocks.
pub fn ask(path: &Path, request: &Request) -> Result<Answer, AskError> {
    let stream = StdUnixStream::connect(path).map_err(|source| {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::PermissionDenied => AskError::NotPermitted { path, source },
            _ => AskError::Nobody { path, source },
        }
    })?;
    exchange(&stream, request).map_err(|source| AskError::Broken {
        path: path.to_path_buf(),
        source,
    })
}

fn exchange(mut stream: &StdUnixStream, request: &Request) -> io::Result<Answer> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    // One that refuses may have closed already: its reason can still be read.
    let written = stream.write_all(&line);
    let mut answer = Vec::new();
    io::BufReader::new(stream.take(LONGEST_ANSWER)).read_until(b'\n', &mut answer)?;
    if answer.is_empty() {
        written?;
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&answer)?)
}
