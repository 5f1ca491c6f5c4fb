//! A stack in secret memory, one for each thread that asks.

#![expect(unsafe_code, reason = "runs code on another stack and blocks signals")]

use std::alloc::{Layout, handle_alloc_error};
use std::cell::{Cell, OnceCell};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::abort;
use std::ptr;

use crate::protection::{best, note};
use crate::region::Region;
use crate::registers;

/// A signature takes 3 KiB of it; making a key, in a build for tests, 29.
const SIZE: usize = 64 << 10;

thread_local! {
    static STACK: Stack = const { Stack::new() };
}

struct Stack {
    region: OnceCell<Region>,
    /// How many batches are open, one within another.
    open: Cell<usize>,
    /// Whether the thread runs on it now.
    inside: Cell<bool>,
    used: Cell<bool>,
}

/// Runs `f` on this thread's secret stack, with all signals blocked, and clears registers and wipes
/// the stack behind it. Within `f` it does nothing more.
///
/// What `f` captures and returns lies on the ordinary stack: let it capture references, and return
/// nothing secret. The heap is not protected. A panic within `f` ends the process, because its
/// unwinding would leave the stack before it is wiped; so does a stack that is too deep.
///
/// There are 64 KiB.
pub fn on_secret_stack<R>(f: impl FnOnce() -> R) -> R {
    STACK.with(|stack| {
        if stack.inside.get() {
            return f();
        }
        let _open = stack.open();
        stack.switch(f)
    })
}

/// Runs `f` on the ordinary stack, and lets all calls of [`on_secret_stack`] within share the costs
/// of blocking signals and of wiping: signals stay blocked all along, and what the calls left on the
/// secret stack stays there, where nobody can read it, until `f` is done.
pub fn batch<R>(f: impl FnOnce() -> R) -> R {
    STACK.with(|stack| {
        let _open = stack.open();
        f()
    })
}

/// The outermost one wipes and restores signals when dropped, panic or not.
struct Open<'a> {
    stack: &'a Stack,
    outermost: Option<libc::sigset_t>,
}

impl Stack {
    const fn new() -> Self {
        Self {
            region: OnceCell::new(),
            open: Cell::new(0),
            inside: Cell::new(false),
            used: Cell::new(false),
        }
    }

    fn open(&self) -> Open<'_> {
        let outermost = (self.open.get() == 0).then(block_signals);
        self.open.set(self.open.get() + 1);
        Open {
            stack: self,
            outermost,
        }
    }

    fn switch<R>(&self, f: impl FnOnce() -> R) -> R {
        let region = self.region.get_or_init(map);
        let mut result = None;
        let run = || {
            match catch_unwind(AssertUnwindSafe(f)) {
                Ok(returned) => result = Some(returned),
                Err(_) => abort(),
            }
            registers::clear();
        };
        self.used.set(true);
        self.inside.set(true);
        // SAFETY: the region is page aligned, writable between its guards and this thread's alone;
        // `inside` keeps a second call off it. `run` does not unwind.
        unsafe { psm::on_stack(region.start().as_ptr(), region.len(), run) };
        self.inside.set(false);
        match result {
            Some(returned) => returned,
            None => abort(),
        }
    }

    fn wipe(&self) {
        if let Some(region) = self.region.get()
            && self.used.replace(false)
        {
            // SAFETY: the outermost call is done, so nothing runs on the stack.
            unsafe { region.wipe() };
        }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.stack.open.set(self.stack.open.get() - 1);
        if let Some(before) = &self.outermost {
            self.stack.wipe();
            set_signals(before);
        }
    }
}

fn map() -> Region {
    match Region::map(SIZE, best()) {
        Ok(region) => {
            note(region.protection());
            region
        }
        Err(_) => handle_alloc_error(Layout::new::<[u8; SIZE]>()),
    }
}

/// A handler on an alternate stack would have registers spilled there. Says what was blocked before.
fn block_signals() -> libc::sigset_t {
    let mut all = MaybeUninit::uninit();
    let mut before = MaybeUninit::uninit();
    // SAFETY: the first call makes a set, and the second reads it and writes the other; a mask that
    // could not be set would be a mistake in these arguments.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        if libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) != 0 {
            abort();
        }
        before.assume_init()
    }
}

fn set_signals(mask: &libc::sigset_t) {
    // SAFETY: the set is one that the same call wrote.
    if unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, ptr::null_mut()) } != 0 {
        abort();
    }
}
