//! What the machine itself takes: a sync, a signature, a process.

use std::fs::File;
use std::hint::black_box;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};

/// About what one begin writes, in bytes.
const RECORD: usize = 1024;

/// About what a certificate's signature covers, in bytes.
const MESSAGE: usize = 500;

/// How long signing is measured each time.
const SPAN: Duration = Duration::from_millis(700);

/// A file on the disk that the store is on.
pub(crate) struct Disk(File);

impl Disk {
    /// A new file in `folder`.
    pub(crate) fn new(folder: &Path) -> anyhow::Result<Self> {
        let file = File::create(folder.join("floor")).context("cannot make the floor's file")?;
        Ok(Self(file))
    }

    /// How long it takes to append a record and sync it.
    pub(crate) fn sync(&mut self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        self.0.write_all(&[7; RECORD])?;
        self.0.sync_data()?;
        Ok(begun.elapsed())
    }
}

/// P-256 signatures per second on one thread, by the fastest library that we link, into fixed form.
pub(crate) fn signatures() -> anyhow::Result<f64> {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
        .ok()
        .context("cannot make a key")?;
    let random = SystemRandom::new();
    let message = [7; MESSAGE];
    let begun = Instant::now();
    let mut done = 0_u32;
    while begun.elapsed() < SPAN {
        for _ in 0..64 {
            let signed = pair.sign(&random, black_box(&message));
            black_box(signed.ok().context("cannot sign")?);
        }
        done += 64;
    }
    Ok(f64::from(done) / begun.elapsed().as_secs_f64())
}
