//! Tokens that are issued, read by the parser that validators use.

use std::time::Duration;

use serde_json::json;
use taskmint_id::jws::{Algorithm, Compact, NumericDate, UnverifiedToken};
use taskmint_mint::Refusal;
use taskmint_status::{TaskBinding, claim};

use crate::support::{Desk, PUBLIC_URL, public};

#[test]
fn a_token_says_exactly_what_jwt_svid_and_p13_ask_for() {
    let desk = Desk::new();
    let facts = desk.workload();
    let request = desk.jwt(&facts);
    let jti = request.jti;
    let signed = desk.sign_jwt(request).unwrap();
    let text = String::from_utf8(signed.bytes).unwrap();
    let token = UnverifiedToken::parse(&text).unwrap();
    let key = public(&desk.jwt);
    assert!(
        key.verify(token.signing_input.as_bytes(), &token.signature)
            .is_ok()
    );

    // JWT-02: exactly these three.
    let header: serde_json::Value =
        serde_json::from_slice(&Compact::split(&text).unwrap().header).unwrap();
    let kid = key.thumbprint_text();
    assert_eq!(header, json!({ "alg": "ES256", "kid": kid, "typ": "JWT" }));
    assert_eq!(
        (token.header.algorithm, &kid),
        (Algorithm::Es256, &desk.jwt.key_id)
    );

    let claims = &token.claims;
    assert_eq!(claims.subject, facts.spiffe_id);
    assert_eq!(
        claims.raw["aud"],
        json!("reports"),
        "one audience is a text"
    );
    let now = desk.now().secs() as i64;
    assert_eq!(claims.issued, Some(NumericDate::from_seconds(now)));
    assert_eq!(claims.expires, NumericDate::from_seconds(now + 120));
    assert_eq!(claims.id.as_deref(), Some(&*hex::encode(jti)));
    let binding = TaskBinding {
        place: facts.place,
        task: facts.task.octets(),
        root: facts.root.octets(),
    };
    assert_eq!(
        claim::from_value(&claims.raw[claim::TASK_CLAIM]),
        Ok(binding)
    );
    assert_eq!(claims.raw.len(), 6, "no status without a public address");
    assert_eq!(signed.authority, desk.jwt.id);
}

#[test]
fn several_audiences_are_a_list_in_the_order_asked_for() {
    let desk = Desk::new();
    let mut request = desk.jwt(&desk.workload());
    request.audiences = vec!["b".to_owned(), "a".to_owned()];
    let text = String::from_utf8(desk.sign_jwt(request).unwrap().bytes).unwrap();
    let token = UnverifiedToken::parse(&text).unwrap();
    assert_eq!(token.claims.raw["aud"], json!(["b", "a"]));
}

#[test]
fn the_status_names_the_index_and_only_the_list_of_the_place() {
    let desk = Desk::new();
    let facts = desk.workload();
    let mut request = desk.jwt(&facts);
    let uri = format!(
        "{PUBLIC_URL}/status/{}/{}",
        facts.place.log(),
        facts.place.bucket()
    );
    request.status_uri = Some(uri.clone());
    let text = String::from_utf8(desk.sign_jwt(request.clone()).unwrap().bytes).unwrap();
    let token = UnverifiedToken::parse(&text).unwrap();
    assert_eq!(
        token.claims.raw["status"],
        json!({ "status_list": { "idx": 42, "uri": uri } })
    );

    for foreign in ["https://evil.example/list", &format!("{uri}0"), ""] {
        request.status_uri = Some(foreign.to_owned());
        assert_eq!(
            desk.sign_jwt(request.clone()).unwrap_err(),
            Refusal::StatusUri(foreign.into())
        );
    }
}

#[test]
fn audiences_that_no_validator_could_take_are_refused() {
    let desk = Desk::new();
    let good = desk.jwt(&desk.workload());
    let many = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
    let lists = [
        Vec::new(),
        vec![String::new()],
        vec!["a".to_owned(), String::new()],
        vec!["a\nb".to_owned()],
        vec!["a".repeat(513)],
        many(65),
        // Each is fine; together no reader takes the token.
        vec!["a".repeat(512); 64],
    ];
    for audiences in lists {
        let mut request = good.clone();
        request.audiences = audiences;
        assert_eq!(desk.sign_jwt(request).unwrap_err(), Refusal::Audience);
    }
    let mut request = good;
    request.audiences = many(64);
    assert!(desk.sign_jwt(request).is_ok());
}

#[test]
fn audiences_are_quoted_and_can_not_add_claims() {
    let desk = Desk::new();
    let mut request = desk.jwt(&desk.workload());
    let hostile = r#"x","sub":"spiffe://example.org/admin","y":"#.to_owned();
    request.audiences = vec![hostile.clone()];
    let facts = request.facts.clone();
    let text = String::from_utf8(desk.sign_jwt(request).unwrap().bytes).unwrap();
    let token = UnverifiedToken::parse(&text).unwrap();
    assert_eq!(
        (token.claims.subject, token.claims.audience),
        (facts.spiffe_id, vec![hostile])
    );
}

#[test]
fn a_token_past_cap_limit_or_clock_is_refused() {
    let desk = Desk::new();
    let good = desk.jwt(&desk.workload());
    let secs = Duration::from_secs;

    let mut request = good.clone();
    request.expires_at = request.issued_at + secs(3661);
    assert!(matches!(
        desk.sign_jwt(request).unwrap_err(),
        Refusal::Lifetime { .. }
    ));

    let mut request = good.clone();
    request.expires_at = request.issued_at;
    assert!(matches!(
        desk.sign_jwt(request).unwrap_err(),
        Refusal::Lifetime { .. }
    ));

    for off in [desk.now() - secs(61), desk.now() + secs(61)] {
        let mut request = good.clone();
        request.issued_at = off;
        assert_eq!(desk.sign_jwt(request).unwrap_err(), Refusal::Clock(off));
    }

    let mut facts = desk.workload();
    facts.limit = desk.now() + secs(60);
    let mut request = desk.jwt(&facts);
    request.expires_at = facts.limit + secs(1);
    assert!(matches!(
        desk.sign_jwt(request).unwrap_err(),
        Refusal::PastLimit { .. }
    ));
}
