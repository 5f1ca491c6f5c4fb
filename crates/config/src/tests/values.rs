use std::time::Duration;

use proptest::prelude::*;

use crate::types::{Address, Fingerprint, LogFilter, PublicUrl};
use crate::value::{Raw, Value};

/// Whether a text is read as a `T`.
fn reads<T: Value>(text: &str) -> bool {
    T::read(Raw::Text(text)).is_ok()
}

#[test]
fn durations_are_whole_numbers_with_units_larger_first() {
    let cases = [
        ("0s", 0),
        ("500ms", 500),
        ("90s", 90_000),
        ("1h30m", 5_400_000),
        ("1d12h", 129_600_000),
        ("1m1ms", 60_001),
    ];
    for (text, millis) in cases {
        let read = Duration::read(Raw::Text(text)).expect(text);
        assert_eq!(read, Duration::from_millis(millis));
    }
    let refused = [
        "",
        "10",
        "m",
        "10 m",
        "-1s",
        "1.5h",
        "30m1h",
        "1h1h",
        "1w",
        "1H",
        "99999999999999999999s",
        "9999999999999999999d",
        "1h30",
        "\u{661}s",
    ];
    for text in refused {
        assert!(!reads::<Duration>(text), "{text}");
    }
}

#[test]
fn addresses_are_a_host_and_a_port() {
    for text in [
        "a:1",
        "taskmint.example.org:8441",
        "127.0.0.1:1",
        "[::1]:65535",
    ] {
        let address = Address::read(Raw::Text(text)).expect(text);
        assert_eq!(address.to_string(), text);
    }
    for text in [
        "",
        "a",
        "a:",
        ":1",
        "a:0",
        "a:65536",
        "a:+1",
        "::1:1",
        "[a]:1",
        "256.0.0.1:1",
        "a b:1",
        "-a:1",
        "a..b:1",
        "https://a:1",
    ] {
        assert!(!reads::<Address>(text), "{text}");
    }
}

#[test]
fn a_public_url_is_a_plain_prefix() {
    for text in [
        "https://a.org",
        "https://a.org:444",
        "https://a.org/b/c",
        "https://[::1]:1/b",
        "http://127.0.0.1:80",
    ] {
        assert!(reads::<PublicUrl>(text), "{text}");
    }
    for text in [
        "",
        "a.org",
        "ftp://a.org",
        "https://",
        "https:///a",
        "https://a.org/",
        "https://a.org/b/",
        "https://a.org/b?c",
        "https://a.org/b#c",
        "https://u@a.org",
        "https://a.org:x",
        "https://a.org/%2e",
    ] {
        assert!(!reads::<PublicUrl>(text), "{text}");
    }
}

#[test]
fn a_log_filter_is_levels() {
    for text in [
        "info",
        "off",
        "info,taskmint_issuer=debug",
        "taskmint_store::writer=trace,warn",
    ] {
        assert!(reads::<LogFilter>(text), "{text}");
    }
    for text in [
        "",
        "loud",
        "info,",
        "=info",
        "a=b",
        "a=info=debug",
        "a b=info",
    ] {
        assert!(!reads::<LogFilter>(text), "{text}");
    }
}

#[test]
fn a_fingerprint_is_32_bytes() {
    assert!(reads::<Fingerprint>(&"aF".repeat(32)));
    for text in [
        String::new(),
        "a".repeat(63),
        "a".repeat(66),
        "g".repeat(64),
    ] {
        assert!(!reads::<Fingerprint>(&text), "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_duration_that_is_shown_is_read_back(millis in prop_oneof![0..10_000_u64, any::<u32>().prop_map(|s| u64::from(s) * 1000), any::<u64>()]) {
        let duration = Duration::from_millis(millis);
        let shown = duration.show();
        let read = Duration::read(Raw::Text(shown.trim_matches('"'))).expect("readable");
        prop_assert_eq!(read, duration);
    }

    #[test]
    fn a_string_that_is_shown_is_read_back(text in any::<String>()) {
        let document = format!("x = {}", text.show());
        let table = toml::de::DeTable::parse(&document).expect("TOML");
        let value = table.get_ref().get("x").expect("the key");
        prop_assert_eq!(value.get_ref().as_str(), Some(text.as_str()));
    }

    #[test]
    fn no_text_panics(text in ".{0,40}") {
        reads::<Duration>(&text);
        reads::<Address>(&text);
        reads::<PublicUrl>(&text);
        reads::<LogFilter>(&text);
    }
}
