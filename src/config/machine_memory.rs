//! The memory that the process may use: the limit of its control group, or the memory of the machine.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::sysinfo::sysinfo;

/// The mount point of control groups.
const MOUNT: &str = "/sys/fs/cgroup";
/// The assumed memory of the machine, in bytes, if the system call fails.
const ASSUMED_TOTAL: u64 = 1 << 30;

/// The memory that the system lets the process use, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineMemory {
    /// The memory of the machine.
    pub total: u64,
    /// The limit of the process's control group or of one above it, if it is below `total`.
    pub control_group: Option<u64>,
}

impl Default for MachineMemory {
    /// The values of this moment, as [`MachineMemory::read`] reads them.
    fn default() -> Self {
        Self::read()
    }
}

impl MachineMemory {
    /// Reads the values from the system. Reads files, so it blocks.
    pub fn read() -> Self {
        let total = sysinfo().map_or(ASSUMED_TOTAL, |info| info.ram_total());
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let limit = limit_of(&groups, Path::new(MOUNT));
        Self {
            total,
            control_group: limit.filter(|limit| *limit < total),
        }
    }
}

/// The memory groups of the process in one hierarchy of control groups.
struct MemoryGroup<'g> {
    /// The directories that may hold the group. Those that do not exist are ignored.
    mounts: Vec<PathBuf>,
    /// The group's path below a mount.
    path: &'g str,
    /// The name of the file with the limit.
    file: &'static str,
}

/// The lowest limit among the memory groups that `/proc/self/cgroup` names, and among all groups above
/// them.
fn limit_of(groups: &str, mount: &Path) -> Option<u64> {
    let groups = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let path = path.trim_start_matches('/');
        if controllers.is_empty() {
            // Version 2. Beside version 1 it is mounted at `unified`.
            Some(MemoryGroup {
                mounts: vec![mount.to_path_buf(), mount.join("unified")],
                path,
                file: "memory.max",
            })
        } else if controllers.split(',').any(|name| name == "memory") {
            Some(MemoryGroup {
                mounts: vec![mount.join("memory")],
                path,
                file: "memory.limit_in_bytes",
            })
        } else {
            None
        }
    });
    let limits = groups.flat_map(|MemoryGroup { mounts, path, file }| {
        let folders = mounts
            .into_iter()
            .flat_map(move |mount| with_parents(&mount, path).collect::<Vec<_>>());
        folders.filter_map(move |folder| limit_in(&folder.join(file)))
    });
    limits.min()
}

/// The directory of a group and those of all groups above it, up to the mount. In a container the
/// group's path may not exist, and the mount itself is the group.
fn with_parents(mount: &Path, path: &str) -> impl Iterator<Item = PathBuf> {
    let folders = Path::new(path).ancestors();
    folders.map(|folder| mount.join(folder))
}

/// Reads a limit in bytes. The text `max` means no limit.
fn limit_in(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    #[test]
    fn the_least_limit_of_a_group_and_those_around_it_counts() {
        let mount = mount(&[
            ("system.slice/memory.max", "4096\n"),
            ("system.slice/hopend.service/memory.max", "max\n"),
        ]);
        let groups = "0::/system.slice/hopend.service\n";
        assert_eq!(limit_of(groups, mount.path()), Some(4096));
        assert_eq!(limit_of("0::/user.slice\n", mount.path()), None);
    }

    #[test]
    fn a_container_sees_its_own_group_at_the_mount() {
        let mount = mount(&[("memory.max", "512\n")]);
        assert_eq!(limit_of("0::/\n", mount.path()), Some(512));
        assert_eq!(limit_of("0::/kubepods/pod1\n", mount.path()), Some(512));
    }

    #[test]
    fn version_one_has_a_folder_of_its_own() {
        let mount = mount(&[("memory/docker/1/memory.limit_in_bytes", "1024\n")]);
        let groups = "5:devices:/\n4:cpu,memory:/docker/1\n0::/\n";
        assert_eq!(limit_of(groups, mount.path()), Some(1024));
    }

    #[test]
    fn this_machine_has_memory() {
        let found = MachineMemory::read();
        assert!(found.total > 100_000_000, "{found:?}");
        assert!(found.control_group.is_none_or(|limit| limit < found.total));
    }
}
