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

use taskmint_testkit::pem;

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
    for (name, label, der) in [
        ("svid.pem", "CERTIFICATE", &made.leaf),
        ("svid-ca.pem", "CERTIFICATE", &made.ca.certificate),
        ("svid-crl.pem", "X509 CRL", &made.crl),
        ("svid-log-key.pem", "CERTIFICATE", &made.log_key.certificate),
    ] {
        write(name, pem(label, der).as_bytes());
    }
}
