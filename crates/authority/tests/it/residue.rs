//! What a debugger finds of keys that were made, sealed, opened and used: nothing, where the kernel
//! has secret memory.
//!
//! The keys are known here only under a mask, so that the test is not what is found.

use std::fs::{self, File};
use std::hint::black_box;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;

use taskmint_authority::{Core, SealingKey};
use taskmint_mint::{KeyKind, Request};
use taskmint_model::{AuthorityId, Clock as _, Entropy};
use taskmint_secret::{Protection, protection};
use taskmint_testkit::ManualClock;

use crate::support::{CA_TTL, Desk, kept, policy, start};

const MASK: u64 = 0x9e37_79b9_7f4a_7c15;
/// Words of all secrets, masked. Each is below the group's order.
const WORDS: [u64; 4] = [
    0x1122_3344_5566_7788,
    0xd1ce_5eed_0ddb_a115,
    0x0bad_f00d_cafe_d00d,
    0x7e57_ab1e_5eed_1e55,
];

/// The same times 2^256 modulo the order, masked: so ring keeps it.
const DERIVED: [u64; 4] = [
    0x9336_3363_fcf8_00d5,
    0xf536_2527_d93f_ca88,
    0xfa7b_aa89_cf07_518c,
    0x5962_9c72_4832_4005,
];

/// Gives the secret to whoever asks for 32 octets, and numbers to all others.
struct Known(AtomicU64);

impl Entropy for Known {
    fn fill(&self, buffer: &mut [u8]) {
        if buffer.len() == 32 {
            for (into, word) in buffer.chunks_exact_mut(8).zip(WORDS) {
                into.copy_from_slice(&(word ^ black_box(MASK)).to_be_bytes());
            }
            return;
        }
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        buffer.fill(0);
        for (into, from) in buffer.iter_mut().zip(number.to_le_bytes()) {
            *into = from;
        }
    }
}

/// How often a word of the secret, in either order of octets, is in readable memory.
fn found() -> usize {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let memory = File::open("/proc/self/mem").unwrap();
    let mut piece = vec![0; 1 << 20];
    let mut found = 0;
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let (mut at, to) = (
            u64::from_str_radix(from, 16).unwrap(),
            u64::from_str_radix(to, 16).unwrap(),
        );
        while at < to {
            let len = piece.len().min((to - at) as usize);
            // What can't be read is what this is about, or was unmapped meanwhile.
            if memory.read_exact_at(&mut piece[..len], at).is_ok() {
                found += piece[..len]
                    .windows(8)
                    .filter(|word| is_known(word))
                    .count();
            }
            // Words across two pieces, too.
            at += if at + (len as u64) < to {
                len as u64 - 8
            } else {
                len as u64
            };
        }
    }
    piece.fill(0);
    found
}

fn is_known(word: &[u8]) -> bool {
    let word = u64::from_be_bytes(word.try_into().unwrap());
    let mask = black_box(MASK);
    WORDS
        .iter()
        .chain(&DERIVED)
        .any(|known| word ^ mask == *known || word.swap_bytes() ^ mask == *known)
}

/// Makes every kind of key, opens it again and uses it.
fn work() -> (Core, Core) {
    let desk = Desk::new();
    let entropy = Arc::new(Known(AtomicU64::new(1)));
    let clock = ManualClock::new(desk.now());
    let authority = || {
        let sealing = SealingKey::generate(&*entropy);
        Core::new(
            policy(),
            Some(sealing),
            Arc::new(clock.clone()),
            entropy.clone(),
        )
    };
    let core = authority();
    core.load(&[], &start()).unwrap();
    let ttl_secs = CA_TTL;
    let kinds = [
        KeyKind::Ca { ttl_secs },
        KeyKind::Jwt,
        KeyKind::Log { ttl_secs },
        KeyKind::Grant,
    ];
    let keys: Vec<_> = kinds
        .into_iter()
        .map(|kind| {
            let id = AuthorityId::new(clock.now(), &*entropy);
            let prepared = core.prepare(kind, id, clock.now()).unwrap();
            core.activate(id).unwrap();
            kept(&prepared, kind, true)
        })
        .collect();
    let again = authority();
    again.load(&keys, &start()).unwrap();
    let facts = desk.workload();
    let (mut x509, mut jwt) = (desk.x509(&facts), desk.jwt(&facts));
    for core in [&core, &again] {
        x509.grant = core.grant(&facts).unwrap();
        jwt.grant = x509.grant.clone();
        let pair = [Request::X509(x509.clone()), Request::Jwt(jwt.clone())];
        let mut batch: Vec<_> = pair.iter().cycle().take(100).cloned().collect();
        batch.push(Request::Head(desk.heartbeat()));
        assert!(core.issue(batch).iter().all(Result::is_ok));
    }
    (core, again)
}

#[test]
fn no_key_is_found_in_readable_memory_after_use() {
    let (done, worked) = mpsc::channel();
    let (end, ended) = mpsc::channel::<()>();
    // A thread that waits keeps what its stack was left with, and the scan does not run over it.
    let worker = thread::spawn(move || {
        done.send(work()).unwrap();
        ended.recv().unwrap_err();
    });
    let held = worked.recv().unwrap();
    if protection() == Protection::Secret {
        assert_eq!(found(), 0);
    }
    // What finds nothing would find it.
    let canary = black_box(Box::new(black_box(WORDS[2]) ^ black_box(MASK)));
    assert!(found() > 0);
    drop((held, canary, end));
    worker.join().unwrap();
}
