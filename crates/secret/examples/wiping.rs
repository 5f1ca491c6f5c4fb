//! What wiping costs: allocations and releases per second, with and without, by size.
//!
//! ```text
//! cargo run --release -p taskmint-secret --example wiping
//! ```

#![expect(unsafe_code, reason = "calls allocators")]
#![expect(clippy::unwrap_used, reason = "a measurement")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::time::{Duration, Instant};

use taskmint_secret::Wiping;

const SPAN: Duration = Duration::from_millis(300);

fn main() {
    println!("{:>8} {:>12} {:>12}", "octets", "system ns", "wiping ns");
    for size in [64, 512, 4096, 16_384, 65_536, 1 << 20] {
        let (system, wiping) = (nanoseconds(&System, size), nanoseconds(&Wiping, size));
        println!("{size:>8} {system:>12.0} {wiping:>12.0}");
    }
}

/// For one allocation that is written and given back.
fn nanoseconds(allocator: &dyn GlobalAlloc, size: usize) -> f64 {
    let layout = Layout::from_size_align(size, 16).unwrap();
    let (begun, mut count) = (Instant::now(), 0);
    while begun.elapsed() < SPAN {
        for _ in 0..100 {
            // SAFETY: of this layout, and given back once.
            unsafe {
                let at = allocator.alloc(layout);
                at.write_bytes(1, size);
                allocator.dealloc(black_box(at), layout);
            }
        }
        count += 100;
    }
    begun.elapsed().as_nanos() as f64 / f64::from(count)
}
