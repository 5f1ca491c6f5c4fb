use std::time::Duration;

use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use proptest::prelude::*;

use super::*;

const HEADER: &str = r#"{"alg":"ES256","kid":"k1","typ":"JWT"}"#;
const PAYLOAD: &str =
    r#"{"sub":"spiffe://example.org/a","aud":["x","y"],"exp":1000,"https://c":{"d":1}}"#;

fn signing_key() -> (SigningKey, P256PublicKey) {
    let signing = SigningKey::from_slice(&[7; 32]).unwrap();
    let point = signing.verifying_key().to_sec1_point(false);
    (
        signing.clone(),
        P256PublicKey::from_sec1(point.as_bytes()).unwrap(),
    )
}

fn token(header: &str, payload: &str) -> String {
    let input = [header, payload]
        .map(|part| URL_SAFE_NO_PAD.encode(part))
        .join(".");
    let signature: Signature = signing_key().0.sign(input.as_bytes());
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
}

fn header_error(header: &str) -> String {
    UnverifiedToken::parse(&token(header, PAYLOAD))
        .unwrap_err()
        .to_string()
}

fn claims(payload: &str) -> Result<Claims, TokenError> {
    UnverifiedToken::parse(&token(HEADER, payload)).map(|token| token.claims)
}

/// The sample payload with one claim put in the place of another.
fn swapped(from: &str, to: &str) -> Result<Claims, TokenError> {
    assert!(PAYLOAD.contains(from), "{from}");
    claims(&PAYLOAD.replace(from, to))
}

#[test]
fn a_token_is_read_and_its_signature_checked() {
    let text = token(HEADER, PAYLOAD);
    let parsed = UnverifiedToken::parse(&text).unwrap();
    assert_eq!(parsed.header.algorithm, Algorithm::Es256);
    assert_eq!(parsed.header.key_id.as_deref(), Some("k1"));
    assert_eq!(parsed.header.kind, Some(Type::Jwt));
    assert_eq!(parsed.claims.subject.as_str(), "spiffe://example.org/a");
    assert_eq!(parsed.claims.audience, ["x", "y"]);
    assert_eq!(parsed.claims.raw["https://c"]["d"], 1);
    assert_eq!(verify_es256(&parsed, &signing_key().1), Ok(()));
}

#[test]
fn a_token_that_was_changed_or_is_of_another_algorithm_does_not_verify() {
    let key = signing_key().1;
    let genuine = token(HEADER, PAYLOAD);
    let signature = genuine.rsplit_once('.').unwrap().1;
    let forged = token(HEADER, &PAYLOAD.replace("org/a", "org/b"));
    let forged = format!("{}.{signature}", forged.rsplit_once('.').unwrap().0);
    let forged = UnverifiedToken::parse(&forged).unwrap();
    assert_eq!(verify_es256(&forged, &key), Err(SignatureError));
    let other = token(r#"{"alg":"ES384"}"#, PAYLOAD);
    let other = UnverifiedToken::parse(&other).unwrap();
    assert_eq!(verify_es256(&other, &key), Err(SignatureError));
}

#[test]
fn only_the_nine_algorithms_are_read_and_by_their_exact_names() {
    let nine = [
        "RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512",
    ];
    for name in nine {
        let text = token(&format!(r#"{{"alg":"{name}"}}"#), PAYLOAD);
        assert_eq!(
            UnverifiedToken::parse(&text)
                .unwrap()
                .header
                .algorithm
                .name(),
            name
        );
    }
    for name in [
        "none", "None", "HS256", "HS384", "EdDSA", "ES256K", "es256", "", "ES256 ",
    ] {
        let error = header_error(&format!(r#"{{"alg":"{name}"}}"#));
        assert_eq!(error, format!("token algorithm `{name}` is not allowed"));
    }
    assert_eq!(header_error("{}"), "token names no algorithm");
    assert_eq!(
        header_error(r#"{"alg":1}"#),
        "token header member `alg` is not a string"
    );
}

#[test]
fn a_bad_algorithm_is_refused_before_the_payload_is_looked_at() {
    let text = token(r#"{"alg":"HS256"}"#, "not json");
    assert!(matches!(
        UnverifiedToken::parse(&text),
        Err(TokenError::Algorithm(_))
    ));
}

#[test]
fn the_header_has_three_members_and_no_more() {
    for name in [
        "jku", "jwk", "x5c", "x5t", "cty", "crit", "b64", "zip", "KID",
    ] {
        let error = header_error(&format!(r#"{{"alg":"ES256","{name}":"x"}}"#));
        assert_eq!(error, format!("token header has the member `{name}`"));
    }
    assert_eq!(
        header_error(r#"{"alg":"ES256","kid":1}"#),
        "token header member `kid` is not a string"
    );
    assert!(header_error(r#"{"alg":"ES256","alg":"none"}"#).contains("not json"));
    for name in ["at+jwt", "wit+jwt", "jwt", "jose", ""] {
        let error = header_error(&format!(r#"{{"alg":"ES256","typ":"{name}"}}"#));
        assert_eq!(error, format!("token type `{name}` is not allowed"));
    }
    for kind in ["JWT", "JOSE"] {
        let text = token(&format!(r#"{{"alg":"ES256","typ":"{kind}"}}"#), PAYLOAD);
        assert!(UnverifiedToken::parse(&text).is_ok());
    }
}

#[test]
fn a_token_is_three_parts_in_strict_base64url() {
    let good = token(HEADER, PAYLOAD);
    let parts = |text: &str| UnverifiedToken::parse(text).unwrap_err();
    let json = r#"{"payload":"e30","signatures":[{"protected":"e30","signature":"e30"}]}"#;
    for text in ["", "a", "a.b", "a.b.c.d", json, &format!("{good}.")] {
        assert!(matches!(parts(text), TokenError::Parts), "{text}");
    }
    let unsigned = good.rsplit_once('.').unwrap().0;
    assert!(matches!(
        parts(&format!("{unsigned}.")),
        TokenError::NotSigned
    ));
    for text in [
        format!("{good}="),
        format!("{good} "),
        format!(" {good}"),
        format!("{good}\n"),
    ] {
        assert!(matches!(parts(&text), TokenError::Base64(_)), "{text}");
    }
    assert!(matches!(
        parts("e30.e30+.e30"),
        TokenError::Base64(Part::Payload)
    ));
    // `e31` decodes to the same bytes as `e30` where spare bits are not looked at.
    assert!(matches!(
        parts("e31.e30.e30"),
        TokenError::Base64(Part::Header)
    ));
    assert!(matches!(
        parts("W10.e30.e30"),
        TokenError::NotAnObject(Part::Header)
    ));
    assert!(matches!(
        parts(&token(HEADER, "[]")),
        TokenError::NotAnObject(Part::Payload)
    ));
}

#[test]
fn a_token_has_at_most_16_kib() {
    let padded = |length: usize| {
        let payload = PAYLOAD.replace("{\"d\":1}", &format!("\"{}\"", "a".repeat(length)));
        token(HEADER, &payload)
    };
    let room = (MAX_TOKEN - padded(0).len()) / 4 * 3;
    assert!(UnverifiedToken::parse(&padded(room - 3)).is_ok());
    let error = UnverifiedToken::parse(&padded(room + 3)).unwrap_err();
    assert!(matches!(error, TokenError::TooLong { .. }));
}

#[test]
fn the_subject_is_a_spiffe_id_with_a_path() {
    let sub = r#""spiffe://example.org/a""#;
    assert!(matches!(
        swapped(sub, "\"a\""),
        Err(TokenError::Subject(SpiffeIdError::Scheme))
    ));
    assert!(matches!(
        swapped(sub, "\"spiffe://Example.org/a\""),
        Err(TokenError::Subject(_))
    ));
    assert!(matches!(
        swapped(sub, "\"spiffe://example.org\""),
        Err(TokenError::SubjectRoot)
    ));
    assert!(matches!(
        swapped(sub, "1"),
        Err(TokenError::ClaimType("sub"))
    ));
    assert!(matches!(
        swapped("\"sub\"", "\"Sub\""),
        Err(TokenError::ClaimMissing("sub"))
    ));
    assert!(matches!(
        swapped("\"exp\"", "\"sub\""),
        Err(TokenError::Json { .. })
    ));
}

#[test]
fn an_audience_is_a_text_or_a_list_of_texts_and_never_empty() {
    let aud = r#"["x","y"]"#;
    assert_eq!(swapped(aud, "\"x\"").unwrap().audience, ["x"]);
    let list = |count: usize| format!("[{}]", vec!["\"x\""; count].join(","));
    assert_eq!(swapped(aud, &list(64)).unwrap().audience.len(), 64);
    assert!(matches!(
        swapped(aud, &list(65)),
        Err(TokenError::TooManyAudiences { count: 65 })
    ));
    for empty in ["[]", "\"\"", r#"["x",""]"#] {
        assert!(
            matches!(swapped(aud, empty), Err(TokenError::AudienceEmpty)),
            "{empty}"
        );
    }
    for wrong in ["1", "null", "{}", r#"["x",1]"#, r#"[["x"]]"#] {
        assert!(
            matches!(swapped(aud, wrong), Err(TokenError::ClaimType("aud"))),
            "{wrong}"
        );
    }
    assert!(matches!(
        swapped("\"aud\"", "\"Aud\""),
        Err(TokenError::ClaimMissing("aud"))
    ));
}

#[test]
fn an_expiry_is_a_number_whole_or_not() {
    let exp = |text: &str| swapped("1000", text).map(|claims| claims.expires.millis());
    assert_eq!(exp("1000").unwrap(), 1_000_000);
    assert_eq!(exp("1000.25").unwrap(), 1_000_250);
    assert_eq!(exp("1e3").unwrap(), 1_000_000);
    assert_eq!(exp("253402300799").unwrap(), 253_402_300_799_000);
    for wrong in ["-1", "-0.5", "253402300800", "1e20", "18446744073709551615"] {
        assert!(
            matches!(exp(wrong), Err(TokenError::Time("exp"))),
            "{wrong}"
        );
    }
    assert!(matches!(exp("\"1000\""), Err(TokenError::ClaimType("exp"))));
    assert!(matches!(exp("1e999"), Err(TokenError::Json { .. })));
    assert!(matches!(
        swapped("\"exp\"", "\"Exp\""),
        Err(TokenError::ClaimMissing("exp"))
    ));
    assert!(matches!(
        swapped("1000", "1000,\"nbf\":\"0\""),
        Err(TokenError::ClaimType("nbf"))
    ));
    assert!(matches!(
        swapped("1000", "1000,\"jti\":7"),
        Err(TokenError::ClaimType("jti"))
    ));
}

#[test]
fn a_token_counts_before_its_expiry_and_a_leeway_longer() {
    let claims = claims(PAYLOAD).unwrap();
    let check = |millis, leeway| {
        let now = NumericDate::from_millis(millis);
        check_times_and_audience(&claims, "y", now, Duration::from_secs(leeway))
    };
    assert_eq!(check(999_999, 0), Ok(()));
    assert!(matches!(
        check(1_000_000, 0),
        Err(ClaimsError::Expired { .. })
    ));
    assert_eq!(check(1_059_999, 60), Ok(()));
    let error = check(1_060_000, 60).unwrap_err();
    assert_eq!(
        error.to_string(),
        "token expired at 1000.000, and it is 1060.000"
    );
}

#[test]
fn a_token_counts_from_its_not_before_on_and_its_issue_time_is_no_bound() {
    let claims = swapped("1000", "1000,\"nbf\":500,\"iat\":900").unwrap();
    let check = |seconds, leeway| {
        let now = NumericDate::from_seconds(seconds);
        check_times_and_audience(&claims, "x", now, Duration::from_secs(leeway))
    };
    assert!(matches!(
        check(499, 0),
        Err(ClaimsError::NotYetValid { .. })
    ));
    assert_eq!(check(500, 0), Ok(()));
    assert_eq!(check(490, 10), Ok(()));
    assert!(matches!(
        check(489, 10),
        Err(ClaimsError::NotYetValid { .. })
    ));
}

#[test]
fn a_token_counts_only_for_whom_it_names() {
    let claims = claims(PAYLOAD).unwrap();
    for (audience, counts) in [
        ("x", true),
        ("y", true),
        ("X", false),
        ("", false),
        ("x,y", false),
    ] {
        let now = NumericDate::from_seconds(0);
        let checked = check_times_and_audience(&claims, audience, now, Duration::ZERO);
        assert_eq!(checked.is_ok(), counts, "{audience}");
    }
}

#[test]
fn a_strangers_text_is_cut_and_escaped_in_errors() {
    let error = header_error(&format!(r#"{{"alg":"\u0007{}"}}"#, "A".repeat(5000)));
    assert!(error.len() < 100 && error.contains(r"\u{7}"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_text_panics(text: String, header in "[{}\":,a-z]{0,20}", payload in "[{}\":,a-z0-9]{0,20}") {
        UnverifiedToken::parse(&text).ok();
        UnverifiedToken::parse(&token(&header, &payload)).ok();
    }

    #[test]
    fn no_claims_panic(exp: f64, nbf: i64, now: i64, leeway: u64) {
        let payload = PAYLOAD.replace("1000", &format!("{exp:e},\"nbf\":{nbf}"));
        if let Ok(claims) = claims(&payload) {
            let now = NumericDate::from_millis(now);
            check_times_and_audience(&claims, "x", now, Duration::from_secs(leeway)).ok();
        }
    }

    #[test]
    fn every_audience_that_is_named_is_found(named in proptest::collection::vec("\\PC{1,20}", 1..9)) {
        let mut payload: Value = serde_json::from_str(PAYLOAD).unwrap();
        payload["aud"] = Value::from(named.clone());
        let claims = claims(&payload.to_string()).unwrap();
        for audience in &named {
            let now = NumericDate::from_seconds(0);
            prop_assert_eq!(check_times_and_audience(&claims, audience, now, Duration::ZERO), Ok(()));
        }
    }
}
