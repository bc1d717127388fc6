//! The client's side of the control socket.

use std::io::{self, BufRead, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{ControlRequest, ControlResponse};

/// How long the client waits for the next bytes of the response.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// The most bytes of a response. The status of a hundred thousand sessions needs a fraction of it.
const MAX_RESPONSE: u64 = 256 * 1024 * 1024;

/// Why the daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The system does not let this account connect to the socket.
    #[error("{}: {source}", .path.display())]
    NotPermitted {
        /// The socket.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// No daemon listens at the socket.
    #[error("no hopend answers at {}: {source}", .path.display())]
    NotListening {
        /// The socket.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The connection broke, or the response is incomplete or not valid.
    #[error("the hopend at {} gave no whole answer: {source}", .path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// The system's or the parser's error.
        source: io::Error,
    },
}

/// Sends a request to the daemon whose control socket is at `path`, and returns its response. Blocks.
///
/// # Errors
/// No daemon could be reached, or its response could not be read.
pub fn request(path: &Path, request: &ControlRequest) -> Result<ControlResponse, ControlError> {
    let stream = UnixStream::connect(path).map_err(|source| {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::PermissionDenied => ControlError::NotPermitted { path, source },
            _ => ControlError::NotListening { path, source },
        }
    })?;
    exchange(&stream, request).map_err(|source| ControlError::Broken {
        path: path.to_path_buf(),
        source,
    })
}

fn exchange(mut stream: &UnixStream, request: &ControlRequest) -> io::Result<ControlResponse> {
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    stream.set_write_timeout(Some(READ_TIMEOUT))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    // A daemon that denies access may have closed the connection already. Its response can still be read.
    let written = stream.write_all(&line);
    let mut response = Vec::new();
    io::BufReader::new(stream.take(MAX_RESPONSE)).read_until(b'\n', &mut response)?;
    if response.is_empty() {
        written?;
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&response)?)
}
