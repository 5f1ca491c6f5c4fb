//! The sealing key's file: whoever can write where it lies can have anything read.

use sha2::{Digest as _, Sha256};
use taskmint_authority::{SealedFile, SealingKey};
use taskmint_id::TrustDomain;

/// How a file begins, up to its version.
const BEGIN: &[u8] = b"taskmint sealing\x01";

/// No content opens without a passphrase, and what is read of it is all that the file is asked for:
/// also where the checksum is right, which no fuzzer would guess.
pub fn sealed_file(data: &[u8]) {
    read(data);
    let body = [BEGIN, data].concat();
    let sum = Sha256::digest(&body);
    read(&[&body[..], &sum].concat());
}

fn read(content: &[u8]) {
    let trust_domain: TrustDomain = "example.org".parse().expect("a trust domain");
    let opened = SealingKey::open_file(content, &trust_domain, None);
    if SealedFile::is_one(content) {
        assert!(opened.is_err(), "opened without a passphrase");
    }
    let Ok(file) = SealedFile::parse(content) else {
        return;
    };
    assert!(SealedFile::is_one(content));
    let other: TrustDomain = "other.example".parse().expect("a trust domain");
    assert!(!(file.is_of(&trust_domain) && file.is_of(&other)));
}
