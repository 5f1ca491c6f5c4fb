//! What the kernel says of the memory, and what others see of it.

#![expect(unsafe_code, reason = "looks where nobody should")]

use std::cell::Cell;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Output};
use std::sync::Mutex;
use std::{env, io, mem, ptr, thread};

use proptest::prelude::*;

use crate::arena::{Arena, Slot, UNIT};
use crate::region::Region;
use crate::{
    Protection, Scratch, SecretBox, SecretBuffer, batch, on_secret_stack, protection, settle_for,
};

/// Set in a process that runs one test again.
const ALONE: &str = "TASKMINT_SECRET_ALONE";
const CANARY: [u8; 32] = *b"a canary that must not be found!";
const WEAKER: [Protection; 3] = [
    Protection::Locked,
    Protection::Unlocked,
    Protection::Ordinary,
];

/// A box in an arena of its own that is protected so far and no better.
fn boxed(best: Protection) -> SecretBox<[u8; 32]> {
    let arena: &'static Arena = Box::leak(Box::new(Arena::new(Some(best))));
    SecretBox::try_make_in(arena, || Ok::<_, ()>(CANARY)).unwrap()
}

fn address<T>(value: &T) -> usize {
    ptr::from_ref(value).addr()
}

/// What a debugger reads there.
fn traced(address: usize) -> io::Result<[u8; 32]> {
    let mut octets = [0; 32];
    let memory = File::open("/proc/self/mem").unwrap();
    memory.read_exact_at(&mut octets, address as u64)?;
    Ok(octets)
}

/// Name and flags of the mapping that holds an address.
fn mapping(address: usize) -> (String, Vec<String>) {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut name = None;
    for line in smaps.lines() {
        let first = line.split(' ').next().unwrap();
        if let Some((from, to)) = first.split_once('-') {
            let of = |text| usize::from_str_radix(text, 16).unwrap();
            name = (of(from)..of(to))
                .contains(&address)
                .then(|| line.to_owned());
        } else if let (Some(name), Some(flags)) = (&name, line.strip_prefix("VmFlags:")) {
            return (
                name.clone(),
                flags.split_whitespace().map(str::to_owned).collect(),
            );
        }
    }
    panic!("{address:x} is not mapped");
}

/// The signal that ends a forked child which runs `f`.
fn fatal(f: impl FnOnce()) -> Option<i32> {
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the child calls nothing that takes a lock, and leaves by `_exit` at the latest.
    let child = unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::setrlimit(libc::RLIMIT_CORE, &none);
            f();
            libc::_exit(0);
        }
        child
    };
    let mut status = 0;
    // SAFETY: it waits for our own child.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status))
}

fn look(address: usize) -> u8 {
    // SAFETY: none: that is what the caller wants to know.
    unsafe { ptr::with_exposed_provenance::<u8>(address).read_volatile() }
}

/// Runs a test again, in a process of its own.
fn alone(test: &str) -> Output {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", &format!("tests::{test}"), "--nocapture"]);
    command.env(ALONE, "1").output().unwrap()
}

fn is_alone() -> bool {
    env::var_os(ALONE).is_some()
}

#[test]
fn memory_is_secret_exactly_where_the_kernel_has_it() {
    // SAFETY: the call returns a descriptor or refuses; a test process may leak one.
    let has_it = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) } >= 0;
    assert_eq!(protection() == Protection::Secret, has_it);
    let held = boxed(Protection::Secret);
    let (name, flags) = mapping(address(held.expose()));
    assert_eq!(name.contains("secretmem"), has_it, "{name}");
    for flag in ["dd", "dc", "lo"] {
        assert!(flags.iter().any(|has| has == flag), "{flag}: {flags:?}");
    }
    assert_eq!(traced(address(held.expose())).is_err(), has_it);
    assert_eq!(held.expose(), &CANARY);
}

#[test]
fn weaker_memory_is_kept_out_of_dumps_and_children_but_not_from_a_debugger() {
    for best in WEAKER {
        let held = boxed(best);
        let (_, flags) = mapping(address(held.expose()));
        let has = |flag: &str| flags.iter().any(|has| has == flag);
        assert_eq!(has("lo"), best == Protection::Locked, "{best:?}");
        assert_eq!(has("dd"), best > Protection::Ordinary, "{best:?}");
        assert_eq!(has("dc"), best > Protection::Ordinary, "{best:?}");
        // The canary: what finds nothing in secret memory does find it here.
        assert_eq!(traced(address(held.expose())).unwrap(), CANARY);
    }
}

#[test]
fn no_descriptor_of_it_stays_open() {
    let _held = boxed(Protection::Secret);
    on_secret_stack(|| ());
    // Other tests map memory meanwhile: a descriptor that is there once and gone later is theirs.
    let open = || {
        let all = fs::read_dir("/proc/self/fd").unwrap().flatten();
        all.filter_map(|entry| Some((entry.file_name(), fs::read_link(entry.path()).ok()?)))
            .filter(|(_, target)| target.to_string_lossy().contains("secretmem"))
            .map(|(name, _)| name)
            .collect::<Vec<_>>()
    };
    let mut left = open();
    for _ in 0..100 {
        let again = open();
        left.retain(|name| again.contains(name));
        thread::yield_now();
    }
    // One test asks the kernel for a descriptor and keeps it.
    assert!(left.len() <= 1, "{left:?}");
}

#[test]
fn the_pages_around_and_those_of_a_parent_can_not_be_touched() {
    for best in [Protection::Secret, Protection::Locked] {
        let region = Region::map(1, best).unwrap();
        let start = region.start().as_ptr().expose_provenance();
        let end = start + region.len();
        for outside in [start - 1, end] {
            assert_eq!(fatal(|| _ = look(outside)), Some(libc::SIGSEGV), "{best:?}");
        }
        // A child has no copy either.
        assert_eq!(fatal(|| _ = look(start)), Some(libc::SIGSEGV), "{best:?}");
        assert_eq!(look(start), 0);
    }
    let ordinary = Region::map(1, Protection::Ordinary).unwrap();
    let start = ordinary.start().as_ptr().expose_provenance();
    assert_eq!(fatal(|| _ = look(start)), None, "a child would see it");
}

#[test]
fn what_is_dropped_is_wiped() {
    for best in [Protection::Secret, Protection::Locked] {
        let arena: &'static Arena = Box::leak(Box::new(Arena::new(Some(best))));
        let make = || SecretBox::try_make_in(arena, || Ok::<_, ()>(CANARY)).unwrap();
        let (one, other) = (make(), make());
        let at = ptr::from_ref(one.expose()).expose_provenance();
        assert_eq!(look(at), CANARY[0]);
        drop(one);
        // `other` keeps the pages.
        assert!((at..at + CANARY.len()).all(|at| look(at) == 0));
        assert_eq!(other.expose(), &CANARY);
    }
}

#[test]
fn a_value_is_dropped_once_and_where_making_it_fails_there_is_none() {
    struct Counted<'a>(&'a Cell<u32>);
    impl Drop for Counted<'_> {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }
    let drops = Cell::new(0);
    let held = SecretBox::make(|| Counted(&drops));
    assert_eq!(drops.get(), 0);
    drop(held);
    assert_eq!(drops.get(), 1);
    let failed = SecretBox::<[u8; 32]>::try_make(|| Err("no"));
    assert_eq!(failed.err(), Some("no"));
}

#[test]
fn a_hundred_keys_take_few_pages() {
    let arena: &'static Arena = Box::leak(Box::new(Arena::new(None)));
    let make = |_| {
        let pair = SecretBox::try_make_in(arena, || Ok::<_, ()>([1_u8; 240])).unwrap();
        let seed = SecretBox::try_make_in(arena, || Ok::<_, ()>([2_u8; 32])).unwrap();
        (pair, seed)
    };
    let keys: Vec<_> = (0..100).map(make).collect();
    assert!(arena.mapped() <= 48 << 10, "{}", arena.mapped());
    let full = arena.mapped();
    drop(keys);
    assert!(arena.mapped() < full, "pages are given back");
    let large = SecretBox::try_make_in(arena, || Ok::<_, ()>([3_u8; 20_000])).unwrap();
    assert!(large.expose().iter().all(|octet| *octet == 3));
}

#[test]
fn what_a_secret_is_does_not_show() {
    let held = boxed(Protection::Secret);
    assert_eq!(format!("{held:?}"), "SecretBox(32 octets)");
    let text: Vec<String> = [&WEAKER[..], &[Protection::Secret]]
        .concat()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(text[0].contains("/proc/PID/mem") && text[1].contains("RLIMIT_MEMLOCK"));
}

#[test]
fn the_stack_is_secret_and_wiped_behind_each_call() {
    let (local, seen) = on_secret_stack(|| {
        let canary = std::hint::black_box(CANARY);
        let at = ptr::from_ref(&canary).expose_provenance();
        assert_eq!(look(at), CANARY[0]);
        (at, traced(at).ok())
    });
    let (name, flags) = mapping(local);
    assert!(flags.iter().any(|flag| flag == "dd"), "{flags:?}");
    assert_eq!(name.contains("secretmem"), seen.is_none());
    assert!((local..local + CANARY.len()).all(|at| look(at) == 0));
    let other = thread::spawn(|| on_secret_stack(|| address(&std::hint::black_box(0_u8))));
    assert!(other.join().unwrap().abs_diff(local) > 64 << 10, "shared");
}

#[test]
fn a_batch_is_wiped_when_it_is_done_and_calls_within_calls_stay_where_they_are() {
    let leave = || {
        let canary = std::hint::black_box(CANARY);
        ptr::from_ref(&canary).expose_provenance()
    };
    let at = batch(|| {
        let at = on_secret_stack(|| on_secret_stack(leave));
        assert_eq!(look(at), CANARY[0], "wiped within the batch");
        batch(|| ());
        assert_eq!(look(at), CANARY[0], "wiped by a batch within");
        at
    });
    assert_eq!(look(at), 0);
    let unwound = std::panic::catch_unwind(|| {
        batch(|| {
            let at = on_secret_stack(leave);
            std::panic::resume_unwind(Box::new(at));
        })
    });
    let at: usize = *unwound.unwrap_err().downcast().unwrap();
    assert_eq!(look(at), 0, "left behind by a panic");
}

#[test]
fn signals_are_blocked_there_and_let_through_afterwards() {
    let blocked = |signal| {
        let mut mask = mem::MaybeUninit::uninit();
        // SAFETY: the call writes the thread's mask, which is then read.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, ptr::null(), mask.as_mut_ptr());
            libc::sigismember(mask.as_ptr(), signal) == 1
        }
    };
    let all = |are: bool| {
        [
            libc::SIGUSR1,
            libc::SIGTERM,
            libc::SIGPROF,
            libc::SIGRTMAX(),
        ]
        .iter()
        .all(|signal| blocked(*signal) == are)
    };
    assert!(all(false));
    assert!(on_secret_stack(|| all(true)));
    assert!(all(false));
    batch(|| {
        assert!(all(true));
        assert!(on_secret_stack(|| all(true)));
        assert!(all(true), "between two calls");
    });
    assert!(all(false));
}

#[cfg(target_arch = "x86_64")]
#[test]
fn vector_registers_are_clear_afterwards() {
    use std::arch::asm;
    const MARK: u64 = 0x5ec2_e75e_c2e7_5ec2;
    let fill = || {
        // SAFETY: all that is overwritten is named.
        unsafe {
            asm!(
                "movq xmm3, {mark}", "movq xmm8, {mark}", "movq xmm12, {mark}", "movq xmm15, {mark}",
                mark = in(reg) MARK, clobber_abi("sysv64"), options(nostack),
            );
        }
    };
    let read = || {
        let (mut eight, mut twelve, mut fifteen): (u64, u64, u64);
        // SAFETY: it only reads registers.
        unsafe {
            asm!(
                "movq {a}, xmm8", "movq {b}, xmm12", "movq {c}, xmm15",
                a = out(reg) eight, b = out(reg) twelve, c = out(reg) fifteen, options(nostack),
            );
        }
        [eight, twelve, fifteen]
    };
    fill();
    let there = read();
    batch(|| {
        on_secret_stack(fill);
        assert!(!read().contains(&MARK));
    });
    assert!(there.contains(&MARK), "the test sees no register");
}

#[test]
fn a_panic_on_the_secret_stack_ends_the_process() {
    if is_alone() {
        let _unreached = std::panic::catch_unwind(|| on_secret_stack(|| panic!("on purpose")));
        return;
    }
    let ended = alone("a_panic_on_the_secret_stack_ends_the_process");
    assert_eq!(ended.status.signal(), Some(libc::SIGABRT), "{ended:?}");
}

#[test]
fn a_stack_that_is_too_deep_ends_the_process() {
    #[expect(unconditional_recursion, reason = "that is the point")]
    fn deeper(by: u64) -> u64 {
        let frame = std::hint::black_box([by; 100]);
        deeper(by + 1) + std::hint::black_box(frame)[0]
    }
    if is_alone() {
        on_secret_stack(|| deeper(0));
        return;
    }
    let ended = alone("a_stack_that_is_too_deep_ends_the_process");
    assert_eq!(ended.status.signal(), Some(libc::SIGSEGV), "{ended:?}");
}

#[test]
fn where_the_kernel_refuses_the_process_knows() {
    if is_alone() {
        settle_for(Protection::Locked);
        let held = SecretBox::<[u8; 32]>::filled(|octets| *octets = CANARY);
        assert_eq!(protection(), Protection::Locked);
        assert_eq!(traced(address(held.expose())).unwrap(), CANARY);
        let at = on_secret_stack(|| {
            let canary = std::hint::black_box(CANARY);
            assert_eq!(traced(address(&canary)).unwrap(), CANARY);
            ptr::from_ref(&canary).expose_provenance()
        });
        assert_eq!(look(at), 0);
        return;
    }
    let ended = alone("where_the_kernel_refuses_the_process_knows");
    assert!(ended.status.success(), "{ended:?}");
}

#[test]
fn a_descriptor_is_read_whole_or_not_at_all() {
    let read = |content: &[u8], limit| {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(content).unwrap();
        drop(writer);
        SecretBuffer::read_from(reader.as_fd(), limit)
    };
    let buffer = read(&CANARY, 32).unwrap();
    assert_eq!(buffer.expose(), CANARY);
    assert_eq!((buffer.len(), buffer.is_empty()), (32, false));
    assert!(
        mapping(buffer.expose().as_ptr().addr())
            .1
            .contains(&"dd".to_owned())
    );
    assert_eq!(format!("{buffer:?}"), "SecretBuffer(32 octets)");
    assert!(read(&[], 0).unwrap().is_empty());
    let long = vec![7; 40_000];
    assert_eq!(read(&long, 40_000).unwrap().expose(), long);
    for (content, limit) in [(&CANARY[..], 31), (&[1][..], 0), (&long[..], usize::MAX)] {
        let refused = read(content, limit).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::FileTooLarge);
    }
    let folder = File::open("/").unwrap();
    assert!(SecretBuffer::read_from(&folder, 10).is_err());
}

#[test]
fn a_working_area_is_locked_and_kept_out_of_dumps() {
    let mut area = Scratch::new(1000, [9_u64; 128]).unwrap();
    assert!(area.as_mut().iter().flatten().all(|word| *word == 9));
    assert_eq!(area.as_mut().len(), 1000);
    let (name, flags) = mapping(area.as_mut().as_ptr().addr());
    assert!(!name.contains("secretmem") && flags.iter().any(|flag| flag == "dd"));
    assert_eq!(
        area.protection() == Protection::Locked,
        flags.iter().any(|flag| flag == "lo")
    );
    assert!(Scratch::new(usize::MAX / 4, 0_u8).is_err());
    assert!(Scratch::new(usize::MAX / 4, 0_u64).is_err());
}

#[test]
fn threads_share_one_arena() {
    let arena: &'static Arena = Box::leak(Box::new(Arena::new(None)));
    let all = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for thread in 0..4_u8 {
            let all = &all;
            scope.spawn(move || {
                for _ in 0..50 {
                    let made = SecretBox::try_make_in(arena, || Ok::<_, ()>([thread; 100]));
                    all.lock().unwrap().push((thread, made.unwrap()));
                }
            });
        }
    });
    let all = all.into_inner().unwrap();
    assert!(all.iter().all(|(by, held)| held.expose() == &[*by; 100]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn slots_never_overlap_and_are_zero_at_first(
        steps in prop::collection::vec((1_usize..3000, any::<u8>(), any::<bool>()), 1..80),
    ) {
        let arena: &'static Arena = Box::leak(Box::new(Arena::new(Some(Protection::Unlocked))));
        let mut held: Vec<(Slot, u8)> = Vec::new();
        for (len, mark, take) in steps {
            if take || held.is_empty() {
                let slot = arena.take(len);
                let at = slot.start().as_ptr();
                prop_assert!(slot.len() >= len && at.addr().is_multiple_of(UNIT));
                // SAFETY: the slot is ours and that long.
                let octets = unsafe { std::slice::from_raw_parts_mut(at, slot.len()) };
                prop_assert!(octets.iter().all(|octet| *octet == 0));
                octets.fill(mark);
                held.push((slot, mark));
            } else {
                held.swap_remove(usize::from(mark) % held.len());
            }
            for (slot, mark) in &held {
                // SAFETY: as above.
                let octets = unsafe { std::slice::from_raw_parts(slot.start().as_ptr(), slot.len()) };
                prop_assert!(octets.iter().all(|octet| octet == mark), "overwritten");
            }
        }
        drop(held);
        prop_assert_eq!(arena.mapped(), 16 << 10, "one chunk is kept");
    }
}
