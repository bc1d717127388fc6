//! Tests that take root: they become another account, or mount something.

use std::io::Write;

/// The variable that leaves these tests out where they cannot run.
const WITHOUT: &str = "HOPEND_TESTS_WITHOUT_ROOT";

/// Whether the test that calls this may go on.
///
/// Without root the test fails. With `HOPEND_TESTS_WITHOUT_ROOT` set it is left out instead, and its
/// name is printed, also where the test runner captures output.
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
