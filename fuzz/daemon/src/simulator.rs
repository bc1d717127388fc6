//! The simulator's management API and STS answer whatever comes over HTTP: nothing without a
//! signature, errors in their services' own shape, no secret of the caller's, and no change where
//! only something was asked for.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use simulator::{Options, REGION, Simulator};

/// What stands for the environment's id in a path.
const ENVIRONMENT: &str = "ENV";
/// Clusters after which a simulator has had its time.
const MOST_CLUSTERS: usize = 12;
/// Requests after which it has, too: it remembers each operation that it was asked for.
const MOST_REQUESTS: usize = 5_000;
const PATIENCE: Duration = Duration::from_secs(20);

struct Stage {
    runtime: tokio::runtime::Runtime,
    simulator: Simulator,
    requests: usize,
}

static STAGE: Mutex<Option<Stage>> = Mutex::new(None);

/// The first byte says which service is asked, and whether the rest is a stream of its own or a
/// request to sign: `METHOD PATH`, a newline, and the body.
pub fn holds(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else {
        return;
    };
    let mut stage = STAGE.lock().expect("nothing has failed before");
    let worn = |stage: &Stage| {
        stage.requests > MOST_REQUESTS || stage.simulator.clusters().len() > MOST_CLUSTERS
    };
    if stage.as_ref().is_none_or(worn) {
        *stage = Some(Stage::set());
    }
    let stage = stage.as_mut().expect("just set");
    stage.requests += 1;
    let (service, url) = if kind & 1 == 0 {
        ("finspace", stage.simulator.api_url())
    } else {
        ("sts", stage.simulator.sts_url())
    };
    let before = stage.state();
    if kind & 2 == 0 {
        let answer = exchange(&url, bytes, true);
        if let Some((status, _)) = parts(&answer) {
            assert!(
                (400..500).contains(&status) || status == 100,
                "{status} for anybody"
            );
        } else {
            // Whoever begins in HTTP/2 is answered in its frames.
            let http2 = bytes.starts_with(b"PRI * HTTP/2.0");
            assert!(answer.is_empty() || http2, "no HTTP");
        }
        assert_eq!(stage.state(), before, "anybody can change something");
    } else if let Some((method, request)) = stage.signed(service, &url, bytes) {
        // It tells its length: an end behind it would look like a client that has gone.
        let answer = exchange(&url, &request, false);
        let Some((status, body)) = parts(&answer) else {
            panic!("no answer but {:?}", String::from_utf8_lossy(&answer));
        };
        assert!(status == 200 || (400..500).contains(&status), "{status}");
        let (_, secret_key) = stage.simulator.base_credentials();
        assert!(!String::from_utf8_lossy(&answer).contains(secret_key));
        if service == "sts" {
            assert!(body.starts_with(b"<") && body.ends_with(b">"));
        } else {
            serde_json::from_slice::<serde_json::Value>(body).expect("JSON");
        }
        if method == "GET" || service == "sts" {
            assert_eq!(stage.state(), before, "asking changed something");
        }
    }
}

impl Stage {
    fn set() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let options = Options {
            nodes: 1,
            ..Options::default()
        };
        let simulator = runtime.block_on(Simulator::start(options));
        Self {
            runtime,
            simulator: simulator.expect("a simulator"),
            requests: 0,
        }
    }

    fn state(&self) -> Vec<(String, Vec<String>)> {
        // A cluster that was asked for comes into being on the simulator's own thread.
        self.runtime.block_on(tokio::task::yield_now());
        let simulator = &self.simulator;
        let with_nodes = |name: String| {
            let nodes = simulator.nodes(&name);
            (name, nodes)
        };
        simulator.clusters().into_iter().map(with_nodes).collect()
    }

    /// A request of the administrator's, and its method.
    fn signed(&self, service: &str, url: &str, bytes: &[u8]) -> Option<(String, Vec<u8>)> {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let (line, body) = (std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]);
        let (method, path) = line.split_once(' ')?;
        let fine = |c: char| c.is_ascii_graphic() && c != '#';
        let path = path.replace(ENVIRONMENT, self.simulator.environment_id());
        let plain = method.bytes().all(|byte| byte.is_ascii_uppercase()) && !method.is_empty();
        if !plain || method == "CONNECT" || method == "HEAD" {
            return None;
        }
        if !path.starts_with('/') || path.starts_with("//") || !path.chars().all(fine) {
            return None;
        }
        let host = url.strip_prefix("http://")?;
        let (access_key, secret_key) = self.simulator.base_credentials();
        let identity = Credentials::new(access_key, secret_key, None, None, "fuzz").into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(REGION)
            .name(service)
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()
            .ok()?
            .into();
        let uri = format!("{url}{path}");
        let headers = [("host", host)].into_iter();
        let signable =
            SignableRequest::new(method, &uri, headers, SignableBody::Bytes(body)).ok()?;
        let (instructions, _) = sign(signable, &params).ok()?.into_parts();
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n");
        for (name, value) in instructions.headers() {
            request += &format!("{name}: {value}\r\n");
        }
        request += &format!(
            "content-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        let mut request = request.into_bytes();
        request.extend_from_slice(body);
        Some((method.to_owned(), request))
    }
}

/// Sends all of it, with an end behind it if `ends`, and reads to the end.
fn exchange(url: &str, request: &[u8], ends: bool) -> Vec<u8> {
    let address = url.strip_prefix("http://").expect("an address");
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
    let mut answer = Vec::new();
    // What is refused early is not read to its end.
    let _ = stream.write_all(request);
    if ends {
        let _ = stream.shutdown(Shutdown::Write);
    }
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("no end of the answer: {error}"),
    }
    answer
}

/// Status and body of an answer, the first one where there are several.
fn parts(answer: &[u8]) -> Option<(u16, &[u8])> {
    let rest = answer.strip_prefix(b"HTTP/1.")?;
    let status = std::str::from_utf8(rest.get(2..5)?).ok()?.parse().ok()?;
    let head = answer.windows(4).position(|part| part == b"\r\n\r\n")?;
    Some((status, &answer[head + 4..]))
}
