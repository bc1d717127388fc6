//! Confines system calls, by seccomp.
//!
//! The filter refuses, with EPERM, system calls that neither the daemon nor its libraries ever make. It is a
//! list of refused calls, because a list of allowed calls would break with the next version of the C library.
//! The unit of the service adds a list of allowed calls.

use std::collections::BTreeMap;

use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

/// Calls that inspect or change other processes.
const PROCESSES: &[libc::c_long] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
];

/// Calls that change the host.
const HOST: &[libc::c_long] = &[
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_reboot,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_bpf,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_syslog,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_vhangup,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_mknodat,
    libc::SYS_lookup_dcookie,
];

/// Calls that change the security of this process itself.
const SELF: &[libc::c_long] = &[
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_personality,
    // io_uring makes system calls that a filter does not see.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

/// Calls that exist on x86-64 only.
#[cfg(target_arch = "x86_64")]
const X86_ONLY: &[libc::c_long] = &[
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_mknod,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_sysfs,
    libc::SYS__sysctl,
    libc::SYS_kexec_file_load,
];
#[cfg(not(target_arch = "x86_64"))]
const X86_ONLY: &[libc::c_long] = &[];

/// Calls that start programs or change accounts. Refused if the configuration starts no programs.
const PROGRAMS: &[libc::c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_memfd_create,
];

/// The socket families that the daemon uses.
const FAMILIES: [libc::c_int; 4] = [
    libc::AF_UNIX,
    libc::AF_INET,
    libc::AF_INET6,
    libc::AF_NETLINK,
];

/// The reason why system calls are not confined.
#[derive(Debug, thiserror::Error)]
#[error("system calls are not confined: {0}")]
pub struct CallsError(String);

/// Confines the system calls of this thread. `programs`: the configuration starts programs.
pub(super) fn confine(programs: bool) -> Result<(), CallsError> {
    let failed = |error: &dyn std::fmt::Display| CallsError(error.to_string());
    let program = filter(programs).map_err(|error| failed(&error))?;
    apply_filter(&program).map_err(|error| failed(&error))
}

/// Refuses the same calls by their x32 numbers too. x32 is an ABI for programs with 32-bit pointers, which
/// some x86-64 kernels support.
#[cfg(target_arch = "x86_64")]
fn add_x32(refused: &mut BTreeMap<libc::c_long, Vec<SeccompRule>>) {
    const X32_BIT: libc::c_long = 0x4000_0000;
    // The calls whose x32 number is not the native number with X32_BIT.
    const OWN_NUMBERS: [(libc::c_long, libc::c_long); 6] = [
        (libc::SYS_execve, 520),
        (libc::SYS_ptrace, 521),
        (libc::SYS_kexec_load, 528),
        (libc::SYS_process_vm_readv, 539),
        (libc::SYS_process_vm_writev, 540),
        (libc::SYS_execveat, 545),
    ];
    let numbers: Vec<_> = refused.keys().copied().collect();
    for number in numbers {
        let rules = refused[&number].clone();
        let other = OWN_NUMBERS.iter().find(|(native, _)| *native == number);
        for x32 in std::iter::once(number).chain(other.map(|(_, x32)| *x32)) {
            refused.insert(X32_BIT | x32, rules.clone());
        }
    }
}

fn filter(programs: bool) -> Result<BpfProgram, BackendError> {
    let mut refused = BTreeMap::new();
    let always = [PROCESSES, HOST, SELF, X86_ONLY].concat();
    let more = if programs { &[] } else { PROGRAMS };
    for call in always.iter().chain(more) {
        refused.insert(*call, Vec::new());
    }
    let families = FAMILIES.iter().map(|family| {
        let family = u64::from(family.unsigned_abs());
        SeccompCondition::new(0, Dword, SeccompCmpOp::Ne, family)
    });
    let other = SeccompRule::new(families.collect::<Result<_, _>>()?)?;
    refused.insert(libc::SYS_socket, vec![other]);
    if !programs {
        // No memory may be both writable and executable.
        let both = u64::from((libc::PROT_WRITE | libc::PROT_EXEC).unsigned_abs());
        for call in [libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_pkey_mprotect] {
            let both = SeccompCondition::new(2, Qword, SeccompCmpOp::MaskedEq(both), both)?;
            refused.insert(call, vec![SeccompRule::new(vec![both])?]);
        }
    }
    #[cfg(target_arch = "x86_64")]
    add_x32(&mut refused);
    SeccompFilter::new(
        refused,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM.unsigned_abs()),
        std::env::consts::ARCH.try_into()?,
    )?
    .try_into()
}
