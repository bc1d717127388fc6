//! The HTTP server of the admin address: routes, access rules and responses.

use std::net::IpAddr;
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
use tokio::time::Instant;

use super::connections::AdminListener;
use super::{AdminView, Audience};
use crate::config::LeftOutPart;
use crate::primitives::shutdown::ShutdownReceiver;
use crate::surface::metrics::{self, MetricsFormat, UserNames};
use crate::surface::page;
use crate::telemetry::live::DaemonTotals;
use crate::telemetry::status::Status;
use q_relay::crypto;

/// How long a snapshot is served again instead of a new one.
const SNAPSHOT_LIFE: Duration = Duration::from_millis(200);

/// Serves HTTP until a stop of the daemon cuts its sessions.
///
/// | Path | Response |
/// |---|---|
/// | `/livez` | 200 while the process runs |
/// | `/readyz` | 200 while the endpoints accept clients, 503 once the daemon drains |
/// | `/readyz/{endpoint}` | 503 also while clients cannot reach the endpoint at each of its addresses |
/// | `/metrics` | the metrics, in the format that the client prefers |
/// | `/status` | the status page; `/` redirects to it |
/// | `/status/facts` | the part of the page that changes, which its script reloads |
/// | `/status.json` | the output of `hopend status --json` |
pub async fn serve(
    listener: TcpListener,
    stopping: ShutdownReceiver,
    view: Arc<dyn AdminView>,
    audience: watch::Receiver<Audience>,
) {
    let connections = AdminListener::new(listener, audience.clone());
    let state = Arc::new(AdminState {
        view,
        audience,
        stopping: stopping.clone(),
        last_snapshot: Mutex::default(),
    });
    let routes = Router::new()
        .route("/", get(|| async { Redirect::temporary("/status") }))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readiness))
        .route("/readyz/{endpoint}", get(endpoint_readiness))
        .route("/metrics", get(metrics_text))
        .route("/status", get(status_page))
        .route("/status/facts", get(status_facts))
        .route("/status.json", get(status_json))
        .with_state(Arc::clone(&state))
        // The outermost layer, so that it also covers paths that have no route.
        .layer(from_fn_with_state(state, check_exposure))
        .into_make_service_with_connect_info::<AdminClient>();
    let mut cutting = stopping;
    tokio::select! {
        served = axum::serve(connections, routes) => {
            if let Err(error) = served {
                tracing::error!("the admin address serves no more: {error}");
            }
        }
        () = cutting.cutting() => {}
    }
}

/// The state that all requests share.
struct AdminState {
    view: Arc<dyn AdminView>,
    audience: watch::Receiver<Audience>,
    stopping: ShutdownReceiver,
    last_snapshot: Mutex<Option<Arc<PageSnapshot>>>,
}

/// The data of the status page.
struct PageSnapshot {
    taken: Instant,
    status: Arc<Status>,
    totals: DaemonTotals,
}

/// The client that sends a request.
#[derive(Debug, Clone, Copy)]
enum AdminClient {
    /// A process of this host that connected over the loopback. The uid is unknown if the kernel does not report
    /// it.
    Local { uid: Option<u32> },
    /// Another host, or this host by an address that other hosts can use as well.
    Remote,
}

impl Connected<IncomingStream<'_, AdminListener>> for AdminClient {
    fn connect_info(stream: IncomingStream<'_, AdminListener>) -> Self {
        let connection = stream.io();
        if connection.is_remote() {
            Self::Remote
        } else {
            Self::Local {
                uid: connection.uid(),
            }
        }
    }
}

/// `/readyz`. Names the endpoints that are not bound at each address, and those that are left out for an
/// error in the configuration. Such endpoints do not make `/readyz` fail. Otherwise any account of the
/// host could take the whole daemon out of service by occupying one address.
async fn readiness(State(state): State<Arc<AdminState>>) -> Response {
    if state.stopping.is_draining() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response();
    }
    let endpoints = state.view.readiness().into_iter();
    let unbound = endpoints.filter(|endpoint| !endpoint.unbound.is_empty());
    let unbound = unbound.map(|endpoint| endpoint.name);
    let left_out = state.view.endpoints_left_out().into_iter();
    let left_out = left_out.map(|LeftOutPart { part, .. }| match part.name.is_empty() {
        true => format!("line:{}", part.line),
        false => part.name,
    });
    let names: Vec<String> = unbound.chain(left_out).collect();
    match &names[..] {
        [] => "ready\n".into_response(),
        names => format!("degraded: {}\n", names.join(" ")).into_response(),
    }
}

/// `/readyz/{endpoint}`. 503 while one of the endpoint's addresses is not bound, or while the endpoint is left out
/// for an error in the configuration.
async fn endpoint_readiness(
    State(state): State<Arc<AdminState>>,
    ConnectInfo(client): ConnectInfo<AdminClient>,
    UrlPath(endpoint): UrlPath<String>,
    headers: HeaderMap,
) -> Response {
    let mut served = state.view.readiness().into_iter();
    let obstacle = if let Some(served) = served.find(|served| served.name == endpoint) {
        let unbound = served
            .unbound
            .iter()
            .map(|unbound| unbound.address.to_string());
        let unbound: Vec<String> = unbound.collect();
        (!unbound.is_empty()).then(|| format!("not bound: {}\n", unbound.join(" ")))
    } else {
        let mut left_out = state.view.endpoints_left_out().into_iter();
        let Some(left_out) = left_out.find(|left_out| left_out.part.name == endpoint) else {
            return (StatusCode::NOT_FOUND, "no such endpoint\n").into_response();
        };
        // The reason may name users and files, which only viewers may see.
        Some(if state.may_view(client) && names_this_host(&headers) {
            format!("left out: {}\n", left_out.reason)
        } else {
            "left out: hopend check tells why\n".into()
        })
    };
    match (state.stopping.is_draining(), obstacle) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response(),
        (false, None) => "ready\n".into_response(),
        (false, Some(text)) => (StatusCode::SERVICE_UNAVAILABLE, text).into_response(),
    }
}

/// Rejects requests of other hosts for pages that are not exposed to them.
async fn check_exposure(
    State(state): State<Arc<AdminState>>,
    ConnectInfo(client): ConnectInfo<AdminClient>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    let refused = match client {
        AdminClient::Local { .. } => false,
        AdminClient::Remote => !state.audience.borrow().exposure.covers(path),
    };
    if refused {
        let reason = "only this host may see this: [daemon] admin does not expose it\n";
        return (StatusCode::FORBIDDEN, reason).into_response();
    }
    next.run(request).await
}

/// `/metrics`.
async fn metrics_text(
    State(state): State<Arc<AdminState>>,
    ConnectInfo(client): ConnectInfo<AdminClient>,
    headers: HeaderMap,
) -> Response {
    let names = match client {
        // This check is only for local clients, because other hosts may use any DNS name of this host.
        AdminClient::Local { .. } if !names_this_host(&headers) => return misdirected(),
        AdminClient::Local { .. } => UserNames::Shown,
        AdminClient::Remote if state.audience.borrow().exposure.metrics_users => UserNames::Shown,
        AdminClient::Remote => UserNames::Withheld,
    };
    let accept = headers.get_all(ACCEPT).iter();
    let format = MetricsFormat::negotiate(accept.filter_map(|value| value.to_str().ok()));
    match metrics::text(state.view.metrics(), format, names) {
        Ok(text) => {
            let headers = [(CONTENT_TYPE, format.content_type()), (VARY, "Accept")];
            (headers, text).into_response()
        }
        Err(error) => {
            tracing::error!("no metrics: {error}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// `/status`.
async fn status_page(
    State(state): State<Arc<AdminState>>,
    ConnectInfo(client): ConnectInfo<AdminClient>,
    headers: HeaderMap,
) -> Response {
    let nonce = match nonce() {
        Ok(nonce) => nonce,
        Err(failed) => return failed.into_response(),
    };
    // The browser loads nothing from other sites, runs only the page's own script, and shows the page in no frame.
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; \
         connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    let page = state.respond(client, &headers, |snapshot| {
        Html(page::whole(&snapshot.status, &snapshot.totals, &nonce)).into_response()
    });
    ([(CONTENT_SECURITY_POLICY, policy)], page.await).into_response()
}

/// `/status/facts`.
async fn status_facts(
    State(state): State<Arc<AdminState>>,
    ConnectInfo(client): ConnectInfo<AdminClient>,
    headers: HeaderMap,
) -> Response {
    let facts = |snapshot: &PageSnapshot| {
        Html(page::facts(&snapshot.status, &snapshot.totals)).into_response()
    };
    state.respond(client, &headers, facts).await
}

/// `/status.json`: the output of `hopend status --json`.
async fn status_json(
    State(state): State<Arc<AdminState>>,
    ConnectInfo(client): ConnectInfo<AdminClient>,
    headers: HeaderMap,
) -> Response {
    let json = |snapshot: &PageSnapshot| match serde_json::to_string(&*snapshot.status) {
        Ok(text) => ([(CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => {
            tracing::error!("no status: {error}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    };
    state.respond(client, &headers, json).await
}

impl AdminState {
    /// Whether the client is root, hopend's own account or a viewer.
    fn may_view(&self, client: AdminClient) -> bool {
        let own = geteuid().as_raw();
        let may = |uid| uid == 0 || uid == own || self.audience.borrow().viewers.has(uid);
        match client {
            AdminClient::Local { uid } => uid.is_some_and(may),
            AdminClient::Remote => false,
        }
    }

    /// Responds with a snapshot, as `show` renders it, to a client that may see it.
    async fn respond(
        &self,
        client: AdminClient,
        headers: &HeaderMap,
        show: impl FnOnce(&PageSnapshot) -> Response,
    ) -> Response {
        const NO_CACHE_NO_FRAME: [(HeaderName, &str); 4] = [
            (CACHE_CONTROL, "no-store"),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (REFERRER_POLICY, "no-referrer"),
            (X_FRAME_OPTIONS, "DENY"),
        ];
        if !names_this_host(headers) {
            return misdirected();
        }
        if !self.may_view(client) {
            let reason = "only root, hopend's own account and [daemon] viewers may see this\n";
            return (StatusCode::FORBIDDEN, NO_CACHE_NO_FRAME, reason).into_response();
        }
        match self.snapshot().await {
            Some(snapshot) => (NO_CACHE_NO_FRAME, show(&snapshot)).into_response(),
            None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }

    /// A snapshot that is not older than [`SNAPSHOT_LIFE`]. Concurrent requests share one. `None` if taking it
    /// failed, which the log reports.
    async fn snapshot(&self) -> Option<Arc<PageSnapshot>> {
        let mut last = self.last_snapshot.lock().await;
        let fresh = last
            .as_ref()
            .filter(|last| last.taken.elapsed() < SNAPSHOT_LIFE);
        if let Some(snapshot) = fresh {
            return Some(Arc::clone(snapshot));
        }
        let status = match Arc::clone(&self.view).snapshot().await {
            Ok(status) => status,
            Err(error) => {
                tracing::error!("no status: {error}");
                return None;
            }
        };
        let snapshot = Arc::new(PageSnapshot {
            status,
            totals: self.view.totals(),
            taken: Instant::now(),
        });
        *last = Some(Arc::clone(&snapshot));
        Some(snapshot)
    }
}

/// Whether the `Host` header is an IP address or `localhost`. This protects against DNS rebinding, where
/// a web page's name resolves to this host and the browser sends that name.
fn names_this_host(headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let Some(authority) = host.and_then(|host| host.parse::<Authority>().ok()) else {
        return false;
    };
    let name = authority.host().trim_matches(['[', ']']);
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

fn misdirected() -> Response {
    let reason = "ask by an IP address or as localhost\n";
    (StatusCode::MISDIRECTED_REQUEST, reason).into_response()
}

/// A random value that marks the page's own script and style.
fn nonce() -> Result<String, StatusCode> {
    let mut bytes = [0; 16];
    let filled = crypto::provider().secure_random.fill(&mut bytes);
    filled.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
