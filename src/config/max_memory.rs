//! `max_memory` of `[daemon]`: bytes, or a share of what the process may have.

use super::machine_memory::MachineMemory;

/// The share of the control group's limit without `max_memory`, in percent: the rest is for the
/// kernel's socket buffers, for what is not counted, and for login commands.
const OF_CONTROL_GROUP: u64 = 50;
/// The share of the machine's memory, where no control group has a limit, in percent.
const OF_MACHINE: u64 = 25;

/// How large the budget is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MaxMemory {
    /// A half of the control group's limit, or a quarter of the machine's memory.
    #[default]
    Default,
    /// A number of bytes.
    Bytes(u64),
    /// So many percent of the control group's limit, or of the machine's memory.
    Percent(u64),
}

impl MaxMemory {
    /// In bytes.
    pub fn within(self, memory: MachineMemory) -> usize {
        let all = memory.control_group.unwrap_or(memory.total);
        let usual = match memory.control_group {
            Some(_) => OF_CONTROL_GROUP,
            None => OF_MACHINE,
        };
        let bytes = match self {
            Self::Default => all / 100 * usual,
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
            assert_eq!(max_memory.within(machine(Some(2_000))), of_group);
            assert_eq!(max_memory.within(machine(None)), of_machine);
        }
    }
}
