//! What the process gives up before it serves anybody.
//!
//! After this it opens no file and no socket, starts no program and no thread, and makes no memory
//! executable. What it may still do is a list of system calls; all else fails with `EPERM`, so that
//! a library that tries something harmless finds another way instead of taking the keys with it.

use std::collections::BTreeMap;

use anyhow::Context as _;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// Descriptors that are ever open: three at the start, a connection, memory being made, and room
/// for one that is turned away.
const DESCRIPTORS: u64 = 16;

/// Calls that are allowed with any arguments.
const ALLOWED: &[libc::c_long] = &[
    // The socket and the journal.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_accept4,
    libc::SYS_shutdown,
    libc::SYS_close,
    libc::SYS_fcntl,
    // Memory, that of keys included.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mlock,
    libc::SYS_munlock,
    SYS_MEMFD_SECRET,
    libc::SYS_ftruncate,
    // Time and randomness.
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_getrandom,
    // Threads that there are already.
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // A panic aborts.
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
];

/// As `libc` names it only for some machines.
const SYS_MEMFD_SECRET: libc::c_long = 447;

/// Closes what the one who started it left open beside the three that it needs.
pub(crate) fn close_inherited() {
    #[expect(unsafe_code, reason = "closes descriptors that nothing owns yet")]
    // SAFETY: the process has only begun: whatever is open beyond the first three was inherited, and
    // nothing in here knows of it.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0);
    }
}

/// Gives it all up, for every thread.
///
/// # Errors
/// When the kernel refuses: then nobody may be served.
pub(crate) fn raise() -> anyhow::Result<()> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none).context("core dumps could not be turned off")?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .context("reading of this process by others could not be turned off")?;
    let few = Rlimit {
        current: Some(DESCRIPTORS),
        maximum: Some(DESCRIPTORS),
    };
    setrlimit(Resource::Nofile, few).context("descriptors could not be limited")?;
    rustix::thread::set_no_new_privs(true).context("privileges could not be given up")?;
    let filter = filter().context("the filter of system calls")?;
    seccompiler::apply_filter_all_threads(&filter).context("system calls could not be limited")
}

fn filter() -> anyhow::Result<BpfProgram> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let executable = u64::try_from(libc::PROT_EXEC)?;
        let never = SeccompCondition::new(
            2,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::MaskedEq(executable),
            0,
        )?;
        rules.insert(call, vec![SeccompRule::new(vec![never])?]);
    }
    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    let refused = SeccompAction::Errno(u32::try_from(libc::EPERM)?);
    let filter = SeccompFilter::new(rules, refused, SeccompAction::Allow, arch)?;
    Ok(filter.try_into()?)
}
