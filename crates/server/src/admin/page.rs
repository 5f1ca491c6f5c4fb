//! Pages: how many items, and the place after which the next page begins.

use taskmint_status::{LogId, Place};
use taskmint_wire::BadField;

use super::MAX_ENTRIES;

pub(super) fn write(place: Place) -> String {
    format!(
        "{}.{}.{}",
        hex::encode(place.log().0),
        place.bucket(),
        place.index()
    )
}

pub(super) fn read(token: &str) -> Result<Option<Place>, BadField> {
    if token.is_empty() {
        return Ok(None);
    }
    let parse = || {
        let mut parts = token.splitn(3, '.');
        let log: [u8; 8] = hex::decode(parts.next()?).ok()?.try_into().ok()?;
        let (bucket, index) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Place::new(LogId(log), bucket, index).ok()
    };
    parse()
        .map(Some)
        .ok_or_else(|| BadField::new("page_token", "is not one of ours"))
}

/// After an issuance: its place, and its number in the whole store.
pub(super) fn write_issuance(place: Place, number: u64) -> String {
    format!("{number}.{}", write(place))
}

pub(super) fn read_issuance(token: &str) -> Result<Option<(Place, u64)>, BadField> {
    if token.is_empty() {
        return Ok(None);
    }
    let bad = || BadField::new("page_token", "is not one of ours");
    let (number, place) = token.split_once('.').ok_or_else(bad)?;
    let place = read(place)?.ok_or_else(bad)?;
    Ok(Some((place, number.parse().map_err(|_| bad())?)))
}

/// How many items a page holds that was asked for so.
pub(super) fn size(asked: u32) -> usize {
    match usize::try_from(asked) {
        Ok(0) | Err(_) => 200,
        Ok(size) => size.min(MAX_ENTRIES),
    }
}
