//! The daemon's side of the control socket.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use nix::unistd::geteuid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::{ControlRequest, ControlResponse};
use crate::config::{self, Endpoint};
use crate::identity::Peer;
use crate::listener::{FileId, Listener};
use crate::session::client::ClientStream;
use crate::surface::StatusSource;
use crate::telemetry::live::{
    EndingSessions, Grants, GrantsPreview, NoSuchSession, SessionSelection,
};

/// The most connections at a time. A further one waits in the kernel.
const MAX_CONNECTIONS: usize = 16;
/// How long a client may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a session may take to end after it was ordered to.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long reading a configuration file for a preview may take.
const PREVIEW_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to read the response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
/// The most bytes of a request.
const MAX_REQUEST: u64 = 4 * 1024;
/// The pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The part of the daemon that clients of the control socket see and control.
pub trait ControlView: StatusSource + Send + Sync {
    /// The endpoints that are served now, in the configuration's order.
    fn endpoints(&self) -> Vec<Arc<Endpoint>>;

    /// Ends a session for the account `uid`. The future completes once the session has ended.
    fn kill(&self, session: u64, uid: u32) -> BoxFuture<'_, Result<(), NoSuchSession>>;

    /// Orders the selected sessions to end, for the account `uid`. Does not wait for them.
    fn kill_all(&self, selection: &SessionSelection, uid: u32) -> EndingSessions;

    /// The sessions that would end if a reload brought these grants.
    fn preview_grants(&self, grants: &Grants) -> GrantsPreview;

    /// Whether a session of this number can only have run before the daemon started.
    fn is_of_earlier_run(&self, session: u64) -> bool;
}

/// The control socket that the daemon serves. Dropping it ends the service.
#[derive(Debug)]
pub struct Control {
    socket: ControlSocket,
    serving: JoinHandle<()>,
}

/// Identifies the file of a control socket.
#[derive(Debug, Clone)]
pub struct ControlSocket {
    path: PathBuf,
    /// The device and inode of the file.
    file: Option<FileId>,
}

/// A control socket that is bound and not served yet.
#[derive(Debug)]
pub struct BoundControl {
    listener: Listener,
    socket: ControlSocket,
}

impl ControlSocket {
    /// Whether clients reach this socket at `path`. False if its file was removed or replaced. Blocks.
    pub fn is_at(&self, path: &Path) -> bool {
        self.path == path && self.file.is_some() && FileId::at(path) == self.file
    }
}

impl BoundControl {
    /// Binds the control socket. If that fails, it logs the error and returns `None`: the daemon serves clients
    /// without it. Blocks. Must be called within a tokio runtime.
    pub fn bind(path: &Path) -> Option<Self> {
        // Replaces a socket that a killed daemon has left, but not the socket of a running daemon.
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
    /// Serves the control socket in a task of its own. Must be called within a tokio runtime.
    pub fn serve(bound: BoundControl, view: Arc<dyn ControlView>) -> Self {
        Self {
            socket: bound.socket,
            serving: tokio::spawn(serve(bound.listener, view)),
        }
    }

    /// The file of the socket.
    pub fn socket(&self) -> ControlSocket {
        self.socket.clone()
    }

    /// Ends the service. Returns once the socket's file is removed.
    pub async fn stop(mut self) {
        self.serving.abort();
        // Always an error, because the task was aborted.
        let _ = (&mut self.serving).await;
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: Listener, view: Arc<dyn ControlView>) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let stream = match accepted {
            Ok(ClientStream::Unix(stream)) => stream,
            Ok(_) => continue,
            Err(error) => {
                tracing::warn!("control socket: accept failed: {error}");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        let view = Arc::clone(&view);
        connections.spawn(async move {
            if let Err(error) = serve_connection(stream, view).await {
                tracing::debug!("control socket: {error}");
            }
            drop(permit);
        });
    }
}

async fn serve_connection(mut stream: UnixStream, view: Arc<dyn ControlView>) -> io::Result<()> {
    // The mode of the socket's file keeps other accounts out. This check holds also if somebody changes the mode.
    let uid = Peer::of_unix(&stream).ok().and_then(|peer| peer.uid());
    let response = match uid.filter(|uid| *uid == 0 || *uid == geteuid().as_raw()) {
        Some(uid) => match timeout(REQUEST_TIMEOUT, read_request(&mut stream)).await?? {
            Ok(request) => respond(request, uid, view).await,
            Err(error) => ControlResponse::Failed(format!("no request: {error}")),
        },
        None => {
            let who = uid.map_or_else(|| "an unknown account".into(), |uid| format!("uid {uid}"));
            tracing::warn!("control socket: {who} was refused");
            ControlResponse::Denied(format!("{who} is neither root nor the daemon's account"))
        }
    };
    let mut line = serde_json::to_vec(&response)?;
    line.push(b'\n');
    timeout(RESPONSE_TIMEOUT, stream.write_all(&line)).await?
}

async fn read_request(stream: &mut UnixStream) -> io::Result<serde_json::Result<ControlRequest>> {
    let mut line = Vec::new();
    let mut limited = BufReader::new(stream.take(MAX_REQUEST));
    limited.read_until(b'\n', &mut line).await?;
    Ok(serde_json::from_slice(&line))
}

async fn respond(request: ControlRequest, uid: u32, view: Arc<dyn ControlView>) -> ControlResponse {
    match request {
        ControlRequest::Status => view.snapshot().await.map_or_else(
            |panicked| ControlResponse::Failed(panicked.to_string()),
            |status| ControlResponse::Status(Box::new(Arc::unwrap_or_clone(status))),
        ),
        ControlRequest::Kill { session } => kill(session, uid, &*view).await,
        ControlRequest::KillAll(selection) => kill_all(&selection, uid, &*view).await,
        ControlRequest::Preview { config } => preview(config, &*view).await,
    }
}

async fn kill(session: u64, uid: u32, view: &dyn ControlView) -> ControlResponse {
    match timeout(KILL_TIMEOUT, view.kill(session, uid)).await {
        Ok(Ok(())) => ControlResponse::Killed,
        Ok(Err(_)) if view.is_of_earlier_run(session) => ControlResponse::NoSession(format!(
            "session {session} is of an earlier run of hopend, which has started again since. \
             Fix: take a number from `hopend status`."
        )),
        Ok(Err(unknown)) => ControlResponse::NoSession(unknown.to_string()),
        Err(_) => ControlResponse::Failed(format!("session {session} has not ended yet")),
    }
}

async fn kill_all(
    selection: &SessionSelection,
    uid: u32,
    view: &dyn ControlView,
) -> ControlResponse {
    let ending = view.kill_all(selection, uid);
    let count = ending.count();
    if count == 0
        && let Some(unknown) = unknown_name(selection, &view.endpoints())
    {
        return ControlResponse::NoSession(unknown);
    }
    match timeout(KILL_TIMEOUT, ending.ended()).await {
        Ok(()) => ControlResponse::KilledAll {
            ended: count as u64,
        },
        Err(_) => ControlResponse::Failed(format!(
            "{count} sessions were told to end, and some have not ended yet"
        )),
    }
}

/// The message about a name in the selection that no endpoint has. `None` if the endpoints have both.
fn unknown_name(selection: &SessionSelection, endpoints: &[Arc<Endpoint>]) -> Option<String> {
    let has_user = |endpoint: &Endpoint, name: &str| {
        endpoint.users.iter().any(|user| user.name == name)
            || endpoint.users_left_out.iter().any(|user| user == name)
    };
    if let Some(name) = &selection.endpoint
        && !endpoints.iter().any(|endpoint| endpoint.name == *name)
    {
        return Some(format!(
            "no endpoint is called {name:?}. Fix: take a name from `hopend status`."
        ));
    }
    if let Some(name) = &selection.user
        && !endpoints.iter().any(|endpoint| has_user(endpoint, name))
    {
        return Some(format!(
            "no user of an endpoint is called {name:?}, and none of that name has a session. Fix: take a \
             name from `hopend check`."
        ));
    }
    None
}

/// Reads the file as a reload would, but applies nothing.
async fn preview(config: PathBuf, view: &dyn ControlView) -> ControlResponse {
    let running = view.endpoints();
    let load = move || config::load_to_serve(&config, &config::system_account, &running);
    match timeout(PREVIEW_TIMEOUT, tokio::task::spawn_blocking(load)).await {
        Ok(Ok(Ok(loaded))) => ControlResponse::Preview(view.preview_grants(&Grants::of(&loaded))),
        Ok(Ok(Err(problems))) => ControlResponse::Failed(problems.to_string()),
        Ok(Err(panicked)) => ControlResponse::Failed(panicked.to_string()),
        Err(_) => ControlResponse::Failed("the daemon could not read the file in time".into()),
    }
}
