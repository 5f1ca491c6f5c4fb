use taskmint_mint::SignerTail;
use taskmint_mint::journal::{Link, head_name, token_name};
use taskmint_status::{Generation, Slot};

use super::*;

const NOW: u64 = 1_000_000_000_000;
const BUCKET: u32 = 500_000;

/// A journal as a signer writes it.
struct Written {
    tail: SignerTail,
    octets: Vec<u8>,
}

impl Written {
    fn by(instance: u8) -> Self {
        Self {
            tail: SignerTail {
                instance: [instance; 16],
                counter: 0,
                hash: [0; 32],
            },
            octets: Vec::new(),
        }
    }

    fn sign(&mut self, what: What, name: [u8; 20], seconds_ago: u64) {
        self.tail.counter += 1;
        self.tail.hash = link(&self.tail, what, &name);
        let link = Link {
            tail: self.tail,
            what,
            name,
        };
        let at = Timestamp::from_millis(NOW) - Duration::from_secs(seconds_ago);
        self.octets.extend_from_slice(&Entry { link, at }.encode());
    }

    fn head(&self) -> SignerChain {
        SignerChain {
            instance: self.tail.instance,
            counter: self.tail.counter,
            hash: self.tail.hash,
        }
    }
}

fn serial(number: u8) -> [u8; 20] {
    Serial {
        generation: Generation::FIRST,
        slot: Slot::new(BUCKET, number.into()).unwrap(),
        random: [number; 9],
    }
    .encode()
}

fn records(of: &[(What, [u8; 20])], head: Option<SignerChain>) -> Records {
    let mut records = Records::new(Timestamp::from_millis(NOW), BUCKET, head);
    of.iter().for_each(|(what, name)| records.add(*what, *name));
    records
}

fn judged(records: Records, journal: &[u8]) -> Report {
    records.judge([journal]).unwrap()
}

#[test]
fn a_journal_and_records_that_agree_alarm_nobody() {
    let mut journal = Written::by(1);
    let token = token_name(&[7; 16], BUCKET);
    journal.sign(What::Certificate, serial(1), 100);
    journal.sign(What::Token, token, 90);
    journal.sign(What::Head, [0; 20], 80);
    let own = [(What::Certificate, serial(1)), (What::Token, token)];
    let report = judged(records(&own, Some(journal.head())), &journal.octets);
    assert!(!report.is_alarming());
    assert_eq!((report.signatures, report.unsigned_count), (3, 0));
}

#[test]
fn what_was_signed_without_a_record_is_named() {
    let mut journal = Written::by(1);
    journal.sign(What::Certificate, serial(1), 100);
    journal.sign(What::Certificate, serial(2), 90);
    journal.sign(What::Head, [0; 20], 20);
    let own = [(What::Certificate, serial(2))];
    let report = judged(records(&own, Some(journal.head())), &journal.octets);
    assert!(report.is_alarming());
    let named: Vec<_> = report.unrecorded.iter().map(|e| e.link.name).collect();
    assert_eq!(named, [serial(1)]);
}

#[test]
fn what_a_kill_left_behind_is_listed_and_alarms_nobody() {
    let (mut killed, mut next) = (Written::by(1), Written::by(2));
    killed.sign(What::Head, [0; 20], 300);
    killed.sign(What::Certificate, serial(1), 295);
    next.sign(What::Head, [0; 20], 100);
    let journal = [killed.octets.as_slice(), &next.octets].concat();
    let report = judged(records(&[], Some(next.head())), &journal);
    assert!(!report.is_alarming());
    assert_eq!((report.unreturned_count, report.unrecorded_count), (1, 0));
    assert_eq!(report.unreturned[0].link.name, serial(1));
}

#[test]
fn what_is_being_issued_is_too_new_to_be_judged() {
    let mut journal = Written::by(1);
    journal.sign(What::Certificate, serial(1), 1);
    let report = judged(records(&[], Some(journal.head())), &journal.octets);
    assert_eq!((report.recent, report.is_alarming()), (1, false));
}

#[test]
fn gaps_and_changed_entries_are_found() {
    let mut journal = Written::by(1);
    (0..4).for_each(|_| journal.sign(What::Head, [0; 20], 100));
    let mut gap = journal.octets.clone();
    gap.drain(ENTRY_LEN..2 * ENTRY_LEN);
    let report = judged(records(&[], None), &gap);
    assert_eq!(report.instances[0].broken_at, Some(2));
    let mut changed = journal.octets.clone();
    changed[2 * ENTRY_LEN + 30] ^= 1;
    let report = judged(records(&[], None), &changed);
    assert_eq!(report.instances[0].broken_at, Some(3));
    assert!(report.is_alarming());
}

#[test]
fn a_journal_that_was_set_back_contradicts_the_newest_head() {
    let mut journal = Written::by(1);
    (0..4).for_each(|_| journal.sign(What::Head, [0; 20], 100));
    let head = Some(journal.head());
    let short = &journal.octets[..3 * ENTRY_LEN];
    assert!(judged(records(&[], head), short).set_back.is_some());
    assert!(judged(records(&[], head), &[]).set_back.is_some());
    let mut other = Written::by(1);
    (0..5).for_each(|_| other.sign(What::Head, [1; 20], 100));
    assert!(judged(records(&[], head), &other.octets).set_back.is_some());
    assert!(
        judged(records(&[], head), &journal.octets)
            .set_back
            .is_none()
    );
}

#[test]
fn a_torn_end_is_said_and_what_is_swept_is_not_asked_for() {
    let mut journal = Written::by(1);
    let old = token_name(&[7; 16], BUCKET - 1);
    journal.sign(What::Token, old, 100);
    let mut octets = journal.octets.clone();
    octets.extend_from_slice(&[0; 5]);
    let report = judged(records(&[], None), &octets);
    assert_eq!((report.torn, report.expired), (5, 1));
    assert!(!report.is_alarming());
    // The next signer fills it up, and goes on behind it.
    octets.truncate(ENTRY_LEN + 5);
    octets.resize(2 * ENTRY_LEN, 0xff);
    let mut next = Written::by(2);
    next.sign(What::Head, [0; 20], 90);
    octets.extend_from_slice(&next.octets);
    let report = judged(records(&[], Some(next.head())), &octets);
    assert_eq!((report.torn, report.signatures), (ENTRY_LEN, 2));
    assert!(!report.is_alarming());
}

#[test]
fn what_is_no_journal_is_an_error() {
    let nonsense = [9; 2 * ENTRY_LEN];
    assert!(records(&[], None).judge([&nonsense[..]]).is_err());
}

#[test]
fn a_rotated_journal_is_read_as_one() {
    let (mut first, mut next) = (Written::by(1), Written::by(2));
    first.sign(What::Certificate, serial(1), 300);
    next.sign(What::Certificate, serial(2), 100);
    let head = Some(next.head());
    let own = [
        (What::Certificate, serial(1)),
        (What::Certificate, serial(2)),
    ];
    // The signer was killed while it wrote: what it left is not filled up in another file.
    first.octets.extend_from_slice(&[0; 5]);
    let files = [first.octets.as_slice(), &next.octets];
    let report = records(&own, head).judge(files).unwrap();
    assert!(!report.is_alarming());
    assert_eq!((report.torn, report.unsigned_count), (5, 0));
    // Of what is in none of the files, somebody has to know the rest.
    let report = judged(records(&own, head), &next.octets);
    assert_eq!(report.unsigned, [(What::Certificate, serial(1))]);
}

#[test]
fn two_heads_for_one_position_are_an_alarm() {
    let (mut one, mut other) = (Written::by(1), Written::by(2));
    let head = |log, sequence, history| head_name(&[log; 8], sequence, &[history; 32]);
    one.sign(What::Head, head(1, 7, 1), 300);
    // The same again is a heartbeat, and another log has positions of its own.
    one.sign(What::Head, head(1, 7, 1), 290);
    one.sign(What::Head, head(2, 7, 2), 280);
    one.sign(What::Head, head(1, 8, 2), 270);
    let report = judged(records(&[], Some(one.head())), &one.octets);
    assert!(!report.is_alarming());
    // A front end that set the log back for another start of the signer.
    other.sign(What::Head, head(1, 7, 9), 100);
    let journal = [one.octets.as_slice(), &other.octets].concat();
    let report = judged(records(&[], Some(other.head())), &journal);
    assert!(report.is_alarming());
    assert_eq!(report.forked_count, 1);
    assert_eq!(report.forked[0].link.name, head(1, 7, 9));
}

fn noted(records: &mut Records, journal: &Written, seconds_ago: u64) {
    let at = Timestamp::from_millis(NOW) - Duration::from_secs(seconds_ago);
    records.prove(journal.tail, at);
}

#[test]
fn an_earlier_signer_whose_end_was_cut_off_is_named() {
    let (mut earlier, mut next) = (Written::by(1), Written::by(2));
    (0..4).for_each(|_| earlier.sign(What::Head, [0; 20], 300));
    let kept = earlier.octets.clone();
    let last = earlier.tail;
    (0..3).for_each(|_| earlier.sign(What::Head, [0; 20], 290));
    next.sign(What::Head, [0; 20], 100);
    let whole = [earlier.octets.as_slice(), &next.octets].concat();
    let cut = [kept.as_slice(), &next.octets].concat();
    let judged = |journal: &[u8]| {
        let mut records = records(&[], Some(next.head()));
        noted(&mut records, &earlier, 285);
        judged(records, journal)
    };
    assert!(!judged(&whole).is_alarming());
    let report = judged(&cut);
    assert!(report.is_alarming());
    assert_eq!(report.set_back, None, "the newest head knows nothing of it");
    let [found] = &report.cut[..] else {
        panic!("{:?}", report.cut)
    };
    assert_eq!((found.instance, found.proven), ([1; 16], 7));
    assert_eq!(found.last.unwrap().link.tail, last);
    // And one that was taken out altogether.
    let (mut first, mut none) = (Written::by(3), whole.clone());
    first.sign(What::Head, [0; 20], 400);
    none.splice(..7 * ENTRY_LEN, first.octets);
    let [found] = &judged(&none).cut[..] else {
        panic!("none is named")
    };
    assert!(found.last.is_none() && found.proven == 7);
}

#[test]
fn another_history_of_an_earlier_signer_is_an_alarm() {
    let (mut told, mut shown) = (Written::by(1), Written::by(1));
    told.sign(What::Head, [1; 20], 300);
    shown.sign(What::Head, [2; 20], 300);
    let mut records = records(&[], None);
    noted(&mut records, &told, 290);
    let report = judged(records, &shown.octets);
    assert!(report.is_alarming() && report.cut.is_empty());
    assert_eq!(report.instances[0].broken_at, None);
}

#[test]
fn signers_from_before_the_journal_begins_are_counted_and_alarm_nobody() {
    let (mut old, mut next) = (Written::by(1), Written::by(2));
    old.sign(What::Head, [0; 20], 900);
    next.sign(What::Head, [0; 20], 100);
    let mut records = records(&[], Some(next.head()));
    noted(&mut records, &old, 800);
    let report = judged(records, &next.octets);
    assert_eq!((report.older, report.is_alarming()), (1, false));
}
