//! Writes `svid.json`, `svid.der` and the PEM files beside it, with fixed keys.
//!
//! The bytes that are signed don't change without a decision note (P13); only the signatures are
//! new each time.
//!
//! ```text
//! cargo run -p taskmint-authority --example vectors -- tests/vectors
//! ```

#![expect(clippy::unwrap_used, reason = "a writer that fails writes nothing")]

use std::path::Path;
use std::{env, fs};

#[path = "../tests/it/fixed.rs"]
mod fixed;

fn main() {
    let folder = env::args()
        .nth(1)
        .unwrap_or_else(|| "tests/vectors".to_owned());
    let made = fixed::fixed();
    let document = serde_json::to_string_pretty(&made.document()).unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(Path::new(&folder).join(name), bytes).unwrap();
    write("svid.json", format!("{document}\n").as_bytes());
    write("svid.der", &made.leaf);
    write("svid.pem", fixed::pem(&made.leaf).as_bytes());
    write("svid-ca.pem", fixed::pem(&made.ca.certificate).as_bytes());
    write(
        "svid-crl.pem",
        fixed::envelope("X509 CRL", &made.crl).as_bytes(),
    );
    write(
        "svid-log-key.pem",
        fixed::pem(&made.log_key.certificate).as_bytes(),
    );
}
