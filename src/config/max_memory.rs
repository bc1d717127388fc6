//! The `max_memory` key of the `[daemon]` table: a number of bytes, or a share of the memory.

use super::machine_memory::MachineMemory;

/// The default share of the control group's limit, in percent. The rest is for the kernel's socket
/// buffers, for memory that hopend does not count, and for login commands.
const DEFAULT_PERCENT_OF_CONTROL_GROUP: u64 = 50;
/// The default share of the machine's memory, in percent, if no control group has a limit.
const DEFAULT_PERCENT_OF_MACHINE: u64 = 25;

/// The memory that the buffers of sessions and handshakes may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MaxMemory {
    /// Half of the control group's limit, or a quarter of the machine's memory if there is no limit.
    #[default]
    Default,
    /// A number of bytes.
    Bytes(u64),
    /// A percentage of the control group's limit, or of the machine's memory if there is no limit.
    Percent(u64),
}

impl MaxMemory {
    /// The number of bytes on a machine with this memory.
    pub fn bytes_on(self, memory: MachineMemory) -> usize {
        let all = memory.control_group.unwrap_or(memory.total);
        let default_percent = match memory.control_group {
            Some(_) => DEFAULT_PERCENT_OF_CONTROL_GROUP,
            None => DEFAULT_PERCENT_OF_MACHINE,
        };
        let bytes = match self {
            Self::Default => all / 100 * default_percent,
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => all / 100 * percent,
        };
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_one_of_the_control_group_where_it_has_a_limit() {
        let machine = |control_group| MachineMemory {
            total: 8_000,
            control_group,
        };
        for (max_memory, of_group, of_machine) in [
            (MaxMemory::Default, 1_000, 2_000),
            (MaxMemory::Percent(10), 200, 800),
            (MaxMemory::Bytes(77), 77, 77),
        ] {
            assert_eq!(max_memory.bytes_on(machine(Some(2_000))), of_group);
            assert_eq!(max_memory.bytes_on(machine(None)), of_machine);
        }
    }
}
