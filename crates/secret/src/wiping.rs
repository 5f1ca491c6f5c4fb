//! An allocator that wipes what it takes back.

#![expect(unsafe_code, reason = "is an allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::NonNull;

use crate::region::wipe;

/// The system's allocator, which overwrites all memory that is given back to it.
///
/// For processes through which secrets pass in buffers of libraries that don't wipe them: messages,
/// frames, records of TLS. Whoever uses it has nothing to wipe by itself, and nothing that a vector
/// which grew left behind. It covers neither stacks nor what C libraries allocate, and only what is
/// no longer in use: a key that lives belongs in a [`SecretBox`](crate::SecretBox).
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: taskmint_secret::Wiping = taskmint_secret::Wiping;
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Wiping;

// SAFETY: all memory comes from the system's allocator, and goes back to it under the same layout.
// A reallocation is the trait's own: new memory, a copy, and what was there before is given back.
unsafe impl GlobalAlloc for Wiping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise. The system gets large ones from the kernel, zeroed already.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller gives up memory of this layout that came from here.
        unsafe {
            if let Some(at) = NonNull::new(at) {
                wipe(at, layout.size());
            }
            System.dealloc(at, layout);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::alloc::{GlobalAlloc as _, Layout};
    use std::cell::Cell;

    use super::*;

    #[test]
    fn memory_is_wiped_before_it_is_given_back_and_when_it_grows() {
        // Given back in a way that lets a test look: nobody else takes it meanwhile.
        let layout = Layout::from_size_align(4096, 16).unwrap();
        let seen = Cell::new(0);
        // SAFETY: of this layout, written whole, and given back once; what is read afterwards is
        // memory of the process that the system's allocator keeps for its next caller.
        unsafe {
            let at = Wiping.alloc(layout);
            at.write_bytes(0xa5, layout.size());
            let grown = Wiping.realloc(at, layout, 2 * layout.size());
            assert!((0..layout.size()).all(|offset| *grown.add(offset) == 0xa5));
            for offset in 64..layout.size() {
                seen.set(seen.get() + usize::from(at.add(offset).read_volatile() == 0xa5));
            }
            let layout = Layout::from_size_align(2 * layout.size(), 16).unwrap();
            Wiping.dealloc(grown, layout);
        }
        assert_eq!(seen.get(), 0);
    }
}
