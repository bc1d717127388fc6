//! Tests that need root, because they become another account or mount a file system.

use std::io::Write;

/// The environment variable that skips these tests on a host without root.
const WITHOUT: &str = "HOPEND_TESTS_WITHOUT_ROOT";

/// Whether the calling test can run.
///
/// Without root the test fails. If `HOPEND_TESTS_WITHOUT_ROOT` is set, it is skipped instead, and its name is
/// printed even if the test runner captures output.
pub(crate) fn is_root() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    let current = std::thread::current();
    let test = current.name().unwrap_or("a test");
    assert!(
        std::env::var_os(WITHOUT).is_some(),
        "{test} needs root. Fix: run the tests as root, or set {WITHOUT}=1 to leave such tests out"
    );
    // Not `eprintln!`, which the test runner captures.
    let _ = writeln!(std::io::stderr(), "skipped: {test} needs root");
    false
}
