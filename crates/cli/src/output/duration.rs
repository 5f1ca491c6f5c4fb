//! Lifetimes as people write them.

use std::time::Duration;

/// Largest first; a number without a unit is refused, since everybody guesses another.
const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Reads `10m`, `1h30m`, `500ms`.
///
/// # Errors
/// What is wrong, for people.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration: write `10m`, `90s`, `1h30m` or `500ms`");
    let mut rest = text.trim();
    let mut total: u64 = 0;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let (digits, after) =
            rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?);
        let (unit, after) = after.split_at(
            after
                .find(|c: char| c.is_ascii_digit())
                .unwrap_or(after.len()),
        );
        let (_, factor) = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(wrong)?;
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        let part = number.checked_mul(*factor).ok_or_else(wrong)?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = after;
    }
    if total == 0 {
        return Err(format!("`{text}` is no time at all: write at least `1ms`"));
    }
    Ok(Duration::from_millis(total))
}

/// Writes milliseconds so that [`parse_duration`] reads them back.
pub fn show_duration(millis: u64) -> String {
    let mut text = String::new();
    let mut rest = millis;
    for (unit, factor) in UNITS {
        let count = rest / factor;
        rest %= factor;
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
        }
    }
    if text.is_empty() {
        "0s".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_shown_can_be_read(millis in 1..u64::MAX / 2) {
            let read = parse_duration(&show_duration(millis)).unwrap();
            prop_assert_eq!(read, Duration::from_millis(millis));
        }
    }

    #[test]
    fn durations_have_units() {
        let table = [
            ("10m", 600_000),
            ("1h30m", 5_400_000),
            ("500ms", 500),
            (" 2d ", 172_800_000),
        ];
        for (text, millis) in table {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for text in [
            "",
            "10",
            "m",
            "-1s",
            "1w",
            "1.5h",
            "0s",
            "99999999999999999999s",
            "1h 30m",
            "é1s",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
