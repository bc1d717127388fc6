//! Health and metrics over HTTP, for whoever watches the daemon. All answers are shallow: no probe
//! ever dials a cluster or AWS.
//!
//! Whoever reaches the address may read `/metrics`: it names endpoints, users and roles, and holds no
//! secret.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::metrics;
use crate::session::Services;
use crate::stop::Stopping;
use crate::visitors::Visitors;

/// Serves `/livez` (200 while the process turns) and `/readyz` (200 while endpoints accept, 503 once
/// the daemon drains), and `/metrics` in OpenMetrics, until sessions are cut.
pub async fn serve(listener: TcpListener, stopping: Stopping, services: Arc<Services>) {
    let local = listener
        .local_addr()
        .is_ok_and(|address| address.ip().is_loopback());
    let ready = stopping.clone();
    let routes = Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route(
            "/readyz",
            get(move || async move {
                if ready.has_begun() {
                    (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
                } else {
                    (StatusCode::OK, "ready\n")
                }
            }),
        )
        .route(
            "/metrics",
            get(move |headers: HeaderMap| async move {
                if local && !names_this_host(&headers) {
                    let reason = "ask by an IP address or as localhost\n";
                    return (StatusCode::MISDIRECTED_REQUEST, reason).into_response();
                }
                exposition(&services)
            }),
        );
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

/// Keeps out a web page whose name has been made to lead to this host: a browser sends that name.
fn names_this_host(headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let Some(authority) = host.and_then(|host| host.parse::<Authority>().ok()) else {
        return false;
    };
    let name = authority.host().trim_matches(['[', ']']);
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

fn exposition(services: &Arc<Services>) -> Response {
    match metrics::text(services) {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            tracing::error!("no metrics: {error}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// Binds the admin address.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}
