//! A signer that says something else of a key than it was asked for.

use super::*;
use crate::credential::{Validity, ca_serial, key_id, log_key_serial};
use crate::port::Prepared;
use crate::request::LogKeyRequest;

const NEXT_CA: AuthorityId = AuthorityId::from_octets([3; 16]);
const LOG_KEY: AuthorityId = AuthorityId::from_octets([4; 16]);
const TTL: u64 = 3600;

/// Signs as certificates have it.
struct Der(TestKey);

impl Der {
    fn new(seed: u64) -> Self {
        Self(TestKey::generate(&SeededEntropy::new(seed)))
    }
}

impl Sign for Der {
    fn public(&self) -> &P256PublicKey {
        self.0.public()
    }

    fn sign(&self, said: &[u8]) -> Result<Vec<u8>, Refusal> {
        Ok(self.0.sign_der(said))
    }
}

/// One certificate, each part of which may be a lie.
struct Says<'a> {
    trust_domain: TrustDomain,
    /// Whose name the CA has.
    ca: &'a Der,
    /// Who signs.
    by: &'a Der,
    key: &'a Der,
    serial: [u8; 17],
    validity: Validity,
}

impl Says<'_> {
    fn anchor(&self) -> Vec<u8> {
        let name = CaName::new(&self.trust_domain, self.key.public()).unwrap();
        name.anchor(self.by, &self.serial, self.validity).unwrap()
    }

    fn log_key(&self) -> Vec<u8> {
        let name = CaName::new(&self.trust_domain, self.ca.public()).unwrap();
        let key = self.key.public();
        name.log_key(self.by, key, &self.serial, self.validity)
            .unwrap()
    }
}

fn prepared(id: AuthorityId, key: &Der, certificate: Vec<u8>, expires_at: Timestamp) -> Prepared {
    Prepared {
        id,
        sealed: Vec::new(),
        spki: key.0.spki(),
        certificate,
        key_id: hex::encode(key_id(key.public())),
        expires_at,
    }
}

fn whole() -> Validity {
    (at(0) - Duration::from_secs(30), at(TTL))
}

fn inspector() -> Inspector {
    Inspector::new(&Policy::new(trust_domain()), 0)
}

fn prepares(inspector: &Inspector, kind: KeyKind, id: AuthorityId, made: &Prepared) -> bool {
    inspector.look_at_key(kind, id, at(0), made).is_ok()
}

fn anchor(key: &Der) -> Says<'_> {
    Says {
        trust_domain: trust_domain(),
        ca: key,
        by: key,
        key,
        serial: ca_serial(CA),
        validity: whole(),
    }
}

fn log_certificate<'a>(ca: &'a Der, key: &'a Der) -> Says<'a> {
    Says {
        serial: log_key_serial([9; 16]),
        by: ca,
        ca,
        ..anchor(key)
    }
}

/// One that knows an active CA and the log's key.
fn with_log_key(ca: &Der, log: &Der) -> Inspector {
    let inspector = inspector();
    let made = prepared(CA, ca, anchor(ca).anchor(), at(TTL));
    assert!(prepares(
        &inspector,
        KeyKind::Ca { ttl_secs: TTL },
        CA,
        &made
    ));
    inspector.activated(CA);
    let made = prepared(LOG_KEY, log, log_certificate(ca, log).log_key(), at(TTL));
    let kind = KeyKind::Log { ttl_secs: 2 * TTL };
    assert!(
        prepares(&inspector, kind, LOG_KEY, &made),
        "it ends with its CA"
    );
    inspector
}

#[test]
fn a_ca_that_is_another_than_was_asked_for_is_not_kept() {
    let (key, other) = (Der::new(20), Der::new(21));
    let kind = KeyKind::Ca { ttl_secs: TTL };
    let passes = |made: &Prepared| prepares(&inspector(), kind, CA, made);
    let good = || prepared(CA, &key, anchor(&key).anchor(), at(TTL));
    assert!(passes(&good()));
    let (from, to) = whole();
    let second = Duration::from_secs(1);
    let elsewhere = TrustDomain::parse("example.com").unwrap();
    let lies = [
        Says {
            trust_domain: elsewhere,
            ..anchor(&key)
        },
        Says {
            by: &other,
            ..anchor(&key)
        },
        Says {
            by: &other,
            key: &other,
            ..anchor(&key)
        },
        Says {
            serial: ca_serial(NEXT_CA),
            ..anchor(&key)
        },
        Says {
            validity: (from, to + second),
            ..anchor(&key)
        },
        Says {
            validity: (from, to - second),
            ..anchor(&key)
        },
        Says {
            validity: (at(1), to),
            ..anchor(&key)
        },
        Says {
            validity: (at(0) - Duration::from_secs(3601), to),
            ..anchor(&key)
        },
    ];
    for (number, lie) in lies.iter().enumerate() {
        let made = prepared(CA, &key, lie.anchor(), lie.validity.1);
        assert!(!passes(&made), "lie {number}");
    }
    // No CA at all: its usages and constraints are a log key's.
    let leaf = log_certificate(&key, &key).log_key();
    assert!(!passes(&prepared(CA, &key, leaf, at(TTL))));
    let mut longer = good();
    longer.certificate.push(0);
    assert!(!passes(&longer));
    assert!(!passes(&Prepared {
        expires_at: at(TTL + 1),
        ..good()
    }));
    assert!(!passes(&Prepared {
        id: NEXT_CA,
        ..good()
    }));
    assert!(!passes(&Prepared {
        key_id: String::new(),
        ..good()
    }));
    assert!(!passes(&Prepared {
        certificate: Vec::new(),
        ..good()
    }));
    assert!(!passes(&Prepared {
        spki: other.0.spki(),
        ..good()
    }));
}

#[test]
fn no_bit_of_a_ca_can_flip() {
    let key = Der::new(20);
    let certificate = anchor(&key).anchor();
    let kind = KeyKind::Ca { ttl_secs: TTL };
    let inspector = inspector();
    for bit in 0..certificate.len() * 8 {
        let mut flipped = certificate.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let made = prepared(CA, &key, flipped, at(TTL));
        assert!(!prepares(&inspector, kind, CA, &made), "bit {bit}");
    }
}

#[test]
fn a_log_key_is_certified_by_the_active_ca_and_as_was_asked_for() {
    let (ca, log, other) = (Der::new(20), Der::new(22), Der::new(21));
    let inspector = with_log_key(&ca, &log);
    let kind = KeyKind::Log { ttl_secs: TTL };
    let passes = |says: &Says<'_>| {
        let made = prepared(LOG_KEY, says.key, says.log_key(), says.validity.1);
        prepares(&inspector, kind, LOG_KEY, &made)
    };
    let good = || log_certificate(&ca, &log);
    assert!(passes(&good()));
    let (from, to) = whole();
    let lies = [
        Says {
            by: &other,
            ..good()
        },
        Says {
            by: &other,
            ca: &other,
            ..good()
        },
        Says {
            serial: ca_serial(LOG_KEY),
            ..good()
        },
        Says {
            validity: (from, to + Duration::from_secs(1)),
            ..good()
        },
        Says {
            validity: (from, at(TTL - 1)),
            ..good()
        },
    ];
    for (number, lie) in lies.iter().enumerate() {
        assert!(!passes(lie), "lie {number}");
    }
    // A CA in its place.
    let anchor = anchor(&log).anchor();
    assert!(!prepares(
        &inspector,
        kind,
        LOG_KEY,
        &prepared(LOG_KEY, &log, anchor, at(TTL))
    ));
    // Without an active CA there is nothing to hold it against.
    let made = prepared(LOG_KEY, &log, good().log_key(), at(TTL));
    assert!(!prepares(&self::inspector(), kind, LOG_KEY, &made));
}

#[test]
fn another_certificate_of_the_log_key_is_by_the_ca_that_was_named() {
    let (ca, next, log) = (Der::new(20), Der::new(23), Der::new(22));
    let inspector = with_log_key(&ca, &log);
    let of_next = Says {
        serial: ca_serial(NEXT_CA),
        ..anchor(&next)
    };
    let made = prepared(NEXT_CA, &next, of_next.anchor(), at(TTL));
    let kind = KeyKind::Ca { ttl_secs: TTL };
    assert!(prepares(&inspector, kind, NEXT_CA, &made));
    let request = LogKeyRequest {
        key: LOG_KEY,
        by: NEXT_CA,
    };
    let passes = |says: &Says<'_>| inspector.look_at_log_key(request, &says.log_key()).is_ok();
    let good = || log_certificate(&next, &log);
    assert!(passes(&good()));
    let (from, to) = whole();
    let year = Duration::from_secs(366 * 24 * 3600);
    for (number, lie) in [
        log_certificate(&ca, &log),
        Says { by: &ca, ..good() },
        Says {
            key: &next,
            ..good()
        },
        Says {
            serial: ca_serial(LOG_KEY),
            ..good()
        },
        Says {
            validity: (from, to + Duration::from_secs(1)),
            ..good()
        },
        Says {
            validity: (from - 11 * year, to),
            ..good()
        },
        Says {
            validity: (to, from),
            ..good()
        },
    ]
    .iter()
    .enumerate()
    {
        assert!(!passes(lie), "lie {number}");
    }
    assert!(inspector.look_at_log_key(request, &[]).is_err());
    let unknown = LogKeyRequest { by: JWT, ..request };
    assert!(
        inspector
            .look_at_log_key(unknown, &good().log_key())
            .is_err()
    );
}

#[test]
fn keys_without_a_certificate_are_what_they_are_called() {
    let (key, other) = (Der::new(20), Der::new(21));
    let jwt = || Prepared {
        key_id: key.public().thumbprint_text(),
        ..prepared(JWT, &key, Vec::new(), Timestamp::MAX)
    };
    let passes = |made: &Prepared| prepares(&inspector(), KeyKind::Jwt, JWT, made);
    assert!(passes(&jwt()));
    assert!(!passes(&Prepared {
        spki: other.0.spki(),
        ..jwt()
    }));
    assert!(!passes(&Prepared {
        spki: Vec::new(),
        ..jwt()
    }));
    assert!(!passes(&Prepared {
        expires_at: at(1),
        ..jwt()
    }));
    assert!(!passes(&Prepared {
        certificate: anchor(&key).anchor(),
        ..jwt()
    }));
    let grant = || Prepared {
        spki: Vec::new(),
        key_id: JWT.to_string(),
        ..jwt()
    };
    let passes = |made: &Prepared| prepares(&inspector(), KeyKind::Grant, JWT, made);
    assert!(passes(&grant()));
    assert!(!passes(&jwt()));
    assert!(!passes(&Prepared {
        key_id: CA.to_string(),
        ..grant()
    }));
}
