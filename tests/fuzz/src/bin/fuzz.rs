//! libFuzzer on the target named by `TASKMINT_FUZZ_TARGET`.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

fn named() -> fn(&[u8]) {
    let name = std::env::var("TASKMINT_FUZZ_TARGET").expect("`TASKMINT_FUZZ_TARGET` names one");
    taskmint_fuzz::find(&name).expect("a known target").1
}

fuzz_target!(|data: &[u8]| TARGET.get_or_init(named)(data));
