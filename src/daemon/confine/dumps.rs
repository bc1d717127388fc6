//! Protects the memory of the process, which has secrets, from core files and from other processes.

use std::io;

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Forbids core files, and marks the process as not dumpable. Then only root's processes can attach to it, or
/// read its memory and its open files. Programs that it starts write no core files either, and are not
/// restricted otherwise.
///
/// # Errors
/// The kernel refuses.
pub fn forbid() -> io::Result<()> {
    // If the service manager has set the limit, it may not allow setrlimit.
    if getrlimit(Resource::RLIMIT_CORE)? != (0, 0) {
        setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    }
    prctl::set_dumpable(false)?;
    Ok(())
}
