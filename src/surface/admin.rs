//! Health, metrics and the status page over HTTP, for whoever watches the daemon. All answers are
//! shallow: no probe ever dials a cluster or AWS.
//!
//! Every account of this host may read `/metrics`: it names endpoints, users and roles, and holds no
//! secret. `/status` shows sessions and errors to root, the daemon's own account and `viewers` alone; the
//! kernel tells which account asks. Other hosts see the pages that `expose` lists, without user names
//! unless `metrics_users` is set.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Path as UrlPath, Request, State};
use axum::http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, REFERRER_POLICY, VARY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::get;
use axum::serve::IncomingStream;
use nix::unistd::geteuid;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::config::{AdminSettings, Exposure, LeftOut, ListenAddress, ServerTls, Viewers};
use crate::daemon::listener::{BIND_EVERY, FIRST_BIND_PAUSE};
use crate::identity::client_tls::Certificates;
use crate::identity::holder;
use crate::primitives::stop::Stopping;
use crate::session::Services;
use crate::surface::metrics::{self, Format, Names};
use crate::surface::page;
use crate::surface::status::Status;
use crate::surface::visitors::Visitors;
use crate::telemetry::live::Totals;
use base::error::with_fix;
use q_relay::crypto;

/// For so long one look does for everybody.
const FRESH: Duration = Duration::from_millis(200);

/// Who may see what at the admin address. A reload replaces it.
#[derive(Debug, Clone, Default)]
pub struct Audience {
    /// Accounts of this host that may see the status page, beside root and the daemon's own.
    pub viewers: Viewers,
    /// What other hosts may see.
    pub exposure: Exposure,
    /// The certificate, where the address speaks TLS.
    pub tls: Option<Arc<Certificates>>,
}

impl Audience {
    /// As the configuration has it. Certificates that were served `before` are served on where they are of
    /// the same files. Blocks: it reads them.
    fn of(settings: &AdminSettings, viewers: &Viewers, before: Option<&Arc<Certificates>>) -> Self {
        let served = |tls: &ServerTls| match before.filter(|before| before.are_of(tls)) {
            Some(before) => {
                before.look();
                Arc::clone(before)
            }
            None => Arc::new(Certificates::new("[daemon] admin", tls)),
        };
        Self {
            viewers: viewers.clone(),
            exposure: settings.exposure.clone(),
            tls: settings.tls.as_ref().map(served),
        }
    }
}

/// The admin address as a configuration has it, ready to be served without waiting for anything.
#[derive(Debug)]
pub enum PreparedAdmin {
    /// There is none.
    None,
    /// It is where it was, for this audience.
    Stays(Audience),
    /// It is at another place from now on.
    Fresh(BoundAdmin),
}

/// An admin address, bound unless something keeps hopend from it.
#[derive(Debug)]
pub struct BoundAdmin {
    address: SocketAddr,
    audience: Audience,
    listener: Option<TcpListener>,
}

/// The admin address that is served.
#[derive(Debug, Clone)]
pub struct KnownAdmin {
    address: SocketAddr,
    certificates: Option<Arc<Certificates>>,
}

impl PreparedAdmin {
    /// What a configuration has. Blocks: it reads certificates, and looks for the process that has the
    /// address. Must be called within a tokio runtime.
    pub fn of(
        settings: Option<&AdminSettings>,
        viewers: &Viewers,
        known: Option<&KnownAdmin>,
    ) -> Self {
        let Some(settings) = settings else {
            return Self::None;
        };
        let certificates = known.and_then(|known| known.certificates.as_ref());
        let audience = Audience::of(settings, viewers, certificates);
        match known {
            Some(known) if known.address == settings.address => Self::Stays(audience),
            _ => Self::Fresh(BoundAdmin::bind(settings.address, audience)),
        }
    }
}

impl BoundAdmin {
    fn bind(address: SocketAddr, audience: Audience) -> Self {
        let listener = match bind(address) {
            Ok(listener) => {
                // Where the system chose the port, that one.
                told(listener.local_addr().unwrap_or(address));
                Some(listener)
            }
            Err(error) => {
                let holder = holder::find(&ListenAddress::Tcp(address));
                let holder =
                    holder.map_or_else(String::new, |holder| format!(" ({holder} holds it)"));
                let what = format!(
                    "[daemon] admin {address} can't be bound: {error}{holder}; hopend goes on trying"
                );
                let fix = "end the process that has the address, or choose another address";
                tracing::error!("{}", with_fix(what, fix));
                None
            }
        };
        Self {
            address,
            audience,
            listener,
        }
    }
}

/// The admin address, served until it is dropped.
#[derive(Debug)]
pub struct Admin {
    /// As the configuration has it.
    address: SocketAddr,
    audience: watch::Sender<Audience>,
    _serving: AbortOnDropHandle<()>,
}

impl Admin {
    /// Serves, or goes on trying to bind: a daemon does its work without it. Must be called within a tokio
    /// runtime.
    pub fn start(bound: BoundAdmin, stopping: Stopping, services: Arc<Services>) -> Self {
        let BoundAdmin {
            address,
            audience,
            listener,
        } = bound;
        let (sender, audience) = watch::channel(audience);
        let serving = async move {
            let listener = match listener {
                Some(listener) => listener,
                None => bind_when_free(address).await,
            };
            serve(listener, stopping, services, audience).await;
        };
        Self {
            address,
            audience: sender,
            _serving: AbortOnDropHandle::new(tokio::spawn(serving)),
        }
    }

    /// What a reload has to know of it.
    pub fn known(&self) -> KnownAdmin {
        KnownAdmin {
            address: self.address,
            certificates: self.audience.borrow().tls.clone(),
        }
    }

    /// From now on this is who may see what.
    pub fn show_to(&self, audience: Audience) {
        self.audience.send_replace(audience);
    }
}

fn told(address: SocketAddr) {
    tracing::info!(%address, "admin");
}

async fn bind_when_free(address: SocketAddr) -> TcpListener {
    let mut pause = FIRST_BIND_PAUSE;
    loop {
        sleep(pause).await;
        pause = (pause * 2).min(BIND_EVERY);
        if let Ok(listener) = bind(address) {
            told(address);
            return listener;
        }
    }
}

/// What the answers are made of.
struct Answers {
    services: Arc<Services>,
    audience: watch::Receiver<Audience>,
    ready: Stopping,
    /// The last look at everything.
    seen: Mutex<Option<(Instant, Arc<Seen>)>>,
}

struct Seen {
    status: Arc<Status>,
    totals: Totals,
}

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
enum Asker {
    /// This host, by its loopback; the account, where the kernel tells it.
    Local(Option<u32>),
    /// Another host, or this one by an address that other hosts use.
    Remote,
}

impl Connected<IncomingStream<'_, Visitors>> for Asker {
    fn connect_info(stream: IncomingStream<'_, Visitors>) -> Self {
        let visitor = stream.io();
        match visitor.is_remote() {
            true => Self::Remote,
            false => Self::Local(visitor.uid()),
        }
    }
}

/// Serves `/livez` (200 while the process turns) and `/readyz` (200 while endpoints accept, 503 once
/// the daemon drains), `/metrics` in the format that is asked for, and the page `/status` for viewers,
/// until sessions are cut. `/` leads to the page.
pub async fn serve(
    listener: TcpListener,
    stopping: Stopping,
    services: Arc<Services>,
    audience: watch::Receiver<Audience>,
) {
    let visitors = Visitors::new(listener, audience.clone());
    let answers = Arc::new(Answers {
        services,
        audience,
        ready: stopping.clone(),
        seen: Mutex::default(),
    });
    let routes = Router::new()
        .route("/", get(|| async { Redirect::temporary("/status") }))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/readyz/{endpoint}", get(endpoint_ready))
        .route("/metrics", get(exposition))
        .route("/status", get(whole))
        .route("/status/facts", get(facts))
        .route("/status.json", get(json))
        .with_state(Arc::clone(&answers))
        // Before every route, those that others add included.
        .layer(from_fn_with_state(answers, gate))
        .into_make_service_with_connect_info::<Asker>();
    let mut cutting = stopping;
    tokio::select! {
        served = axum::serve(visitors, routes) => {
            if let Err(error) = served {
                tracing::error!("the admin address serves no more: {error}");
            }
        }
        () = cutting.cutting() => {}
    }
}

/// 200 also while an endpoint is not bound: any account of the host could otherwise drain all of it by
/// taking one address. Names those endpoints, and those that are left out for an error in the configuration.
async fn ready(State(answers): State<Arc<Answers>>) -> Response {
    if answers.ready.has_begun() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response();
    }
    let live = &answers.services.live;
    let endpoints = live.readiness();
    let unbound = endpoints.iter().filter(|of| !of.unbound.is_empty());
    let unbound = unbound.map(|of| of.name.clone());
    let left_out = live.endpoints_left_out().into_iter();
    let left_out = left_out.map(|LeftOut { part, .. }| match part.name.is_empty() {
        true => format!("line:{}", part.line),
        false => part.name,
    });
    let names: Vec<String> = unbound.chain(left_out).collect();
    match &names[..] {
        [] => "ready\n".into_response(),
        names => format!("degraded: {}\n", names.join(" ")).into_response(),
    }
}

/// 503 while one of the endpoint's addresses is not bound, or while the endpoint is left out for an error
/// in the configuration.
async fn endpoint_ready(
    State(answers): State<Arc<Answers>>,
    ConnectInfo(asker): ConnectInfo<Asker>,
    UrlPath(endpoint): UrlPath<String>,
    headers: HeaderMap,
) -> Response {
    let live = &answers.services.live;
    let mut served = live.readiness().into_iter();
    let obstacle = if let Some(of) = served.find(|of| of.name == endpoint) {
        let unbound = of.unbound.iter().map(|unbound| unbound.address.to_string());
        let unbound: Vec<String> = unbound.collect();
        (!unbound.is_empty()).then(|| format!("not bound: {}\n", unbound.join(" ")))
    } else {
        let mut left_out = live.endpoints_left_out().into_iter();
        let Some(left_out) = left_out.find(|left_out| left_out.part.name == endpoint) else {
            return (StatusCode::NOT_FOUND, "no such endpoint\n").into_response();
        };
        // The reason may name users and files.
        Some(if answers.may_see(asker) && names_this_host(&headers) {
            format!("left out: {}\n", left_out.reason)
        } else {
            "left out: hopend check tells why\n".into()
        })
    };
    match (answers.ready.has_begun(), obstacle) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response(),
        (false, None) => "ready\n".into_response(),
        (false, Some(text)) => (StatusCode::SERVICE_UNAVAILABLE, text).into_response(),
    }
}

/// Turns other hosts away from everything that is not exposed to them.
async fn gate(
    State(answers): State<Arc<Answers>>,
    ConnectInfo(asker): ConnectInfo<Asker>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    let refused = match asker {
        Asker::Local(_) => false,
        Asker::Remote => !answers.audience.borrow().exposure.covers(path),
    };
    if refused {
        let reason = "only this host may see this: [daemon] admin does not expose it\n";
        return (StatusCode::FORBIDDEN, reason).into_response();
    }
    next.run(request).await
}

async fn exposition(
    State(answers): State<Arc<Answers>>,
    ConnectInfo(asker): ConnectInfo<Asker>,
    headers: HeaderMap,
) -> Response {
    let names = match asker {
        // Other hosts may know this one by a name.
        Asker::Local(_) if !names_this_host(&headers) => return by_another_name(),
        Asker::Local(_) => Names::Shown,
        Asker::Remote if answers.audience.borrow().exposure.metrics_users => Names::Shown,
        Asker::Remote => Names::Withheld,
    };
    let accept = headers.get_all(ACCEPT).iter();
    let format = Format::negotiate(accept.filter_map(|value| value.to_str().ok()));
    match metrics::text(&answers.services, format, names) {
        Ok(text) => {
            let about = [(CONTENT_TYPE, format.content_type()), (VARY, "Accept")];
            (about, text).into_response()
        }
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
    /// Whether it is root, hopend's own account or a viewer.
    fn may_see(&self, asker: Asker) -> bool {
        let own = geteuid().as_raw();
        let may = |uid| uid == 0 || uid == own || self.audience.borrow().viewers.has(uid);
        match asker {
            Asker::Local(uid) => uid.is_some_and(may),
            Asker::Remote => false,
        }
    }

    /// What has been seen, shown to those who may see it.
    async fn view(
        &self,
        asker: Asker,
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
        if !self.may_see(asker) {
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
