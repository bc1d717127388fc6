//! Health over HTTP, for whoever watches the daemon. Both answers are shallow: no probe ever dials a
//! cluster or AWS.

use std::net::SocketAddr;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::stop::Stopping;

/// Serves `/livez` (200 while the process turns) and `/readyz` (200 while endpoints accept, 503 once
/// the daemon drains) until sessions are cut.
pub async fn serve(listener: TcpListener, stopping: Stopping) {
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
        );
    let mut cutting = stopping;
    tokio::select! {
        served = axum::serve(listener, routes) => {
            if let Err(error) = served {
                tracing::error!("the admin address serves no more: {error}");
            }
        }
        () = cutting.cutting() => {}
    }
}

/// Binds the admin address.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}
