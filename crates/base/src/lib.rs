//! Types that every crate of hopend shares: the kinds and the form of errors, and the address of a kdb+
//! process. The crate also checks that no other account can change or read a file.
//!
//! ```
//! use base::error::with_fix;
//! use base::kdb_address::KdbAddress;
//!
//! let address: KdbAddress = ":tcps://kdb.internal:5011".parse()?;
//! assert!(address.tls);
//! assert_eq!(
//!     with_fix(format_args!("{address} refused the connection"), "start kdb+ there"),
//!     ":tcps://kdb.internal:5011 refused the connection. Fix: start kdb+ there."
//! );
//! # Ok::<(), base::invalid_value::InvalidValue>(())
//! ```

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod error;
pub mod file_access;
pub mod invalid_value;
pub mod kdb_address;
pub mod mutex;
pub mod user_namespace;
