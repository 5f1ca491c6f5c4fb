//! The signer's journal (P24): one entry of fixed length for each signature, written before what
//! was signed leaves, outside the reach of whoever asks.
//!
//! ```text
//! instance (16) | counter (8) | kind (1) | name (20) | chain hash (32) | time in ms (8) | 0 (3)
//! ```

use sha2::{Digest as _, Sha256};
use taskmint_model::Timestamp;

use crate::port::SignerTail;

/// Octets of an entry.
pub const ENTRY_LEN: usize = 88;

/// The action of those lines of the audit trail in which the server notes how far a start of the signer
/// has counted. Their resource is instance, counter and chain hash, with a space between: two of them in
/// hexadecimal, the counter in decimal.
pub const TAIL_ACTION: &str = "signer.tail";

/// What a signature was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum What {
    /// A certificate of a task, or of the authority itself; named by its serial.
    Certificate,
    /// A token; named by [`token_name`].
    Token,
    /// A head; named by [`head_name`].
    Head,
    /// A checkpoint; named by its sequence number.
    Checkpoint,
    /// A CRL; named by its number.
    Crl,
    /// A status list; named by bucket and time.
    StatusList,
}

/// One signature in the chain of its signer's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Where the chain stands with it.
    pub tail: SignerTail,
    /// What it was for.
    pub what: What,
    /// Its name; shorter ones have zeroes behind.
    pub name: [u8; 20],
}

/// An entry of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The signature.
    pub link: Link,
    /// When it was made, by the signer's clock.
    pub at: Timestamp,
}

/// Octets that are no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no entry of a signer's journal")]
pub struct BadEntry;

impl What {
    /// Its number on disk and in the chain.
    pub fn code(self) -> u8 {
        match self {
            Self::Certificate => 1,
            Self::Token => 2,
            Self::Head => 3,
            Self::Checkpoint => 4,
            Self::Crl => 5,
            Self::StatusList => 6,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        let all = [
            Self::Certificate,
            Self::Token,
            Self::Head,
            Self::Checkpoint,
            Self::Crl,
            Self::StatusList,
        ];
        all.into_iter().find(|what| what.code() == code)
    }
}

/// The name of a token: its `jti`, and the bucket of its task, by which it can be told when its
/// record is gone for good.
pub fn token_name(jti: &[u8; 16], bucket: u32) -> [u8; 20] {
    let mut name = [0; 20];
    let octets = jti.iter().copied().chain(bucket.to_be_bytes());
    name.iter_mut()
        .zip(octets)
        .for_each(|(to, from)| *to = from);
    name
}

/// Octets of a head's name that say where it stands: of which log, and at which position.
pub const HEAD_PLACE: usize = 6 + 6;

/// The name of a head: six octets of the log's id, the last six of its position, and eight of its hash.
/// Two that begin alike and end differently are two histories of one log.
pub fn head_name(log: &[u8; 8], sequence: u64, hash: &[u8; 32]) -> [u8; 20] {
    let mut name = [0; 20];
    let octets = log.iter().take(6).copied();
    let octets = octets.chain(sequence.to_be_bytes().into_iter().skip(2));
    let octets = octets.chain(hash.iter().take(8).copied());
    name.iter_mut()
        .zip(octets)
        .for_each(|(to, from)| *to = from);
    name
}

/// The chain hash with one more signature: SHA-256 over instance, counter, kind, name and the hash
/// before, all of fixed length. `tail` has the new counter, and the hash before.
pub fn link(tail: &SignerTail, what: What, name: &[u8; 20]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"taskmint signature\0");
    hash.update(tail.instance);
    hash.update(tail.counter.to_be_bytes());
    hash.update([what.code()]);
    hash.update(name);
    hash.update(tail.hash);
    hash.finalize().into()
}

impl Entry {
    /// As it stands in the journal.
    pub fn encode(&self) -> [u8; ENTRY_LEN] {
        let SignerTail {
            instance,
            counter,
            hash,
        } = self.link.tail;
        let mut entry = [0; ENTRY_LEN];
        let octets = instance
            .into_iter()
            .chain(counter.to_be_bytes())
            .chain([self.link.what.code()])
            .chain(self.link.name)
            .chain(hash)
            .chain(self.at.millis().to_be_bytes());
        entry
            .iter_mut()
            .zip(octets)
            .for_each(|(to, from)| *to = from);
        entry
    }

    /// What stands in the journal.
    ///
    /// # Errors
    /// When it is nothing that [`Self::encode`] makes.
    pub fn decode(octets: &[u8; ENTRY_LEN]) -> Result<Self, BadEntry> {
        let (instance, rest) = octets.split_first_chunk::<16>().ok_or(BadEntry)?;
        let (counter, rest) = rest.split_first_chunk::<8>().ok_or(BadEntry)?;
        let ([what], rest) = rest.split_first_chunk::<1>().ok_or(BadEntry)?;
        let (name, rest) = rest.split_first_chunk::<20>().ok_or(BadEntry)?;
        let (hash, rest) = rest.split_first_chunk::<32>().ok_or(BadEntry)?;
        let (at, rest) = rest.split_first_chunk::<8>().ok_or(BadEntry)?;
        if rest.iter().any(|octet| *octet != 0) {
            return Err(BadEntry);
        }
        Ok(Self {
            link: Link {
                tail: SignerTail {
                    instance: *instance,
                    counter: u64::from_be_bytes(*counter),
                    hash: *hash,
                },
                what: What::from_code(*what).ok_or(BadEntry)?,
                name: *name,
            },
            at: Timestamp::from_millis(u64::from_be_bytes(*at)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        let tail = SignerTail {
            instance: [1; 16],
            counter: 7,
            hash: [2; 32],
        };
        Entry {
            link: Link {
                tail,
                what: What::Token,
                name: token_name(&[3; 16], 9),
            },
            at: Timestamp::from_millis(1_700_000_000_000),
        }
    }

    #[test]
    fn an_entry_comes_back_as_it_was_written() {
        assert_eq!(Entry::decode(&entry().encode()), Ok(entry()));
    }

    #[test]
    fn what_nobody_writes_is_no_entry() {
        let mut padded = entry().encode();
        padded[ENTRY_LEN - 1] = 1;
        assert_eq!(Entry::decode(&padded), Err(BadEntry));
        let mut unknown = entry().encode();
        unknown[24] = 7;
        assert_eq!(Entry::decode(&unknown), Err(BadEntry));
    }

    #[test]
    fn each_part_of_a_link_changes_the_hash() {
        let Link { tail, what, name } = entry().link;
        let hash = link(&tail, what, &name);
        let next = SignerTail {
            counter: tail.counter + 1,
            ..tail
        };
        let other = SignerTail {
            instance: [9; 16],
            ..tail
        };
        for changed in [
            link(&next, what, &name),
            link(&other, what, &name),
            link(&tail, What::Head, &name),
            link(&tail, what, &[0; 20]),
        ] {
            assert_ne!(changed, hash);
        }
    }
}
