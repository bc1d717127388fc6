//! Recognises accounts that have no number in the user namespace of this process.

use std::fs;
use std::sync::LazyLock;

/// Whether `uid` is the overflow uid, which the kernel reports for every account that the user
/// namespace does not map. Several accounts share this number, so it identifies no account.
///
/// In a namespace that maps every account, no uid is the overflow uid.
pub fn is_overflow_uid(uid: u32) -> bool {
    // The kernel lets the map be written only once, before any account is visible in the namespace.
    static MAPS_EVERY_ACCOUNT: LazyLock<bool> = LazyLock::new(|| {
        maps_every_account(&fs::read_to_string("/proc/self/uid_map").unwrap_or_default())
    });
    if *MAPS_EVERY_ACCOUNT {
        return false;
    }
    let overflow = fs::read_to_string("/proc/sys/kernel/overflowuid").unwrap_or_default();
    uid == overflow.trim().parse().unwrap_or(65_534)
}

/// Whether the text of a `/proc/PID/uid_map` maps each account to itself.
pub fn maps_every_account(uid_map: &str) -> bool {
    uid_map
        .split_ascii_whitespace()
        .eq(["0", "0", "4294967295"])
}
