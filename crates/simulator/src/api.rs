//! The HTTP side: one listener for the management API and one for STS.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use aws_smithy_types::date_time::{DateTime, Format};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, State};
use axum::http::header::DATE;
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri};
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::faults::ApiFault;
use super::signature::{Caller, Received, Refusal};
use super::state::{LOWER, Shared, random};
use super::{access, finspace, operations, sts};

/// An error in the terms of AWS.
#[derive(Debug)]
pub(super) struct ApiError {
    pub(super) status: u16,
    pub(super) code: String,
    pub(super) message: String,
}

impl ApiError {
    pub(super) fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            code: code.to_owned(),
            message: message.into(),
        }
    }
}

/// Which of the two a listener serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    FinSpace,
    Sts,
}

/// A call whose signature holds.
pub(super) struct Call<'a> {
    pub(super) shared: &'a Shared,
    pub(super) caller: Caller,
    pub(super) uri: &'a Uri,
    pub(super) body: &'a [u8],
}

impl Call<'_> {
    /// What the query says under this name.
    pub(super) fn query(&self, name: &str) -> Option<String> {
        form_urlencoded::parse(self.uri.query().unwrap_or_default().as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
    }

    /// Whether the caller may do this.
    pub(super) fn authorize(&self, action: &str, resource: &str) -> Result<(), ApiError> {
        let permit = self.shared.permit(&self.caller, action, resource);
        permit.map_err(|why| refusal(action, why))
    }

    /// Whether the caller may take this role, with these values of condition keys.
    pub(super) fn authorize_role(
        &self,
        action: &str,
        role: &str,
        context: &[(&'static str, &str)],
    ) -> Result<(), ApiError> {
        let permit = self.shared.permit_role(&self.caller, action, role, context);
        permit.map_err(|why| refusal(action, why))
    }

    pub(super) fn denied(&self, action: &str, resource: &str) -> ApiError {
        refusal(action, access::not_allowed(&self.caller, action, resource))
    }
}

fn refusal(action: &str, why: String) -> ApiError {
    let code = if action.starts_with("sts:") {
        "AccessDenied"
    } else {
        "AccessDeniedException"
    };
    ApiError::new(403, code, why)
}

/// Serves one of the two until told to stop.
pub(super) async fn serve(
    shared: Arc<Shared>,
    listener: TcpListener,
    service: Service,
    mut stop: watch::Receiver<bool>,
) {
    let router = Router::new().fallback(handle).with_state((shared, service));
    let make = router.into_make_service_with_connect_info::<Killer>();
    let served = axum::serve(Resettable(listener), make).with_graceful_shutdown(async move {
        let _ = stop.wait_for(|stop| *stop).await;
    });
    if let Err(error) = served.await {
        tracing::warn!(%error, "the simulator's API ended");
    }
}

/// Each answer tells the time of the simulator's own clock.
async fn handle(
    State((shared, service)): State<(Arc<Shared>, Service)>,
    killer: ConnectInfo<Killer>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let state = State((Arc::clone(&shared), service));
    let mut answer = answer(state, killer, method, uri, headers, body).await;
    let now = DateTime::from(shared.now()).fmt(Format::HttpDate);
    if let Some(now) = now.ok().and_then(|now| HeaderValue::from_str(&now).ok()) {
        answer.headers_mut().insert(DATE, now);
    }
    answer
}

async fn answer(
    State((shared, service)): State<(Arc<Shared>, Service)>,
    ConnectInfo(killer): ConnectInfo<Killer>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let operation = match service {
        Service::FinSpace => {
            operations::operation(&method, uri.path()).map(|op| op.name.to_owned())
        }
        Service::Sts => sts::operation(&body),
    };
    let operation = operation.unwrap_or_else(|| "unknown".into());
    shared.with(|state| *state.calls.entry(operation.clone()).or_default() += 1);
    match shared.faults.take_api(&operation) {
        None => {}
        Some(ApiFault::Delay(delay)) => tokio::time::sleep(delay).await,
        Some(ApiFault::Hang) => std::future::pending().await,
        Some(ApiFault::Close) => {
            killer.0.store(true, Ordering::Release);
            return Response::new(Body::empty());
        }
        Some(ApiFault::Garbage) => return Response::new(Body::from("<<< }{ garbage")),
        Some(ApiFault::Throttle) => {
            let (status, code) = match service {
                Service::FinSpace => (429, "ThrottlingException"),
                Service::Sts => (400, "Throttling"),
            };
            return failure(service, &ApiError::new(status, code, "Rate exceeded"));
        }
        Some(ApiFault::Error {
            status,
            code,
            message,
        }) => return failure(service, &ApiError::new(status, &code, message)),
    }
    let request = Received {
        method: &method,
        uri: &uri,
        headers: &headers,
        body: &body,
    };
    let signed_for = match service {
        Service::FinSpace => "finspace",
        Service::Sts => "sts",
    };
    let caller = match shared.verify(&request, signed_for) {
        Ok(caller) => caller,
        Err(refusal) => return failure(service, &in_words_of(service, refusal)),
    };
    let call = Call {
        shared: &shared,
        caller,
        uri: &uri,
        body: &body,
    };
    let answer = match service {
        Service::FinSpace => finspace::answer(&call, &method),
        Service::Sts => sts::answer(&call),
    };
    match answer {
        Ok(text) => respond(service, 200, None, text),
        Err(error) => failure(service, &error),
    }
}

fn in_words_of(service: Service, refusal: Refusal) -> ApiError {
    const UNKNOWN: &str = "The security token included in the request is invalid.";
    const EXPIRED: &str = "The security token included in the request is expired";
    const MISSING: &str = "Missing Authentication Token";
    let (code, message) = match (service, refusal) {
        (Service::FinSpace, Refusal::Missing) => {
            ("MissingAuthenticationTokenException", MISSING.into())
        }
        (Service::FinSpace, Refusal::Incomplete(text)) => ("IncompleteSignatureException", text),
        (Service::FinSpace, Refusal::Unknown) => ("UnrecognizedClientException", UNKNOWN.into()),
        (Service::FinSpace, Refusal::Expired) => ("ExpiredTokenException", EXPIRED.into()),
        (Service::FinSpace, Refusal::Mismatch(text)) => ("InvalidSignatureException", text),
        (Service::Sts, Refusal::Missing) => ("MissingAuthenticationToken", MISSING.into()),
        (Service::Sts, Refusal::Incomplete(text)) => ("IncompleteSignature", text),
        (Service::Sts, Refusal::Unknown) => ("InvalidClientTokenId", UNKNOWN.into()),
        (Service::Sts, Refusal::Expired) => ("ExpiredToken", EXPIRED.into()),
        (Service::Sts, Refusal::Mismatch(text)) => ("SignatureDoesNotMatch", text),
    };
    ApiError::new(403, code, message)
}

fn failure(service: Service, error: &ApiError) -> Response<Body> {
    let text = match service {
        Service::FinSpace => serde_json::json!({ "message": error.message }).to_string(),
        Service::Sts => sts::error(error),
    };
    respond(service, error.status, Some(&error.code), text)
}

fn respond(service: Service, status: u16, code: Option<&str>, text: String) -> Response<Body> {
    let kind = match service {
        Service::FinSpace => "application/json",
        Service::Sts => "text/xml",
    };
    let mut builder = Response::builder()
        .status(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
        .header("content-type", kind)
        .header("x-amzn-requestid", request_id());
    if let Some(code) = code.filter(|_| service == Service::FinSpace) {
        builder = builder.header("x-amzn-errortype", code);
    }
    builder.body(Body::from(text)).unwrap_or_default()
}

/// Looks like the ID of a request to AWS.
pub(super) fn request_id() -> String {
    [8, 4, 4, 4, 12].map(|n| random(n, LOWER)).join("-")
}

/// Resets the connection of the request that holds it.
#[derive(Clone)]
struct Killer(Arc<AtomicBool>);

impl Connected<IncomingStream<'_, Resettable>> for Killer {
    fn connect_info(stream: IncomingStream<'_, Resettable>) -> Self {
        Self(stream.io().kill.clone())
    }
}

struct Resettable(TcpListener);

impl Listener for Resettable {
    type Io = Socket;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Socket, SocketAddr) {
        let (tcp, address) = Listener::accept(&mut self.0).await;
        let kill = Arc::new(AtomicBool::new(false));
        (Socket { tcp, kill }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

struct Socket {
    tcp: TcpStream,
    kill: Arc<AtomicBool>,
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.kill.load(Ordering::Acquire) {
            let _ = self.tcp.set_zero_linger();
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
