//! The errors of starting a simulation and of writing its files.

use std::io;
use std::path::PathBuf;

/// The reason why the simulator could not start or write its files.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// No socket could be bound on 127.0.0.1.
    #[error("the simulator can't listen on 127.0.0.1")]
    Listen(#[source] io::Error),
    /// A file or directory could not be written.
    #[error("the simulator can't write {path}")]
    File {
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A certificate could not be generated.
    #[error("the simulator can't make its certificates")]
    Certificate(#[from] rcgen::Error),
    /// A TLS configuration could not be built.
    #[error("the simulator can't set up TLS")]
    Tls(#[from] rustls::Error),
    /// The password of the second user could not be hashed.
    #[error("the simulator can't hash a password: {0}")]
    Hash(String),
}
