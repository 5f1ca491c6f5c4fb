use p256::ecdsa::SigningKey;
use p256::ecdsa::signature::Signer;
use proptest::prelude::*;

use super::*;

/// The key of RFC 7515 appendix A.3.
const RFC7515: &str = r#"{"kty":"EC","crv":"P-256",
    "x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;

fn key(seed: &[u8; 32]) -> Option<(SigningKey, P256PublicKey)> {
    let signing = SigningKey::from_slice(seed).ok()?;
    let point = signing.verifying_key().to_sec1_point(false);
    let public = P256PublicKey::from_sec1(point.as_bytes()).unwrap();
    Some((signing, public))
}

#[test]
fn a_thumbprint_is_the_one_in_rfc_9449() {
    let jwk = Jwk::parse(
        br#"{"kty":"EC","x":"l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs",
            "y":"9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA","crv":"P-256"}"#,
    )
    .unwrap();
    assert_eq!(
        jwk.key.thumbprint_text(),
        "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
    );
}

#[test]
fn the_signature_of_rfc_7515_verifies_and_no_other() {
    let key = Jwk::parse(RFC7515.as_bytes()).unwrap().key;
    let message = b"eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let mut signature = URL_SAFE_NO_PAD
        .decode("DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q")
        .unwrap();
    assert_eq!(key.verify(message, &signature), Ok(()));
    assert_eq!(key.verify(b"another", &signature), Err(SignatureError));
    assert_eq!(key.verify(message, &signature[..63]), Err(SignatureError));
    assert_eq!(key.verify(message, &[0; 64]), Err(SignatureError));
    signature[10] ^= 1;
    assert_eq!(key.verify(message, &signature), Err(SignatureError));
}

#[test]
fn an_spki_made_by_openssl_is_read_and_written_alike() {
    let certificate = include_bytes!("../../testdata/p256.der");
    let at = certificate
        .windows(SPKI_PREFIX.len())
        .position(|w| w == SPKI_PREFIX)
        .unwrap();
    let spki = &certificate[at..at + SPKI_LENGTH];
    let key = P256PublicKey::from_spki_der(spki).unwrap();
    assert_eq!(key.to_spki_der(), spki);
    assert_eq!(key.spki_sha256(), <[u8; 32]>::from(Sha256::digest(spki)));
}

#[test]
fn a_point_off_the_curve_is_refused_in_every_form() {
    let good = Jwk::parse(RFC7515.as_bytes()).unwrap().key;
    let mut spki = good.to_spki_der();
    spki[SPKI_LENGTH - 1] ^= 1;
    assert_eq!(P256PublicKey::from_spki_der(&spki), Err(KeyError::OffCurve));
    assert_eq!(
        P256PublicKey::from_coordinates([0; 32], [0; 32]),
        Err(KeyError::OffCurve)
    );
    assert_eq!(
        P256PublicKey::from_coordinates([255; 32], *good.y()),
        Err(KeyError::OffCurve)
    );
    let text = RFC7515.replace("f83OJ3D2", "f83OJ3D3");
    assert!(matches!(
        Jwk::parse(text.as_bytes()),
        Err(JwkError::Key(KeyError::OffCurve))
    ));
}

#[test]
fn only_the_one_encoding_of_a_key_is_an_spki() {
    let good = Jwk::parse(RFC7515.as_bytes()).unwrap().key.to_spki_der();
    assert_eq!(
        P256PublicKey::from_spki_der(&good[..90]),
        Err(KeyError::Spki)
    );
    assert_eq!(
        P256PublicKey::from_spki_der(&[&good[..], &[0]].concat()),
        Err(KeyError::Spki)
    );
    assert_eq!(P256PublicKey::from_spki_der(b""), Err(KeyError::Spki));
    // The hybrid form names the same point with another tag.
    let mut hybrid = good;
    hybrid[SPKI_PREFIX.len()] = 7;
    assert_eq!(P256PublicKey::from_spki_der(&hybrid), Err(KeyError::Spki));
    let mut compressed = good[..SPKI_PREFIX.len() + 33].to_vec();
    compressed[SPKI_PREFIX.len()] = 2;
    assert_eq!(
        P256PublicKey::from_spki_der(&compressed),
        Err(KeyError::Spki)
    );
}

#[test]
fn a_jwk_that_is_wrong_is_refused_for_what_is_wrong() {
    let wrong = |from: &str, to: &str| {
        assert!(RFC7515.contains(from));
        Jwk::parse(RFC7515.replace(from, to).as_bytes())
            .unwrap_err()
            .to_string()
    };
    assert!(wrong(r#""EC""#, r#""RSA""#).contains("`EC`"));
    assert!(wrong(r#""EC""#, r#""ec""#).contains("`EC`"));
    assert!(wrong("P-256", "P-384").contains("`P-256`"));
    assert!(wrong("{", r#"{"d":"AA","#).contains("private"));
    assert!(wrong("{", r#"{"kid":1,"#).contains("`kid`"));
    assert!(wrong("{", r#"{"kty":"EC","#).contains("json"));
    assert!(wrong(r#""x":"#, r#""X":"#).contains("`x`"));
    assert!(
        wrong("x_FE", "AAx_FE").contains("`y`"),
        "a coordinate has no leading zeros to spare"
    );
    assert!(
        wrong("x_FE", "x/FE").contains("`y`"),
        "the alphabet is base64url"
    );
    assert!(
        wrong("WI5a0", "WI5a1").contains("`y`"),
        "spare bits are zero"
    );
    assert!(matches!(Jwk::parse(b"[]"), Err(JwkError::NotAnObject)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_key_survives_every_form(seed: [u8; 32], kid in proptest::option::of("[a-z]{0,9}")) {
        let Some((signing, public)) = key(&seed) else { return Ok(()) };
        prop_assert_eq!(P256PublicKey::from_spki_der(&public.to_spki_der()), Ok(public));
        prop_assert_eq!(P256PublicKey::from_sec1(&public.to_sec1()), Ok(public));
        let jwk = Jwk { key: public, key_id: kid, usage: Some("jwt-svid".into()) };
        prop_assert_eq!(&Jwk::parse(jwk.to_value().to_string().as_bytes()).unwrap(), &jwk);
        let signature: Signature = signing.sign(&seed);
        prop_assert_eq!(public.verify(&seed, &signature.to_bytes()), Ok(()));
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        P256PublicKey::from_spki_der(&bytes).ok();
        P256PublicKey::from_sec1(&bytes).ok();
        Jwk::parse(&bytes).ok();
    }
}
