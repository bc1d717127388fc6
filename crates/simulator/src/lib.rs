//! A simulated FinSpace: the management API and STS over HTTP, and clusters with nodes over TLS.
//!
//! The nodes verify the signature of each login and reset idle connections, as FinSpace does. They are
//! test doubles and not q: they know the expressions in [`OFFERED_EXPRESSIONS`]. Every server listens on
//! 127.0.0.1, at a port that the system chooses.
//!
//! ```no_run
//! # async fn run() -> Result<(), simulator::SimError> {
//! use simulator::{ClusterFault, Options, Simulator, Times};
//!
//! let sim = Simulator::start(Options::default()).await?;
//! let string = sim.connection_string("alice", "hdb-cluster").expect("alice and the cluster exist");
//! assert!(string.starts_with(":tcps://localhost:"));
//!
//! // The next connection to this cluster is reset as soon as it is accepted.
//! sim.faults()
//!     .cluster("hdb-cluster", ClusterFault::ResetAtAccept, Times::Next(1));
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod access;
mod api;
mod arn;
mod call;
mod caller;
mod certificates;
mod connection;
mod discovery;
mod error;
mod expression;
mod faults;
mod files;
mod finspace;
mod frames;
mod iam;
mod interpreter;
mod lazy_value;
mod listener;
mod login;
mod names;
mod operations;
mod options;
mod request_signature;
mod signature;
mod simulator;
mod state;
mod sts;
mod tags;

pub use arn::{ACCOUNT, REGION};
pub use certificates::CertificateFlaw;
pub use connection::{ConnectionEnd, ConnectionRecord};
pub use error::SimError;
pub use faults::{ApiFault, ClusterFault, Cut, Faults, Times};
pub use files::LocalPorts;
pub use iam::PolicyError;
pub use interpreter::OFFERED as OFFERED_EXPRESSIONS;
pub use operations::{OFFERED as OFFERED_OPERATIONS, Operation};
pub use options::{Clock, Options};
pub use simulator::{PlainServer, Simulator};
pub use state::AssumedRole;
pub use sts::OFFERED as OFFERED_STS_OPERATIONS;
