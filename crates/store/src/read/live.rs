//! Reading what is live by its index, and never all of it.

use std::collections::BTreeSet;

use taskmint_model::{TaskId, Timestamp};
use taskmint_status::Place;

use super::ledger;
use crate::port::StoreError;
use crate::rows::{Key, Row, View, misplaced, span};

/// The earliest deadlines. They lie by bucket, so that a sweep takes them: each bucket is read up to
/// where it has nothing earlier than what was found before.
pub(super) fn due(
    view: &dyn View,
    until: Timestamp,
    max: usize,
) -> Result<Vec<(Timestamp, TaskId)>, StoreError> {
    let mut found = BTreeSet::new();
    let mut next = (max > 0).then_some(ledger(view)?.floor);
    while let Some(from) = next.take() {
        let mut bucket = None;
        view.scan(span::due(from), &mut |key, row| {
            let (Key::Due(of, at, _), Row::Due(id)) = (&key, &row) else {
                return Err(misplaced(&key, &row));
            };
            if *bucket.get_or_insert(*of) != *of {
                next = Some(*of);
                return Ok(false);
            }
            let is_late = |last: &(Timestamp, TaskId)| found.len() >= max && *at > last.0;
            if *at > until || found.last().is_some_and(is_late) {
                next = of.checked_add(1);
                return Ok(false);
            }
            found.insert((*at, *id));
            if found.len() > max {
                found.pop_last();
            }
            Ok(true)
        })?;
    }
    Ok(found.into_iter().collect())
}

pub(super) fn held(
    view: &dyn View,
    by: &str,
    after: Option<TaskId>,
    max: usize,
) -> Result<Vec<TaskId>, StoreError> {
    let floor = ledger(view)?.floor;
    let mut found = Vec::new();
    view.scan(span::held(by, after), &mut |key, row| {
        let (Key::Held(_, id), Row::Held(slot)) = (&key, &row) else {
            return Err(misplaced(&key, &row));
        };
        // Compaction drops what was swept within a day; until then it reads as absent.
        if found.len() < max && slot.bucket() >= floor && Some(*id) != after {
            found.push(*id);
        }
        Ok(found.len() < max)
    })?;
    Ok(found)
}

pub(super) fn count(view: &dyn View) -> Result<u64, StoreError> {
    let floor = ledger(view)?.floor;
    let mut sum = 0;
    view.scan(span::live(), &mut |key, row| {
        let (Key::Live(bucket), Row::Live(count)) = (&key, &row) else {
            return Err(misplaced(&key, &row));
        };
        if *bucket >= floor {
            sum += count;
        }
        Ok(true)
    })?;
    Ok(sum)
}

pub(super) fn last_expiries(
    view: &dyn View,
    places: &[Place],
    max: usize,
) -> Result<Vec<Option<Timestamp>>, StoreError> {
    let of = |place: &Place| {
        let (mut last, mut seen) = (Timestamp::default(), 0);
        view.scan(span::issuances(place.slot()), &mut |key, row| {
            let Row::Issuance(issuance) = row else {
                return Err(misplaced(&key, &row));
            };
            seen += 1;
            // After a restore the slot may hold what another log minted.
            if issuance.place == *place {
                last = last.max(issuance.expires_at);
            }
            Ok(seen <= max)
        })?;
        Ok((seen <= max).then_some(last))
    };
    places.iter().map(of).collect()
}
