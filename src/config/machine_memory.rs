//! How much memory the process may have: the limit of its control group, else the machine's.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::sysinfo::sysinfo;

/// Where control groups are mounted.
const MOUNT: &str = "/sys/fs/cgroup";
/// Where the system tells nothing, in bytes.
const USUAL: u64 = 1 << 30;

/// What the system lets the process have, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineMemory {
    /// The memory of the machine.
    pub total: u64,
    /// The limit of the control group, or of one around it, where it is below that.
    pub control_group: Option<u64>,
}

impl Default for MachineMemory {
    /// As it is now.
    fn default() -> Self {
        Self::look()
    }
}

impl MachineMemory {
    /// Asks the system. Reads files.
    pub fn look() -> Self {
        let total = sysinfo().map_or(USUAL, |info| info.ram_total());
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let limit = limit_of(&groups, Path::new(MOUNT));
        Self {
            total,
            control_group: limit.filter(|limit| *limit < total),
        }
    }
}

/// The least limit of the memory groups that `/proc/self/cgroup` names and of those around them.
fn limit_of(groups: &str, mount: &Path) -> Option<u64> {
    let lines = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let path = path.trim_start_matches('/');
        if controllers.is_empty() {
            // Version 2, also beside version 1.
            let mounts = [mount.to_path_buf(), mount.join("unified")];
            Some((mounts.to_vec(), path, "memory.max"))
        } else if controllers.split(',').any(|name| name == "memory") {
            Some((vec![mount.join("memory")], path, "memory.limit_in_bytes"))
        } else {
            None
        }
    });
    lines
        .flat_map(|(mounts, path, file)| {
            let limits = mounts
                .into_iter()
                .flat_map(move |mount| around(&mount, path).collect::<Vec<_>>());
            limits.filter_map(move |folder| limit_in(&folder.join(file)))
        })
        .min()
}

/// The folder of the group and those around it. In a container the group's own path may lead
/// nowhere, and the mount itself is the group.
fn around(mount: &Path, path: &str) -> impl Iterator<Item = PathBuf> {
    let folders = Path::new(path).ancestors();
    folders.map(|folder| mount.join(folder))
}

/// A number of bytes; `max` is none.
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
        let found = MachineMemory::look();
        assert!(found.total > 100_000_000, "{found:?}");
        assert!(found.control_group.is_none_or(|limit| limit < found.total));
    }
}
