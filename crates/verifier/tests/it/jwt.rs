//! Tokens that are no JWT-SVIDs for us, each refused for its reason.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use taskmint_id::BundleSet;
use taskmint_model::Timestamp;
use taskmint_status::claim::{TASK_CLAIM, to_value};
use taskmint_testkit::{TestCa, TestKey};
use taskmint_verifier::{VerifiedToken, verify_jwt};

use crate::world::World;

const LEEWAY: Duration = Duration::from_secs(60);

fn claims(world: &World) -> Value {
    let mut claims = TestCa::claims(&world.id("/billing"), "reports", world.now());
    claims[TASK_CLAIM] = to_value(&world.binding(3));
    claims
}

fn verify(world: &World, token: &str) -> Result<VerifiedToken, &'static str> {
    at(world, token, world.now())
}

fn at(world: &World, token: &str, now: Timestamp) -> Result<VerifiedToken, &'static str> {
    verify_jwt(token, "reports", &world.bundles(), now, LEEWAY).map_err(|error| error.reason())
}

#[test]
fn a_good_token_says_who_for_which_task_and_until_when() {
    let world = World::new();
    let token = verify(&world, &world.ca.token(&claims(&world))).unwrap();
    assert_eq!(token.spiffe_id, world.id("/billing"));
    assert_eq!(token.audience, ["reports"]);
    assert_eq!(token.expires_at, world.now() + Duration::from_secs(120));
    assert_eq!(token.binding, Some(world.binding(3)));
    assert_eq!(token.task().unwrap().octets(), [3; 16]);
    assert_eq!(token.claims["jti"], "0");
}

#[test]
fn a_token_expires_with_its_leeway_and_not_a_moment_later() {
    let world = World::new();
    let token = world.ca.token(&claims(&world));
    let last = world.now() + Duration::from_millis(179_999);
    assert!(at(&world, &token, last).is_ok());
    assert_eq!(
        at(&world, &token, last + Duration::from_millis(1)),
        Err("TOKEN_EXPIRED")
    );
}

#[test]
fn claims_that_do_not_count_are_refused_by_name() {
    let world = World::new();
    let with = |name: &str, value: Value| {
        let mut claims = claims(&world);
        claims[name] = value;
        verify(&world, &world.ca.token(&claims)).map(drop)
    };
    assert_eq!(with("aud", json!("other")), Err("TOKEN_FOR_OTHER_AUDIENCE"));
    assert_eq!(with("aud", json!(["other", "reports"])), Ok(()));
    assert_eq!(with("aud", json!([])), Err("TOKEN_MALFORMED"));
    assert_eq!(with("exp", Value::Null), Err("TOKEN_MALFORMED"));
    assert_eq!(
        with("nbf", json!(world.now().secs() + 61)),
        Err("TOKEN_NOT_YET_VALID")
    );
    assert_eq!(
        with("sub", json!("spiffe://example.org")),
        Err("TOKEN_MALFORMED")
    );
    assert_eq!(with("sub", json!("billing")), Err("TOKEN_MALFORMED"));
    assert_eq!(
        with("sub", json!("spiffe://other.example/x")),
        Err("TRUST_DOMAIN_UNKNOWN")
    );
    assert_eq!(
        with(TASK_CLAIM, json!({ "v": 2 })),
        Err("TOKEN_BINDING_INVALID")
    );
}

#[test]
fn a_token_of_one_trust_domain_signed_by_another_is_refused_though_both_are_trusted() {
    let (ours, theirs) = (World::of("a.example", 1), World::of("b.example", 2));
    let both: BundleSet = [ours.bundle(), theirs.bundle()].into_iter().collect();
    let token = theirs.ca.token(&claims(&ours));
    let error = verify_jwt(&token, "reports", &both, ours.now(), LEEWAY).unwrap_err();
    assert_eq!(error.reason(), "TOKEN_KEY_UNKNOWN");
}

#[test]
fn forged_headers_and_signatures_are_refused() {
    let world = World::new();
    let kid = world.ca.jwt_key().public().thumbprint_text();
    let signed = |header: Value| {
        verify(&world, &world.ca.jwt_key().token(&header, &claims(&world))).map(drop)
    };
    assert_eq!(signed(json!({ "alg": "ES256", "kid": kid })), Ok(()));
    assert_eq!(
        signed(json!({ "alg": "ES256" })),
        Err("TOKEN_WITHOUT_KEY_ID")
    );
    assert_eq!(
        signed(json!({ "alg": "ES256", "kid": "x" })),
        Err("TOKEN_KEY_UNKNOWN")
    );
    assert_eq!(
        signed(json!({ "alg": "RS256", "kid": kid })),
        Err("TOKEN_ALGORITHM_UNSUPPORTED")
    );
    for alg in ["none", "HS256", "es256", "EdDSA", "ES256K"] {
        assert_eq!(
            signed(json!({ "alg": alg, "kid": kid })),
            Err("TOKEN_MALFORMED"),
            "{alg}"
        );
    }
    assert_eq!(
        signed(json!({ "alg": "ES256", "kid": kid, "typ": "wit+jwt" })),
        Err("TOKEN_MALFORMED")
    );
    // Signed by a CA's key: no bundle offers that for tokens.
    let header = json!({ "alg": "ES256", "kid": kid });
    let forged = TestKey::generate(&world.entropy).token(&header, &claims(&world));
    assert_eq!(verify(&world, &forged), Err("TOKEN_SIGNATURE_INVALID"));
}

#[test]
fn a_payload_under_another_tokens_signature_is_refused() {
    let world = World::new();
    let token = world.ca.token(&claims(&world));
    let mut parts: Vec<_> = token.split('.').map(str::to_owned).collect();
    let mut wider = claims(&world);
    wider["sub"] = json!("spiffe://example.org/admin");
    parts[1] = BASE64_URL_SAFE_NO_PAD.encode(wider.to_string());
    assert_eq!(
        verify(&world, &parts.join(".")),
        Err("TOKEN_SIGNATURE_INVALID")
    );
    assert_eq!(verify(&world, "a.b"), Err("TOKEN_MALFORMED"));
    assert_eq!(verify(&world, &"x".repeat(20_000)), Err("TOKEN_MALFORMED"));
}
