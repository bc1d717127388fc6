//! Health, metrics and the status page over HTTP, for whoever watches the daemon. All answers are
//! shallow: no probe ever dials a cluster or AWS.
//!
//! Whoever reaches the address may read `/metrics`: it names endpoints, users and roles, and holds no
//! secret. `/status` tells of sessions and what went wrong for whom, to root, the daemon's own account
//! and `viewers` alone; who asks is known from the kernel.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Path as UrlPath, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::serve::IncomingStream;
use nix::unistd::geteuid;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::auth::holder;
use crate::config::{ListenAddress, Viewers};
use crate::listener::BIND_EVERY;
use crate::live::Totals;
use crate::session::Services;
use crate::status::Status;
use crate::stop::Stopping;
use crate::visitors::Visitors;
use crate::{crypto, metrics, page};

/// For so long one look does for everybody.
const FRESH: Duration = Duration::from_millis(200);

/// The admin address, served until it is dropped.
#[derive(Debug)]
pub struct Admin {
    /// As the configuration has it.
    address: SocketAddr,
    viewers: watch::Sender<Viewers>,
    _serving: AbortOnDropHandle<()>,
}

impl Admin {
    /// Binds and serves, or goes on trying: a daemon does its work without it. Must be called within a
    /// tokio runtime.
    pub fn start(
        address: SocketAddr,
        viewers: Viewers,
        stopping: Stopping,
        services: Arc<Services>,
    ) -> Self {
        let (sender, viewers) = watch::channel(viewers);
        let bound = bind(address);
        match &bound {
            // Where the system chose the port, that one.
            Ok(listener) => told(listener.local_addr().unwrap_or(address)),
            Err(error) => {
                let holder = holder::of(&ListenAddress::Tcp(address));
                let holder =
                    holder.map_or_else(String::new, |holder| format!(" ({holder} holds it)"));
                tracing::error!(
                    "[daemon] admin {address} can't be bound: {error}{holder}; hopend goes on trying"
                );
            }
        }
        let serving = async move {
            let listener = match bound {
                Ok(listener) => listener,
                Err(_) => bind_when_free(address).await,
            };
            serve(listener, stopping, services, viewers).await;
        };
        Self {
            address,
            viewers: sender,
            _serving: AbortOnDropHandle::new(tokio::spawn(serving)),
        }
    }

    /// Whether it is the one that is wanted there.
    pub fn is_at(&self, address: SocketAddr) -> bool {
        self.address == address
    }

    /// From now on these may see the page.
    pub fn show_to(&self, viewers: Viewers) {
        self.viewers.send_replace(viewers);
    }
}

fn told(address: SocketAddr) {
    tracing::info!(%address, "admin");
}

async fn bind_when_free(address: SocketAddr) -> TcpListener {
    loop {
        sleep(BIND_EVERY).await;
        if let Ok(listener) = bind(address) {
            told(address);
            return listener;
        }
    }
}

/// What the answers are made of.
struct Answers {
    services: Arc<Services>,
    viewers: watch::Receiver<Viewers>,
    /// Whether only this host can ask.
    local: bool,
    ready: Stopping,
    /// The last look at everything.
    seen: Mutex<Option<(Instant, Arc<Seen>)>>,
}

struct Seen {
    status: Arc<Status>,
    totals: Totals,
}

/// The account that a connection comes from, where the kernel tells.
#[derive(Debug, Clone, Copy)]
struct Asker(Option<u32>);

impl Connected<IncomingStream<'_, Visitors>> for Asker {
    fn connect_info(stream: IncomingStream<'_, Visitors>) -> Self {
        Self(stream.io().uid())
    }
}

/// Serves `/livez` (200 while the process turns) and `/readyz` (200 while endpoints accept, 503 once
/// the daemon drains), `/metrics` in OpenMetrics, and the page `/status` for `viewers`, until sessions
/// are cut.
pub async fn serve(
    listener: TcpListener,
    stopping: Stopping,
    services: Arc<Services>,
    viewers: watch::Receiver<Viewers>,
) {
    let address = listener.local_addr();
    let answers = Arc::new(Answers {
        services,
        viewers,
        local: address.is_ok_and(|address| address.ip().is_loopback()),
        ready: stopping.clone(),
        seen: Mutex::default(),
    });
    let routes = Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/readyz/{endpoint}", get(endpoint_ready))
        .route("/metrics", get(exposition))
        .route("/status", get(whole))
        .route("/status/facts", get(facts))
        .route("/status.json", get(json))
        .with_state(answers)
        .into_make_service_with_connect_info::<Asker>();
    let mut cutting = stopping;
    tokio::select! {
        served = axum::serve(Visitors::new(listener), routes) => {
            if let Err(error) = served {
                tracing::error!("the admin address serves no more: {error}");
            }
        }
        () = cutting.cutting() => {}
    }
}

/// 200 also while an endpoint is not bound: any account of the host could otherwise drain all of it by
/// taking one address.
async fn ready(State(answers): State<Arc<Answers>>) -> Response {
    if answers.ready.has_begun() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response();
    }
    let endpoints = answers.services.live.readiness();
    let degraded = endpoints.iter().filter(|of| !of.unbound.is_empty());
    let names: Vec<&str> = degraded.map(|of| of.name.as_str()).collect();
    match &names[..] {
        [] => "ready\n".into_response(),
        names => format!("degraded: {}\n", names.join(" ")).into_response(),
    }
}

/// 503 while one of the endpoint's addresses is not bound.
async fn endpoint_ready(
    State(answers): State<Arc<Answers>>,
    UrlPath(endpoint): UrlPath<String>,
) -> Response {
    let endpoints = answers.services.live.readiness();
    let Some(of) = endpoints.into_iter().find(|of| of.name == endpoint) else {
        return (StatusCode::NOT_FOUND, "no such endpoint\n").into_response();
    };
    let unbound = of.unbound.iter().map(|unbound| unbound.address.to_string());
    let unbound: Vec<String> = unbound.collect();
    match (answers.ready.has_begun(), &unbound[..]) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response(),
        (false, []) => "ready\n".into_response(),
        (false, unbound) => {
            let text = format!("not bound: {}\n", unbound.join(" "));
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

async fn exposition(State(answers): State<Arc<Answers>>, headers: HeaderMap) -> Response {
    // Other hosts may know it by a name.
    if answers.local && !names_this_host(&headers) {
        return by_another_name();
    }
    match metrics::text(&answers.services) {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            tracing::error!("no metrics: {error}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn whole(
    State(answers): State<Arc<Answers>>,
    ConnectInfo(asker): ConnectInfo<Asker>,
    headers: HeaderMap,
) -> Response {
    let nonce = match nonce() {
        Ok(nonce) => nonce,
        Err(failed) => return failed.into_response(),
    };
    // Nothing from elsewhere, no script but the page's own, and in nobody's frame.
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; \
         connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    let page = answers.view(asker, &headers, |seen| {
        Html(page::whole(&seen.status, &seen.totals, &nonce)).into_response()
    });
    ([(CONTENT_SECURITY_POLICY, policy)], page.await).into_response()
}

async fn facts(
    State(answers): State<Arc<Answers>>,
    ConnectInfo(asker): ConnectInfo<Asker>,
    headers: HeaderMap,
) -> Response {
    let facts = |seen: &Seen| Html(page::facts(&seen.status, &seen.totals)).into_response();
    answers.view(asker, &headers, facts).await
}

/// As `hopend status --json`.
async fn json(
    State(answers): State<Arc<Answers>>,
    ConnectInfo(asker): ConnectInfo<Asker>,
    headers: HeaderMap,
) -> Response {
    let json = |seen: &Seen| match serde_json::to_string(&*seen.status) {
        Ok(text) => ([(CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => {
            tracing::error!("no status: {error}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    };
    answers.view(asker, &headers, json).await
}

impl Answers {
    /// What has been seen, shown to those who may see it.
    async fn view(
        &self,
        Asker(uid): Asker,
        headers: &HeaderMap,
        show: impl FnOnce(&Seen) -> Response,
    ) -> Response {
        const SAFE: [(HeaderName, &str); 4] = [
            (CACHE_CONTROL, "no-store"),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (REFERRER_POLICY, "no-referrer"),
            (X_FRAME_OPTIONS, "DENY"),
        ];
        // Those who may see it are on this host, also where others can ask.
        if !names_this_host(headers) {
            return by_another_name();
        }
        let own = geteuid().as_raw();
        if !uid.is_some_and(|uid| uid == 0 || uid == own || self.viewers.borrow().has(uid)) {
            let reason = "only root, hopend's own account and [daemon] viewers may see this\n";
            return (StatusCode::FORBIDDEN, SAFE, reason).into_response();
        }
        match self.look().await {
            Some(seen) => (SAFE, show(&seen)).into_response(),
            None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }

    /// A look that is no older than [`FRESH`]; those who come meanwhile share it.
    async fn look(&self) -> Option<Arc<Seen>> {
        let mut last = self.seen.lock().await;
        if let Some((_, seen)) = last.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return Some(Arc::clone(seen));
        }
        let status = match Arc::clone(&self.services).look().await {
            Ok(status) => status,
            Err(error) => {
                tracing::error!("no status: {error}");
                return None;
            }
        };
        let totals = self.services.live.totals(&self.services.credentials);
        let seen = Arc::new(Seen { status, totals });
        *last = Some((Instant::now(), Arc::clone(&seen)));
        Some(seen)
    }
}

/// Keeps out a web page whose name has been made to lead to this host: a browser sends that name.
fn names_this_host(headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let Some(authority) = host.and_then(|host| host.parse::<Authority>().ok()) else {
        return false;
    };
    let name = authority.host().trim_matches(['[', ']']);
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

fn by_another_name() -> Response {
    let reason = "ask by an IP address or as localhost\n";
    (StatusCode::MISDIRECTED_REQUEST, reason).into_response()
}

/// What nobody can guess.
fn nonce() -> Result<String, StatusCode> {
    let mut bytes = [0; 16];
    let filled = crypto::provider().secure_random.fill(&mut bytes);
    filled.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Binds the admin address. Must be called within a tokio runtime.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}
