//! What a status lookup takes of the heap: nothing. In a program of its own, for it counts every
//! allocation of a thread.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers fail the test they serve"
)]

#[path = "it/log.rs"]
#[expect(dead_code, reason = "the tests beside this one use the rest")]
mod log;
#[path = "it/world.rs"]
#[expect(dead_code, reason = "the tests beside this one use the rest")]
mod world;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use taskmint_model::SystemEntropy;
use taskmint_status::{BootTime, Now, Refusal, StatusView, Verdict, WallTime};
use taskmint_verifier::tls::Trust;
use taskmint_verifier::watch::{Options, Source, Watch};
use taskmint_verifier::{StatusCheck as _, judge};

use crate::log::{FakeLog, HandClocks};
use crate::world::World;

/// Lookups in a row.
const LOOKUPS: u64 = 10_000;

thread_local! {
    static TAKEN: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, which counts what each thread takes.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count() {
    // A thread that ends has no counter any more.
    TAKEN.try_with(|taken| taken.set(taken.get() + 1)).ok();
}

#[expect(unsafe_code, reason = "passes everything on to the system's allocator")]
// SAFETY: all that is asked is passed on unchanged; counting touches no heap.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as of the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as of the caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as of the caller.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as of the caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// What this thread allocates while it does something.
fn allocations(act: impl FnOnce()) -> u64 {
    let before = TAKEN.get();
    act();
    TAKEN.get() - before
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| {}), 0);
    let taken = allocations(|| {
        let mut grows = vec![1_u8];
        grows.reserve_exact(1 << 12);
        std::hint::black_box((grows, Box::new(7)));
    });
    assert_eq!(taken, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lookup_allocates_nothing_also_while_the_log_grows() {
    let world = World::new();
    let clocks = HandClocks::of(&world);
    let log = FakeLog::new(&world, &clocks);
    let folder = tempfile::tempdir().unwrap();
    let source = Source::Relay(log.serve_in(folder.path()));
    let options = Options::new(world.trust_domain.clone(), source, "test");
    let (trust, entropy) = (Trust::new(world.bundles()), Arc::new(SystemEntropy));
    let clocks = Arc::<HandClocks>::clone(&clocks);
    let watch = Watch::start(options, trust, clocks, entropy).unwrap();
    watch.synced().await;

    // One that ended far off, so that the hour has a map with more than one chunk.
    log.end(&world, 100_000);
    let (id, live) = (world.id("/agent"), world.binding(1));
    let (stop, looked) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let reader = std::thread::spawn({
        let (watch, stop, looked) = (watch.clone(), Arc::clone(&stop), Arc::clone(&looked));
        move || {
            // The first on a thread takes a place among the readers.
            watch.check(&live).unwrap();
            allocations(|| {
                while !stop.load(Ordering::Relaxed) || looked.load(Ordering::Relaxed) < LOOKUPS {
                    watch.check(&live).unwrap();
                    judge(&watch, &id, Some(&live)).unwrap();
                    looked.fetch_add(1, Ordering::Relaxed);
                }
            })
        }
    });
    for index in 2..300 {
        log.end(&world, index);
    }
    let applied = async {
        while watch.check(&world.binding(299)).is_ok() {
            tokio::task::yield_now().await;
        }
    };
    let applied = tokio::time::timeout(std::time::Duration::from_secs(20), applied).await;
    stop.store(true, Ordering::Relaxed);
    assert!(applied.is_ok(), "the end of a task is never seen");
    assert_eq!(reader.join().unwrap(), 0);
    assert!(looked.load(Ordering::Relaxed) >= LOOKUPS);
}

#[test]
fn a_refusal_allocates_nothing_either() {
    let (view, place) = (StatusView::new(), World::new().binding(1).place);
    let now = Now {
        boot: BootTime(1),
        wall: WallTime(1),
    };
    let look = || {
        assert_eq!(
            view.status(place, now),
            Verdict::Refused(Refusal::NotSynced)
        )
    };
    look();
    assert_eq!(allocations(|| (0..LOOKUPS).for_each(|_| look())), 0);
}
