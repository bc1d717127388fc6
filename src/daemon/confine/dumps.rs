//! The memory of the process, which holds secrets, is for nobody else: no core file has it, and no
//! process but root's reads it.

use std::io;

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Forbids core files, and has the kernel treat the process as one that has secrets: other processes of
/// its account neither attach to it nor read its memory or its open files. Programs that it starts
/// write no core files either; what else they do is their own.
///
/// # Errors
/// The kernel refuses.
pub fn forbid() -> io::Result<()> {
    // Where the service manager has done it, a second attempt may be what it does not allow.
    if getrlimit(Resource::RLIMIT_CORE)? != (0, 0) {
        setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    }
    prctl::set_dumpable(false)?;
    Ok(())
}
