//! `taskmint authority audit` (P24).

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use taskmint_client::Admin;
use taskmint_mint::SignerTail;
use taskmint_mint::journal::{Entry, TAIL_ACTION, What, token_name};
use taskmint_model::{Clock as _, SystemClock, Timestamp};
use taskmint_status::Head;
use taskmint_wire::admin;

use super::journal::{Records, Report};
use crate::context::Context;
use crate::exit::Failure;
use crate::output::{Record, note};

/// Records of one call.
const PAGE: u32 = 1000;

pub(super) async fn run(
    admin: &mut Admin,
    journal: &[PathBuf],
    context: &mut Context,
) -> Result<(), Failure> {
    let files = journal.iter().map(|path| open(path));
    let files = files.collect::<Result<Vec<_>, _>>()?;
    // The records first, the journal then: what is signed meanwhile is too new to be judged.
    let records = records(admin).await?;
    let report = records
        .judge(files)
        .map_err(|error| Failure::usage(format!("cannot read the journal: {error}")))?;
    context.out.one(&record(&report))?;
    if !report.is_alarming() {
        return Ok(());
    }
    Err(Failure::Refused {
        reason: "JOURNAL_DISAGREES".to_owned(),
        message: "the signer's journal and the server's records disagree".to_owned(),
    })
}

fn open(path: &Path) -> Result<BufReader<File>, Failure> {
    let shown = path.display();
    let cannot = |error| Failure::usage(format!("cannot read `{shown}`: {error}"));
    let file = File::open(path).map_err(cannot)?;
    Ok(BufReader::with_capacity(1 << 20, file))
}

async fn records(admin: &mut Admin) -> Result<Records, Failure> {
    let read_at = SystemClock.now();
    // The head before the records: the journal, read last, has it for certain.
    let request = admin::GetStatusRequest {};
    let status = admin.get_status(request).await?.into_inner();
    let head = Head::decode(&status.head).ok().map(|head| head.signer);
    let mut records = Records::new(read_at, status.floor, head);
    prove(admin, &mut records).await?;
    let (mut page_token, mut count) = (String::new(), 0);
    loop {
        let request = admin::ListIssuancesRequest {
            page_size: PAGE,
            page_token,
        };
        let page = admin.list_issuances(request).await?.into_inner();
        count += page.issuances.len();
        for issuance in &page.issuances {
            if let Some((what, name)) = name(issuance) {
                records.add(what, name);
            }
        }
        if page.next_page_token.is_empty() {
            return Ok(records);
        }
        if count % 100_000 == 0 {
            note(format_args!("{count} records read"));
        }
        page_token = page.next_page_token;
    }
}

/// Reads how far the server knows each start of the signer to have counted.
async fn prove(admin: &mut Admin, records: &mut Records) -> Result<(), Failure> {
    let mut from = 1;
    while from > 0 {
        let request = admin::ListAuditRequest {
            from,
            page_size: PAGE,
            action: TAIL_ACTION.to_owned(),
        };
        let page = admin.list_audit(request).await?.into_inner();
        for line in &page.lines {
            if let Some(tail) = tail(&line.resource) {
                records.prove(tail, Timestamp::from_millis(line.at_ms));
            }
        }
        from = page.next_from;
    }
    Ok(())
}

fn tail(words: &str) -> Option<SignerTail> {
    let mut words = words.split(' ');
    let mut tail = SignerTail::default();
    hex::decode_to_slice(words.next()?, &mut tail.instance).ok()?;
    tail.counter = words.next()?.parse().ok()?;
    hex::decode_to_slice(words.next()?, &mut tail.hash).ok()?;
    Some(tail)
}

fn name(issuance: &admin::Issuance) -> Option<(What, [u8; 20])> {
    let serial: [u8; 20] = issuance.serial.as_slice().try_into().ok()?;
    match issuance.kind.as_str() {
        "x509" => Some((What::Certificate, serial)),
        "jwt" => {
            let jti = serial.first_chunk::<16>()?;
            Some((What::Token, token_name(jti, issuance.bucket)))
        }
        _ => None,
    }
}

fn record(report: &Report) -> Record {
    let instances = report.instances.iter().map(|one| {
        let broken = one.broken_at.map_or(String::new(), |at| {
            format!(", does NOT follow from number {at} on")
        });
        format!(
            "{}: {} signatures, {} to {}{broken}",
            hex::encode(one.id),
            one.signatures,
            one.first_at,
            one.last_at,
        )
    });
    let cut = report.cut.iter().map(|cut| {
        let instance = hex::encode(cut.instance);
        let last = cut.last.as_ref().map_or_else(
            || "nothing of it is there".to_owned(),
            |last| {
                format!(
                    "the last is number {}, {}",
                    last.link.tail.counter,
                    in_words(last)
                )
            },
        );
        format!(
            "{instance}: {last}, but it counted to {} at least",
            cut.proven
        )
    });
    let names = |entries: &[Entry]| -> Vec<String> { entries.iter().map(in_words).collect() };
    let unsigned = report.unsigned.iter();
    let unsigned = unsigned.map(|(what, name)| named(*what, name));
    Record::new()
        .flag("agrees", !report.is_alarming())
        .number("signatures", report.signatures)
        .number("signed_without_record", report.unrecorded_count)
        .lines("without_record", &names(&report.unrecorded))
        .number("not_returned", report.unreturned_count)
        .lines("left_by_a_kill", &names(&report.unreturned))
        .number("perhaps_issued", report.unsigned_count)
        .lines("in_no_journal", &unsigned.collect::<Vec<_>>())
        .number("second_heads", report.forked_count)
        .lines("positions_with_two_heads", &names(&report.forked))
        .number("too_new", report.recent)
        .number("swept", report.expired)
        .number("torn_octets", report.torn as u64)
        .text("set_back", report.set_back.unwrap_or_default())
        .lines("cut_off", &cut.collect::<Vec<_>>())
        .number("older_signers", report.older)
        .lines("signers", &instances.collect::<Vec<_>>())
}

fn in_words(entry: &Entry) -> String {
    let name = named(entry.link.what, &entry.link.name);
    format!("{name} at {}", entry.at)
}

fn named(what: What, name: &[u8; 20]) -> String {
    let text = hex::encode(name);
    match what {
        What::Token => format!("token {}", text.get(..32).unwrap_or(&text)),
        What::Head => {
            let [_, _, _, _, _, _, a, b, c, d, e, f, ..] = *name;
            let sequence = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
            format!("head at {sequence}")
        }
        _ => format!("certificate {text}"),
    }
}
