//! What a signer's journal says, judged against records of what was issued (P24). No I/O of its
//! own but reading.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::time::Duration;

use taskmint_mint::SignerTail;
use taskmint_mint::journal::{ENTRY_LEN, Entry, HEAD_PLACE, What, link};
use taskmint_model::Timestamp;
use taskmint_status::{Serial, SignerChain};

/// A credential may be recorded this long after it is signed: recording runs beside signing.
const MEANWHILE: Duration = Duration::from_secs(10);

/// The most names that a report repeats; all are counted.
const NAMED: usize = 1000;

/// What the server has on record.
#[derive(Debug, Default)]
pub(super) struct Records {
    names: HashSet<(What, [u8; 20])>,
    /// Buckets below are swept, records and all.
    floor: u32,
    /// When reading them began.
    read_at: Timestamp,
    /// What the newest head says of the signer.
    head: Option<SignerChain>,
    /// The furthest that each start of the signer is known to have counted, and when that was noted.
    proven: HashMap<[u8; 16], (SignerTail, Timestamp)>,
    found: HashSet<(What, [u8; 20])>,
    /// The history that was signed for each position of each log.
    heads: HashMap<[u8; HEAD_PLACE], [u8; 8]>,
}

/// What there is to say.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) signatures: u64,
    pub(super) instances: Vec<Instance>,
    /// Signed without a record: somebody has a credential that nobody decided on.
    pub(super) unrecorded: Vec<Entry>,
    pub(super) unrecorded_count: u64,
    /// Signed in the last seconds of an instance, and not recorded: it was killed in between, and
    /// the credential most likely never left.
    pub(super) unreturned: Vec<Entry>,
    pub(super) unreturned_count: u64,
    /// Too new to be judged.
    pub(super) recent: u64,
    /// Their records are swept.
    pub(super) expired: u64,
    /// On record, but in no journal: perhaps issued, by a journal that is not this one.
    pub(super) unsigned: Vec<(What, [u8; 20])>,
    pub(super) unsigned_count: u64,
    /// Positions of the log for which two histories were signed (P23).
    pub(super) forked: Vec<Entry>,
    pub(super) forked_count: u64,
    /// The journal ends before the newest head, or contradicts it.
    pub(super) set_back: Option<&'static str>,
    /// Starts of the signer of which the end is missing.
    pub(super) cut: Vec<Cut>,
    /// Starts that ended before the journal begins: their entries are in files that were not given.
    pub(super) older: u64,
    /// Octets that are no entry: what a signer was writing when it was killed.
    pub(super) torn: usize,
}

/// A start of the signer whose entries end before what is known to have been signed.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) instance: [u8; 16],
    /// Its last entry; none where nothing of it is in the journal.
    pub(super) last: Option<Entry>,
    /// It made so many signatures at least.
    pub(super) proven: u64,
}

/// One start of the signer.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) id: [u8; 16],
    pub(super) first_at: Timestamp,
    pub(super) last_at: Timestamp,
    pub(super) signatures: u64,
    /// The first counter that is missing, repeated, or whose hash does not follow.
    pub(super) broken_at: Option<u64>,
    hash: [u8; 32],
    /// The entry with the highest number.
    last: Entry,
    head_seen: bool,
    /// The entry that is known from elsewhere has another hash here.
    contradicted: bool,
    /// Not on record: judged when it is known when the instance ended.
    open: Vec<Entry>,
}

impl Records {
    /// None yet, of a server whose newest head says `head`.
    pub(super) fn new(read_at: Timestamp, floor: u32, head: Option<SignerChain>) -> Self {
        Self {
            floor,
            read_at,
            head,
            ..Self::default()
        }
    }

    /// One record: a certificate's serial, or a token's `jti` and bucket.
    pub(super) fn add(&mut self, what: What, name: [u8; 20]) {
        self.names.insert((what, name));
    }

    /// What is known from elsewhere of how far a start of the signer counted.
    pub(super) fn prove(&mut self, tail: SignerTail, noted: Timestamp) {
        let known = self.proven.entry(tail.instance).or_insert((tail, noted));
        if known.0.counter < tail.counter {
            *known = (tail, noted);
        }
    }

    /// Reads a journal to its end: one file, or what was rotated, oldest first.
    ///
    /// # Errors
    /// When a file can't be read, or none of it is a journal.
    pub(super) fn judge(
        mut self,
        journal: impl IntoIterator<Item = impl Read>,
    ) -> io::Result<Report> {
        let mut report = Report::default();
        let mut by_id = HashMap::new();
        for mut file in journal {
            self.read(&mut file, &mut by_id, &mut report)?;
        }
        if report.signatures == 0 && report.torn > 0 {
            let message = "it is no journal of a signer";
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        self.close(&mut report);
        Ok(report)
    }

    fn read(
        &mut self,
        file: &mut impl Read,
        by_id: &mut HashMap<[u8; 16], usize>,
        report: &mut Report,
    ) -> io::Result<()> {
        let mut octets = [0; ENTRY_LEN];
        loop {
            match fill(file, &mut octets)? {
                0 => return Ok(()),
                ENTRY_LEN => {}
                torn => {
                    report.torn += torn;
                    return Ok(());
                }
            }
            // What a signer was writing when it was killed: the next one filled it up.
            let Ok(entry) = Entry::decode(&octets) else {
                report.torn += ENTRY_LEN;
                continue;
            };
            report.signatures += 1;
            let known = report.instances.len();
            let at = *by_id.entry(entry.link.tail.instance).or_insert(known);
            if at == known {
                report.instances.push(Instance::new(&entry));
            }
            if let Some(instance) = report.instances.get_mut(at) {
                let proven = self.proven.get(&instance.id);
                instance.follow(&entry, self.head.as_ref(), proven.map(|(tail, _)| tail));
                if self.needs_record(&entry, &mut report.expired) {
                    instance.open.push(entry);
                }
            }
            if self.is_forked(&entry) {
                report.forked_count += 1;
                keep(&mut report.forked, entry);
            }
        }
    }

    /// Whether it is a head of another history than was signed for its position before.
    fn is_forked(&mut self, entry: &Entry) -> bool {
        let name = &entry.link.name;
        let (Some((place, _)), Some((_, hash))) =
            (name.split_first_chunk(), name.split_last_chunk())
        else {
            return false;
        };
        entry.link.what == What::Head && *self.heads.entry(*place).or_insert(*hash) != *hash
    }

    /// Whether an entry must have a record and has none.
    fn needs_record(&mut self, entry: &Entry, expired: &mut u64) -> bool {
        let (what, name) = (entry.link.what, entry.link.name);
        let bucket = match what {
            What::Certificate => match Serial::decode(&name) {
                Ok(serial) => serial.slot.bucket(),
                // The authority's own: `authority list` has them.
                Err(_) => return false,
            },
            What::Token => {
                let [.., a, b, c, d] = name;
                u32::from_be_bytes([a, b, c, d])
            }
            What::Head | What::Checkpoint | What::Crl | What::StatusList => return false,
        };
        if self.names.contains(&(what, name)) {
            self.found.insert((what, name));
            return false;
        }
        let over = bucket < self.floor;
        *expired += u64::from(over);
        !over
    }

    fn close(mut self, report: &mut Report) {
        let last = self.read_at - MEANWHILE;
        for instance in &mut report.instances {
            let ended = instance.last_at;
            for entry in instance.open.drain(..) {
                if entry.at >= last {
                    report.recent += 1;
                } else if ended.since(entry.at) < MEANWHILE {
                    report.unreturned_count += 1;
                    keep(&mut report.unreturned, entry);
                } else {
                    report.unrecorded_count += 1;
                    keep(&mut report.unrecorded, entry);
                }
            }
        }
        report.unsigned_count = (self.names.len() - self.found.len()) as u64;
        let unsigned = self.names.difference(&self.found);
        report.unsigned = unsigned.take(NAMED).copied().collect();
        report.unsigned.sort_unstable_by_key(|(_, name)| *name);
        if let Some(head) = self.head {
            let tail = SignerTail {
                instance: head.instance,
                counter: head.counter,
                hash: head.hash,
            };
            self.prove(tail, self.read_at);
        }
        self.find_cuts(report);
        report.set_back = match self.head {
            Some(head) => match report.instances.iter().find(|own| own.id == head.instance) {
                None => Some("the newest head is of a signer that is not in the journal"),
                Some(own) if !own.head_seen && own.signatures >= head.counter => {
                    Some("the newest head says something else than the journal")
                }
                Some(own) if !own.head_seen => Some("the journal ends before the newest head"),
                Some(_) => None,
            },
            None => None,
        };
    }
}

impl Records {
    /// Names each start of the signer whose entries end too early. What ended before the journal begins
    /// is in a file that was not given, or not kept: that is counted, for nothing tells it from one
    /// that was taken away.
    fn find_cuts(&self, report: &mut Report) {
        let begins = report.begins();
        for (tail, noted) in self.proven.values() {
            let own = report.instances.iter().find(|own| own.id == tail.instance);
            match own {
                Some(own) if own.last.link.tail.counter >= tail.counter => {}
                None if begins.is_some_and(|begins| *noted < begins) => report.older += 1,
                _ => report.cut.push(Cut {
                    instance: tail.instance,
                    last: own.map(|own| own.last),
                    proven: tail.counter,
                }),
            }
        }
        report.cut.sort_unstable_by_key(|cut| cut.instance);
    }
}

impl Report {
    /// When the first entry was made.
    fn begins(&self) -> Option<Timestamp> {
        self.instances.iter().map(|one| one.first_at).min()
    }

    /// Whether somebody must look.
    pub(super) fn is_alarming(&self) -> bool {
        self.unrecorded_count > 0
            || self.forked_count > 0
            || self.set_back.is_some()
            || !self.cut.is_empty()
            || self.instances.iter().any(Instance::is_wrong)
    }
}

impl Instance {
    fn new(first: &Entry) -> Self {
        Self {
            id: first.link.tail.instance,
            first_at: first.at,
            last_at: first.at,
            signatures: 0,
            broken_at: None,
            hash: [0; 32],
            last: *first,
            head_seen: false,
            contradicted: false,
            open: Vec::new(),
        }
    }

    /// Whether it is not what its signer wrote.
    fn is_wrong(&self) -> bool {
        self.broken_at.is_some() || self.contradicted
    }

    fn follow(&mut self, entry: &Entry, head: Option<&SignerChain>, proven: Option<&SignerTail>) {
        let mut tail = entry.link.tail;
        let stated = std::mem::replace(&mut tail.hash, self.hash);
        let follows = tail.counter == self.signatures + 1
            && link(&tail, entry.link.what, &entry.link.name) == stated;
        if !follows && self.broken_at.is_none() {
            self.broken_at = Some(self.signatures + 1);
        }
        self.signatures += 1;
        self.hash = stated;
        self.last_at = self.last_at.max(entry.at);
        if tail.counter >= self.last.link.tail.counter {
            self.last = *entry;
        }
        self.contradicted |=
            proven.is_some_and(|known| known.counter == tail.counter && known.hash != stated);
        self.head_seen |= head.is_some_and(|head| {
            head.instance == self.id && head.counter == tail.counter && head.hash == stated
        });
    }
}

fn keep(list: &mut Vec<Entry>, entry: Entry) {
    if list.len() < NAMED {
        list.push(entry);
    }
}

/// Fills as much of `into` as there is.
fn fill(from: &mut impl Read, into: &mut [u8; ENTRY_LEN]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = into.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests;
