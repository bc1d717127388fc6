//! The relay between a q client and kdb+: TLS streams, buffers within a memory budget, and the two
//! directions of a session with their keepalive.
//!
//! A [`relay::Relay`] works on any two streams. It passes bytes on, follows the message boundaries, and ends when both
//! sides have ended:
//!
//! ```
//! use q_ipc::frame::MessageType;
//! use q_relay::relay::{End, KeepaliveSettings, Meters, Plan, Relay};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! let (mut client, mut client_side) = duplex(1_024);
//! let (mut kdb, mut kdb_side) = duplex(1_024);
//! let message = q_ipc::message::text(MessageType::Async, "a:1");
//! client.write_all(&message).await?;
//! client.shutdown().await?;
//!
//! let plan = Plan {
//!     keepalive: KeepaliveSettings::Off,
//!     max_message: None,
//! };
//! let meters = Meters::default();
//! let mut relay = Relay::new(&mut client_side, &mut kdb_side, &[], &plan, &meters);
//! let receive = async {
//!     let mut received = Vec::new();
//!     kdb.read_to_end(&mut received).await?;
//!     kdb.shutdown().await?;
//!     drop(client);
//!     Ok::<_, std::io::Error>(received)
//! };
//! let (end, received) = tokio::join!(relay.run(), receive);
//! assert!(matches!(end, End::ClientClosed));
//! assert_eq!(received?, message);
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod budget;
mod buffer;
pub mod crypto;
pub mod histogram;
pub mod relay;
pub mod tls_stream;
