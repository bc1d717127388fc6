//! Ports that the kernel keeps for privileged processes.

use std::fs;

/// Where the ports begin that any process may bind, if the kernel does not say.
const FIRST_OPEN: u16 = 1024;
/// Its bit in the capabilities of a process.
const CAP_NET_BIND_SERVICE: u32 = 10;

/// The first port that any process may bind, if it is above `port` and this process has no right to
/// bind `port`. Of the process that asks: the daemon may run as another account.
pub(super) fn closed_below(port: u16) -> Option<u16> {
    let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let first = first.ok().and_then(|text| text.trim().parse().ok());
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    first_open(port, first.unwrap_or(FIRST_OPEN), &status)
}

fn first_open(port: u16, first: u16, status: &str) -> Option<u16> {
    (port != 0 && port < first && !may_bind(status)).then_some(first)
}

fn may_bind(status: &str) -> bool {
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
        assert_eq!(first_open(443, 1024, none), Some(1024));
        assert_eq!(first_open(443, 1024, ""), Some(1024));
        for (port, first, status) in [
            (443, 1024, bind),
            (443, 1024, all),
            (1024, 1024, none),
            (443, 0, none),
            (443, 443, none),
            (0, 1024, none),
        ] {
            assert_eq!(first_open(port, first, status), None, "{port} {first}");
        }
    }
}
