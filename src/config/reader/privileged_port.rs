//! TCP ports that only privileged processes may bind.

use std::fs;

/// The first port that every process may bind, if `/proc` does not tell it.
const DEFAULT_FIRST_UNPRIVILEGED: u16 = 1024;
/// The number of the capability's bit, as linux/capability.h defines it.
const CAP_NET_BIND_SERVICE: u32 = 10;

/// The first port that every process may bind, if this process may not bind `port`.
///
/// The result is about the process that calls this. `hopend check` may run as another account than the
/// daemon. Reads files.
pub(super) fn first_unprivileged_above(port: u16) -> Option<u16> {
    let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let first = first.ok().and_then(|text| text.trim().parse().ok());
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let first = first.unwrap_or(DEFAULT_FIRST_UNPRIVILEGED);
    first_if_forbidden(port, first, &status)
}

/// Returns `first`, if a process with this `/proc/PID/status` may not bind `port`. Port 0 stands for any
/// free port.
fn first_if_forbidden(port: u16, first: u16, status: &str) -> Option<u16> {
    (port != 0 && port < first && !has_bind_capability(status)).then_some(first)
}

fn has_bind_capability(status: &str) -> bool {
    let mut lines = status.lines();
    let effective = lines.find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    effective.is_some_and(|bits| bits >> CAP_NET_BIND_SERVICE & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_low_port_takes_the_capability() {
        let (none, bind, all) = (
            "Name:\thopend\nCapEff:\t0000000000000000\n",
            "CapEff:\t0000000000000400\n",
            "CapEff:\t000001ffffffffff\n",
        );
        assert_eq!(first_if_forbidden(443, 1024, none), Some(1024));
        assert_eq!(first_if_forbidden(443, 1024, ""), Some(1024));
        for (port, first, status) in [
            (443, 1024, bind),
            (443, 1024, all),
            (1024, 1024, none),
            (443, 0, none),
            (443, 443, none),
            (0, 1024, none),
        ] {
            assert_eq!(
                first_if_forbidden(port, first, status),
                None,
                "{port} {first}"
            );
        }
    }
}
