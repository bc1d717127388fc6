//! Types that every crate of hopend shares: the kinds and the form of errors, the address of a kdb+
//! process, and the check that no other account can change or read a file.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod error;
pub mod file_access;
pub mod invalid_value;
pub mod kdb_address;
pub mod mutex;
pub mod user_namespace;
