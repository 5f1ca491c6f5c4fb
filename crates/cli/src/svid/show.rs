//! What a certificate or token says, unverified: for people who look for a mistake.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use taskmint_id::jws::Compact;
use taskmint_model::TaskId;
use taskmint_status::claim::{TASK_CLAIM, from_value};
use taskmint_status::extension::TASK_BINDING_OID_DER;
use taskmint_status::{Serial, TaskBinding};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::read::Svid;
use crate::exit::Failure;
use crate::output::{Field, Record};

pub(super) fn record(svid: &Svid) -> Result<Record, Failure> {
    match svid {
        Svid::X509(chain) => x509(chain),
        Svid::Jwt(token) => jwt(token),
    }
}

fn x509(chain: &[rustls_pki_types::CertificateDer<'_>]) -> Result<Record, Failure> {
    let malformed = || Failure::usage("the certificate in it is malformed");
    let leaf = chain.first().ok_or_else(malformed)?;
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| malformed())?;
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names
        .map(|names| names.value.general_names.as_slice())
        .unwrap_or_default();
    let (mut uris, mut dns_names) = (Vec::new(), Vec::new());
    for name in names {
        match name {
            GeneralName::URI(uri) => uris.push((*uri).to_owned()),
            GeneralName::DNSName(name) => dns_names.push((*name).to_owned()),
            _ => {}
        }
    }
    let mut extensions = certificate.iter_extensions();
    let extension = extensions.find(|one| one.oid.as_bytes() == TASK_BINDING_OID_DER);
    let binding = extension.and_then(|extension| TaskBinding::from_der(extension.value).ok());
    let is_ca = certificate
        .basic_constraints()
        .ok()
        .flatten()
        .is_some_and(|one| one.value.ca);
    let validity = certificate.validity();
    let millis = |seconds: i64| u64::try_from(seconds).unwrap_or(0).saturating_mul(1000);
    let mut record = Record::new()
        .text("type", "x509")
        .text("spiffe_id", uris.join(", "))
        .list("dns_names", &dns_names)
        .text("subject", certificate.subject().to_string())
        .text("issuer", certificate.issuer().to_string())
        .octets("serial", certificate.raw_serial())
        .instant("not_before", millis(validity.not_before.timestamp()))
        .instant("not_after", millis(validity.not_after.timestamp()))
        .flag("ca", is_ca)
        .number(
            "certificates",
            u64::try_from(chain.len()).unwrap_or(u64::MAX),
        );
    if let Ok(serial) = Serial::decode(certificate.raw_serial()) {
        record = record.number("log_generation", serial.generation.get());
    }
    Ok(bound(record, binding.as_ref()))
}

fn jwt(token: &str) -> Result<Record, Failure> {
    let malformed = |_| Failure::usage("the token in it is malformed");
    let (header, claims) = members(token).ok_or(()).map_err(malformed)?;
    let text = |members: &Map<String, Value>, name: &str| match members.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let instant = |name: &str| {
        claims
            .get(name)
            .and_then(Value::as_u64)
            .unwrap_or(0)
            .saturating_mul(1000)
    };
    let audience = match claims.get("aud") {
        Some(Value::Array(all)) => all
            .iter()
            .map(|one| one.as_str().unwrap_or_default().to_owned())
            .collect(),
        Some(Value::String(one)) => vec![one.clone()],
        _ => Vec::new(),
    };
    let binding = claims
        .get(TASK_CLAIM)
        .and_then(|claim| from_value(claim).ok());
    let record = Record::new()
        .text("type", "jwt")
        .text("spiffe_id", text(&claims, "sub"))
        .list("audience", &audience)
        .text("algorithm", text(&header, "alg"))
        .text("key_id", text(&header, "kid"))
        .text("jti", text(&claims, "jti"))
        .instant("issued_at", instant("iat"))
        .instant("expires_at", instant("exp"));
    Ok(bound(record, binding.as_ref()))
}

fn members(token: &str) -> Option<(Map<String, Value>, Map<String, Value>)> {
    Compact::split(token).ok()?;
    let mut parts = token.split('.').map(|part| {
        let octets = BASE64_URL_SAFE_NO_PAD.decode(part).ok()?;
        serde_json::from_slice(&octets).ok()
    });
    Some((parts.next()??, parts.next()??))
}

/// With the task that it hangs off.
pub(super) fn bound(record: Record, binding: Option<&TaskBinding>) -> Record {
    let place = binding.map(|binding| {
        Record::new()
            .octets("log_id", binding.place.log().0)
            .number("bucket", binding.place.bucket())
            .number("index", binding.place.index())
    });
    let id = |octets: Option<[u8; 16]>| {
        octets
            .map(|octets| TaskId::from_octets(octets).to_string())
            .unwrap_or_default()
    };
    record
        .text("task_id", id(binding.map(|binding| binding.task)))
        .text("root_id", id(binding.map(|binding| binding.root)))
        .with("place", Field::Record(place))
}
