//! What it says of how its keys are kept.

use std::sync::mpsc;

use seccompiler::{SeccompAction, SeccompFilter, SeccompRule};
use taskmint_secret::{Protection, protection};

use crate::support::{MEMORY, Signer};

#[test]
fn keys_in_secret_memory_are_no_warning() {
    if protection() != Protection::Secret {
        return;
    }
    let (signer, _raw) = Signer::start(MEMORY);
    let line = signer.says("secrets are in memory");
    assert!(line.contains(" INFO "), "{line}");
}

#[test]
fn a_kernel_that_refuses_secret_memory_is_a_warning() {
    let (tell, said) = mpsc::channel();
    // The filter stays on this thread, and on what it starts.
    std::thread::spawn(move || {
        refuse_secret_memory();
        let (signer, _raw) = Signer::start(MEMORY);
        let line = signer.says("the kernel refused memfd_secret");
        signer.says("ready to sign");
        tell.send(line).unwrap();
    });
    let line = said.recv().unwrap();
    assert!(line.contains(" WARN "), "{line}");
    assert!(line.contains("secretmem.enable=1"), "{line}");
}

/// As Linux does before 6.5, unless it was told otherwise at boot.
fn refuse_secret_memory() {
    const MEMFD_SECRET: i64 = 447;
    const ENOSYS: u32 = 38;
    let rules = [(MEMFD_SECRET, Vec::<SeccompRule>::new())];
    let filter = SeccompFilter::new(
        rules.into_iter().collect(),
        SeccompAction::Allow,
        SeccompAction::Errno(ENOSYS),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: seccompiler::BpfProgram = filter.unwrap().try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}
