//! The HTTP servers: one for the management API, one for STS.

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

use super::call::{ApiError, Call, request_id};
use super::faults::ApiFault;
use super::request_signature::SignedRequest;
use super::signature::SignatureError;
use super::state::Simulation;
use super::{finspace, operations, sts};

/// The service behind a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    FinSpace,
    Sts,
}

/// Serves one of the two services until `stop` becomes true.
pub(crate) async fn serve(
    simulation: Arc<Simulation>,
    listener: TcpListener,
    service: Service,
    mut stop: watch::Receiver<bool>,
) {
    let router = Router::new()
        .fallback(handle)
        .with_state((simulation, service));
    let make = router.into_make_service_with_connect_info::<ConnectionReset>();
    let served =
        axum::serve(ResettableListener(listener), make).with_graceful_shutdown(async move {
            let _ = stop.wait_for(|stop| *stop).await;
        });
    if let Err(error) = served.await {
        tracing::warn!(%error, "the simulator's API ended");
    }
}

/// Answers a request. The `Date` header follows the clock of the simulation.
async fn handle(
    State((simulation, service)): State<(Arc<Simulation>, Service)>,
    reset: ConnectInfo<ConnectionReset>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let state = State((Arc::clone(&simulation), service));
    let mut answer = answer(state, reset, method, uri, headers, body).await;
    let now = DateTime::from(simulation.now()).fmt(Format::HttpDate);
    if let Some(now) = now.ok().and_then(|now| HeaderValue::from_str(&now).ok()) {
        answer.headers_mut().insert(DATE, now);
    }
    answer
}

async fn answer(
    State((simulation, service)): State<(Arc<Simulation>, Service)>,
    ConnectInfo(reset): ConnectInfo<ConnectionReset>,
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
    simulation.update(|state| *state.calls.entry(operation.clone()).or_default() += 1);
    match simulation.faults.take_api(&operation) {
        None => {}
        Some(ApiFault::Delay(delay)) => tokio::time::sleep(delay).await,
        Some(ApiFault::Hang) => std::future::pending().await,
        Some(ApiFault::Close) => {
            reset.0.store(true, Ordering::Release);
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
    let request = SignedRequest {
        method: &method,
        uri: &uri,
        headers: &headers,
        body: &body,
    };
    let signed_for = match service {
        Service::FinSpace => "finspace",
        Service::Sts => "sts",
    };
    let caller = match simulation.verify_request(&request, signed_for) {
        Ok(caller) => caller,
        Err(error) => return failure(service, &signature_error(service, error)),
    };
    let call = Call {
        simulation: &simulation,
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

/// The error of an invalid signature, with the name that this service gives it.
fn signature_error(service: Service, error: SignatureError) -> ApiError {
    const UNKNOWN: &str = "The security token included in the request is invalid.";
    const EXPIRED: &str = "The security token included in the request is expired";
    const MISSING: &str = "Missing Authentication Token";
    let (code, message) = match (service, error) {
        (Service::FinSpace, SignatureError::Missing) => {
            ("MissingAuthenticationTokenException", MISSING.into())
        }
        (Service::FinSpace, SignatureError::Incomplete(text)) => {
            ("IncompleteSignatureException", text)
        }
        (Service::FinSpace, SignatureError::Unknown) => {
            ("UnrecognizedClientException", UNKNOWN.into())
        }
        (Service::FinSpace, SignatureError::Expired) => ("ExpiredTokenException", EXPIRED.into()),
        (Service::FinSpace, SignatureError::Mismatch(text)) => ("InvalidSignatureException", text),
        (Service::Sts, SignatureError::Missing) => ("MissingAuthenticationToken", MISSING.into()),
        (Service::Sts, SignatureError::Incomplete(text)) => ("IncompleteSignature", text),
        (Service::Sts, SignatureError::Unknown) => ("InvalidClientTokenId", UNKNOWN.into()),
        (Service::Sts, SignatureError::Expired) => ("ExpiredToken", EXPIRED.into()),
        (Service::Sts, SignatureError::Mismatch(text)) => ("SignatureDoesNotMatch", text),
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

/// Requests that the HTTP connection is reset instead of an answer.
#[derive(Clone)]
struct ConnectionReset(Arc<AtomicBool>);

impl Connected<IncomingStream<'_, ResettableListener>> for ConnectionReset {
    fn connect_info(stream: IncomingStream<'_, ResettableListener>) -> Self {
        Self(stream.io().reset.clone())
    }
}

struct ResettableListener(TcpListener);

impl Listener for ResettableListener {
    type Io = ResettableSocket;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (ResettableSocket, SocketAddr) {
        let (tcp, address) = Listener::accept(&mut self.0).await;
        let reset = Arc::new(AtomicBool::new(false));
        (ResettableSocket { tcp, reset }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

struct ResettableSocket {
    tcp: TcpStream,
    reset: Arc<AtomicBool>,
}

impl AsyncRead for ResettableSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for ResettableSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.reset.load(Ordering::Acquire) {
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
