//! The audit: one line when a session opens, and one when it ends or is refused. A line names the client, its
//! user, the target, the traffic and the reason. Lines go to the log, and to a file of their own if
//! `[daemon] audit` names one.

mod destination;
mod file;
mod line;
mod merged;
mod record;
mod repeats;
mod totals;

pub use file::{AuditChange, AuditFile, AuditFileError, check_writable};
pub use record::{AuditRecord, AuditRefusal, SessionEnd};
pub use repeats::Repeats;
