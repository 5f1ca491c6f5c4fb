//! Receipts of ends: who has heard, who has not, and by when nobody accepts the task any more.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use taskmint_wire::task::{EndResponse, Hearer, Receipt, WaitRequest};

use super::api::Api;
use crate::exit::{Failure, NOT_HEARD};
use crate::output::{Field, Record};

/// Waits until all have heard of an end, with a line that says how far they are where somebody
/// looks at it. Returns the last receipt.
pub(super) async fn wait(
    api: &mut Api,
    response: &EndResponse,
    timeout: Option<Duration>,
) -> Result<Receipt, Failure> {
    let request = WaitRequest {
        task_id: response
            .task
            .as_ref()
            .map(|task| task.id.clone())
            .unwrap_or_default(),
        timeout_ms: timeout.map_or(0, taskmint_model::millis),
    };
    let mut receipts = api.wait(request).await?;
    let mut line = Line::new(std::io::stderr().is_terminal());
    loop {
        match receipts.message().await {
            Ok(Some(receipt)) if receipt.r#final => {
                line.done(&receipt);
                return Ok(receipt);
            }
            Ok(Some(receipt)) => line.show(&receipt),
            Ok(None) => {
                line.clear();
                let message = "the wait broke off: the task has ended, but who heard is not known";
                return Err(Failure::Other(anyhow::anyhow!(message)).coded(NOT_HEARD));
            }
            Err(status) => {
                line.clear();
                return Err(Failure::from(status).coded(NOT_HEARD));
            }
        }
    }
}

/// The failure if somebody has not heard.
pub(super) fn judge(receipt: &Receipt) -> Result<(), Failure> {
    if receipt.not_yet_count == 0 {
        return Ok(());
    }
    let mut names = receipt.not_yet.iter().map(describe).collect::<Vec<_>>();
    let more = usize::try_from(receipt.not_yet_count).unwrap_or(usize::MAX);
    let more = more.saturating_sub(names.len());
    if more > 0 {
        names.push(format!("and {more} more"));
    }
    Err(Failure::NotHeard {
        names,
        dead_everywhere_by_ms: receipt.dead_everywhere_by_ms,
    })
}

/// A receipt as it is printed.
pub(crate) fn record(receipt: &Receipt) -> Record {
    let hearers = |of: &[Hearer]| Field::Records(of.iter().map(hearer).collect());
    Record::new()
        .number("position", receipt.position)
        .instant("ended_at", receipt.ended_at_ms)
        .instant("dead_everywhere_by", receipt.dead_everywhere_by_ms)
        .number("applied_count", receipt.applied_count)
        .number("applied_by_relay_count", receipt.applied_by_relay_count)
        .number("not_yet_count", receipt.not_yet_count)
        .with("applied", hearers(&receipt.applied))
        .with("applied_by_relay", hearers(&receipt.applied_by_relay))
        .with("not_yet", hearers(&receipt.not_yet))
        .flag("final", receipt.r#final)
}

fn hearer(hearer: &Hearer) -> Record {
    Record::new()
        .text("spiffe_id", &hearer.spiffe_id)
        .text("name", &hearer.name)
        .number("sequence", hearer.sequence)
        .text("relay", &hearer.relay)
        .instant("left_at", hearer.left_at_ms)
}

fn describe(hearer: &Hearer) -> String {
    let mut text = hearer.spiffe_id.clone();
    if !hearer.name.is_empty() {
        text.push_str(&format!(" ({})", hearer.name.escape_default()));
    }
    if !hearer.relay.is_empty() {
        text.push_str(&format!(" by {}", hearer.relay));
    }
    if hearer.left_at_ms > 0 {
        text.push_str(", which left");
    }
    text
}

/// How far they are, in one line of standard error.
struct Line {
    is_seen: bool,
    shown: bool,
}

impl Line {
    fn new(is_seen: bool) -> Self {
        let shown = false;
        Self { is_seen, shown }
    }

    fn show(&mut self, receipt: &Receipt) {
        if self.is_seen {
            self.shown = true;
            self.put(&format!("\r\u{1b}[2K{}", progress(receipt)));
        }
    }

    fn done(&mut self, receipt: &Receipt) {
        self.clear();
        self.put(&format!("{}\n", progress(receipt)));
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            self.put("\r\u{1b}[2K");
        }
    }

    /// Whether it arrives changes nothing.
    fn put(&self, text: &str) {
        let mut to = std::io::stderr().lock();
        drop(to.write_all(text.as_bytes()).and_then(|()| to.flush()));
    }
}

fn progress(receipt: &Receipt) -> String {
    let heard = receipt.applied_count + receipt.applied_by_relay_count;
    let all = heard + receipt.not_yet_count;
    let by_relay = match receipt.applied_by_relay_count {
        0 => String::new(),
        some => format!(" ({some} by their relay's word)"),
    };
    format!("heard by {heard} of {all}{by_relay}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt() -> Receipt {
        let named = |name: &str| Hearer {
            spiffe_id: "spiffe://a/b".to_owned(),
            name: name.to_owned(),
            ..Default::default()
        };
        Receipt {
            position: 9,
            dead_everywhere_by_ms: 1_700_000_000_000,
            applied: vec![named("db")],
            not_yet: vec![
                Hearer {
                    relay: "spiffe://a/taskmint/node/x".to_owned(),
                    ..named("lo\u{1b}g")
                },
                Hearer {
                    left_at_ms: 5,
                    ..named("")
                },
            ],
            applied_count: 1,
            applied_by_relay_count: 2,
            not_yet_count: 40,
            ..Default::default()
        }
    }

    #[test]
    fn a_receipt_has_its_shape() {
        let json = record(&receipt()).json();
        assert_eq!(json["dead_everywhere_by"], "2023-11-14T22:13:20Z");
        assert_eq!(json["applied"][0]["name"], "db");
        assert_eq!(json["not_yet_count"], 40);
        assert!(json["not_yet"][0]["left_at"].is_null());
    }

    #[test]
    fn those_who_did_not_hear_are_named_and_the_exit_code_says_so() {
        let failure = judge(&receipt()).unwrap_err();
        assert_eq!(failure.code(), NOT_HEARD);
        let text = failure.text();
        for part in [
            "spiffe://a/b (lo\\u{1b}g) by spiffe://a/taskmint/node/x\n",
            "spiffe://a/b, which left\n",
            "and 38 more",
            "2023-11-14T22:13:20Z",
        ] {
            assert!(text.contains(part), "{text}");
        }
        let json = failure.json();
        assert_eq!(json["error"]["reason"], "NOT_HEARD");
        let all = Receipt {
            not_yet_count: 0,
            ..receipt()
        };
        judge(&all).unwrap();
    }

    #[test]
    fn progress_counts_a_relays_word_apart() {
        let text = progress(&receipt());
        assert_eq!(text, "heard by 3 of 43 (2 by their relay's word)");
    }
}
