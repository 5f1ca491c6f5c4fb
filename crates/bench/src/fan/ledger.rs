//! What the watchers of a player have heard, all together: each distinct message is checked once,
//! and the very same octets need no second look.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use prost::Message as _;
use rustix::time::{ClockId, clock_gettime};
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use taskmint_status::ChainHash;
use taskmint_status::head::Head;
use taskmint_status::record::RECORD_LEN;
use taskmint_wire::revocation::watch_response::Frame;
use taskmint_wire::revocation::{self as wire, watch_request};

use crate::machine;

/// Messages that are known by their octets.
const KNOWN: usize = 512;

/// Octets of an uncompressed P-256 point: the end of its SPKI.
const POINT: usize = 65;

/// What a message says, once it was checked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Said {
    Checkpoint(u64),
    Delta { first: u64, last: u64 },
    Head { sequence: u64, prompt: bool },
}

/// The log as it was heard, and who stands where.
#[derive(Default)]
pub(crate) struct Ledger {
    /// Whether a gap is let pass: a plain broadcast drops what a slow reader has not taken.
    pub(crate) lossy: bool,
    /// When each event was, by its position; nanoseconds of the monotonic clock.
    times: Option<File>,
    begun: Vec<u64>,
    known: HashMap<Vec<u8>, Said, foldhash::fast::RandomState>,
    key: Vec<u8>,
    /// Where the records below begin.
    base: Option<u64>,
    records: Vec<u8>,
    hashes: Vec<ChainHash>,
    acknowledgement: (u64, Vec<u8>),
    /// How many watchers stand at `lowest`, at the next position, and so on.
    standing: VecDeque<u32>,
    lowest: u64,
    phase: Phase,
}

/// What was measured since the last report.
#[derive(Default)]
struct Phase {
    last: Vec<u64>,
    ages: Vec<u64>,
    messages: u64,
    heads: u64,
    checking: u64,
    acknowledgements: u64,
}

/// The monotonic clock, the same in all processes; nanoseconds.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let nanos = i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec);
    u64::try_from(nanos).unwrap_or(0)
}

impl Ledger {
    pub(crate) fn new(times: Option<File>, lossy: bool) -> Self {
        Self {
            lossy,
            times,
            ..Self::default()
        }
    }

    /// Checks a message, unless the same octets were checked before.
    pub(crate) fn hear(&mut self, message: &[u8]) -> anyhow::Result<Said> {
        self.phase.messages += 1;
        if let Some(said) = self.known.get(message) {
            return Ok(*said);
        }
        let begun = Instant::now();
        let response = wire::WatchResponse::decode(message)?;
        let said = match response.frame.context("a message of no known kind")? {
            Frame::Checkpoint(checkpoint) => {
                let body = taskmint_status::checkpoint::Checkpoint::decode(&checkpoint.body)?;
                if self.base.is_none() {
                    self.start(body.sequence, Some(body.log_hash));
                }
                Said::Checkpoint(body.sequence)
            }
            Frame::Delta(delta) => self.delta(&delta)?,
            Frame::Head(head) => Said::Head {
                sequence: self.head(&head)?,
                prompt: response.prompt,
            },
        };
        self.phase.checking += u64::try_from(begun.elapsed().as_nanos())?;
        if message.len() <= 2048 {
            if self.known.len() >= KNOWN {
                self.known.clear();
            }
            self.known.insert(message.to_vec(), said);
        }
        Ok(said)
    }

    /// Every record is the one that the log has there.
    fn delta(&mut self, delta: &wire::Delta) -> anyhow::Result<Said> {
        let said = Said::Delta {
            first: delta.first,
            last: delta.last,
        };
        let count = (delta.last + 1).saturating_sub(delta.first);
        ensure!(
            count > 0 && delta.records.len() as u64 == count * RECORD_LEN as u64,
            "a delta of another length"
        );
        if self.lossy {
            return Ok(said);
        }
        let Some(base) = self.base else {
            ensure!(delta.first == 1, "records before the first head");
            self.start(0, None);
            return self.delta(delta);
        };
        for (sequence, record) in (delta.first..).zip(delta.records.chunks_exact(RECORD_LEN)) {
            let Some(index) = sequence.checked_sub(base + 1) else {
                continue;
            };
            let at = usize::try_from(index)? * RECORD_LEN;
            match self.records.get(at..at + RECORD_LEN) {
                Some(had) => ensure!(had == record, "two records {sequence}"),
                None => self.append(sequence, record)?,
            }
        }
        Ok(said)
    }

    fn start(&mut self, base: u64, hash: Option<ChainHash>) {
        self.base = Some(base);
        let genesis = ChainHash::genesis(
            taskmint_status::LogId([7; 8]),
            taskmint_status::Generation::FIRST,
        );
        self.hashes = vec![hash.unwrap_or(genesis)];
    }

    fn append(&mut self, sequence: u64, record: &[u8]) -> anyhow::Result<()> {
        let next = self.base.unwrap_or(0) + self.hashes.len() as u64;
        ensure!(sequence == next, "record {sequence} after {}", next - 1);
        let octets: &[u8; RECORD_LEN] = record.try_into()?;
        let before = self.hashes.last().context("no hash")?;
        self.hashes.push(before.then(octets));
        self.records.extend_from_slice(record);
        Ok(())
    }

    /// A head is signed, and over the records that were heard.
    fn head(&mut self, head: &wire::Head) -> anyhow::Result<u64> {
        if !head.key_certificate.is_empty() {
            let leaf = CertificateDer::from(&*head.key_certificate);
            let leaf = webpki::EndEntityCert::try_from(&leaf)?;
            let spki = leaf.subject_public_key_info();
            let point = spki.len().checked_sub(POINT).context("a short key")?;
            self.key = spki.get(point..).unwrap_or_default().to_vec();
        }
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.key);
        let signed = key.verify(&head.body, &head.signature);
        signed.ok().context("a head that nobody signed")?;
        let says = Head::decode(&head.body)?;
        self.phase.heads += 1;
        if !self.lossy {
            let Some(base) = self.base else {
                self.start(says.sequence, Some(says.log_hash));
                return Ok(says.sequence);
            };
            if let Some(index) = says.sequence.checked_sub(base) {
                let hash = self.hashes.get(usize::try_from(index)?);
                ensure!(hash == Some(&says.log_hash), "a head of another history");
            }
        }
        self.note_times(says.sequence)?;
        Ok(says.sequence)
    }

    /// Learns when the events up to this one were.
    fn note_times(&mut self, sequence: u64) -> anyhow::Result<()> {
        let Some(times) = &self.times else {
            return Ok(());
        };
        while (self.begun.len() as u64) <= sequence {
            let mut octets = [0; 8];
            if !self.begun.is_empty() {
                times.read_exact_at(&mut octets, self.begun.len() as u64 * 8)?;
            }
            self.begun.push(u64::from_be_bytes(octets));
        }
        Ok(())
    }

    fn begun(&self, sequence: u64) -> Option<u64> {
        let at = usize::try_from(sequence).ok()?;
        self.begun.get(at).copied().filter(|begun| *begun > 0)
    }

    /// A watcher has come from one position to another.
    pub(crate) fn stands(&mut self, old: Option<u64>, new: u64, now: u64) -> anyhow::Result<()> {
        if self.standing.is_empty() {
            self.lowest = new;
        }
        let place = |of: u64| usize::try_from(of.saturating_sub(self.lowest)).unwrap_or(usize::MAX);
        let (from, to) = (old.map(place), place(new));
        if self.standing.len() <= to {
            self.standing.resize(to + 1, 0);
        }
        if let Some(place) = self.standing.get_mut(to) {
            *place += 1;
        }
        let Some(from) = from else { return Ok(()) };
        if let Some(place) = self.standing.get_mut(from) {
            *place = place.checked_sub(1).context("nobody stands there")?;
        }
        if old < Some(new)
            && let Some(begun) = self.begun(new)
        {
            self.phase.ages.push(now.saturating_sub(begun));
        }
        while self.standing.len() > 1 && self.standing.front() == Some(&0) {
            self.standing.pop_front();
            self.lowest += 1;
            if let Some(begun) = self.begun(self.lowest) {
                self.phase.last.push(now.saturating_sub(begun));
            }
        }
        Ok(())
    }

    /// An event of the raw floor: a number and nothing else.
    pub(crate) fn raw(&mut self, sequence: u64) -> anyhow::Result<()> {
        self.phase.messages += 1;
        self.note_times(sequence)
    }

    /// Whether everybody stands at `sequence`.
    pub(crate) fn is_at(&self, sequence: u64) -> bool {
        self.lowest >= sequence
    }

    /// An acknowledgement as gRPC has it, made once for all who stand there.
    pub(crate) fn acknowledgement(&mut self, sequence: u64) -> &[u8] {
        self.phase.acknowledgements += 1;
        if self.acknowledgement.0 != sequence || self.acknowledgement.1.is_empty() {
            let said = super::conn::data(&said_message(self.applied(sequence)));
            self.acknowledgement = (sequence, said);
        }
        &self.acknowledgement.1
    }

    /// An acknowledgement as a message.
    pub(crate) fn applied(&self, sequence: u64) -> watch_request::Message {
        let at = self.base.and_then(|base| sequence.checked_sub(base));
        let hash = at.and_then(|at| self.hashes.get(usize::try_from(at).ok()?));
        let hash = hash.map_or_else(Vec::new, |hash| hash.0.to_vec());
        watch_request::Message::Acknowledge(wire::Acknowledge {
            sequence,
            log_hash: hash.into(),
            ..wire::Acknowledge::default()
        })
    }

    /// What was measured since the last report.
    pub(crate) fn report(&mut self) -> anyhow::Result<Value> {
        let phase = std::mem::take(&mut self.phase);
        let mut ages = phase.ages;
        ages.sort_unstable();
        let age = |percent: usize| {
            let rank = (ages.len() * percent).div_ceil(100).max(1) - 1;
            ages.get(rank).copied()
        };
        Ok(json!({
            "last_ns": phase.last,
            "age_p50_ns": age(50),
            "age_p99_ns": age(99),
            "messages": phase.messages,
            "heads": phase.heads,
            "checking_ns": phase.checking,
            "acknowledgements": phase.acknowledgements,
            "lowest": self.lowest,
            "highest": self.lowest + (self.standing.len() as u64).saturating_sub(1),
            "cpu_ms": u64::try_from(machine::processor_time()?.as_millis())?,
        }))
    }
}

/// A request, with gRPC's prefix.
pub(crate) fn said_message(message: watch_request::Message) -> Vec<u8> {
    let request = wire::WatchRequest {
        message: Some(message),
    };
    let mut octets = vec![0];
    let length = u32::try_from(request.encoded_len()).unwrap_or(0);
    octets.extend(length.to_be_bytes());
    octets.extend(request.encode_to_vec());
    octets
}
