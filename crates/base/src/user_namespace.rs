//! Which accounts the user namespace of this process can tell apart.

use std::fs;
use std::sync::LazyLock;

/// Whether `uid` is what the kernel says for every account that has no number in the user
/// namespace that hopend runs in. It would make one user of them all.
pub fn is_hidden(uid: u32) -> bool {
    // Written once for a namespace, before anybody can be seen in it.
    static MAPS_EVERY_ACCOUNT: LazyLock<bool> = LazyLock::new(|| {
        maps_every_account(&fs::read_to_string("/proc/self/uid_map").unwrap_or_default())
    });
    if *MAPS_EVERY_ACCOUNT {
        return false;
    }
    let overflow = fs::read_to_string("/proc/sys/kernel/overflowuid").unwrap_or_default();
    uid == overflow.trim().parse().unwrap_or(65_534)
}

/// Whether a `/proc/PID/uid_map` maps each account to itself.
pub fn maps_every_account(uid_map: &str) -> bool {
    uid_map
        .split_ascii_whitespace()
        .eq(["0", "0", "4294967295"])
}
