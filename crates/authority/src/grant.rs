//! Grants: what binds the facts of a task to what the authority saw at begin (P23).
//!
//! ```text
//! version (1) | grant key's id (16) | HMAC-SHA-256 over the facts (32)
//! ```

use ring::hmac;
use taskmint_mint::{Class, Facts, Grant};
use taskmint_model::AuthorityId;
use taskmint_secret::{SecretBox, on_secret_stack};

use crate::secret::Secret;

const VERSION: u8 = 1;
const HEADER_LEN: usize = 1 + 16;

/// Makes and checks grants.
pub(crate) struct GrantKey {
    pub(crate) id: AuthorityId,
    key: SecretBox<hmac::Key>,
}

impl GrantKey {
    pub(crate) fn new(id: AuthorityId, secret: &Secret<32>) -> Self {
        let key = SecretBox::make(|| hmac::Key::new(hmac::HMAC_SHA256, secret.expose()));
        Self { id, key }
    }

    pub(crate) fn grant(&self, facts: &Facts) -> Grant {
        let facts = octets(facts);
        let mac = on_secret_stack(|| hmac::sign(self.key.expose(), &facts));
        Grant([&[VERSION][..], &self.id.octets(), mac.as_ref()].concat())
    }

    pub(crate) fn is_for(&self, grant: &Grant, facts: &Facts) -> bool {
        let mac = grant.0.get(HEADER_LEN..).unwrap_or_default();
        let facts = octets(facts);
        // There because it makes the right one to compare with.
        on_secret_stack(|| hmac::verify(self.key.expose(), &facts, mac).is_ok())
    }
}

/// The grant key that a grant says it was made with.
pub(crate) fn key_of(grant: &Grant) -> Option<AuthorityId> {
    let (version, rest) = grant.0.split_first()?;
    let id = rest.split_first_chunk::<16>()?.0;
    (*version == VERSION).then(|| AuthorityId::from_octets(*id))
}

/// The facts, each in a fixed number of octets but the last: no two facts have the same.
fn octets(facts: &Facts) -> Vec<u8> {
    let class = match facts.class {
        Class::Workload => 1,
        Class::Node => 2,
        Class::Server => 3,
    };
    let id = facts.spiffe_id.as_str().as_bytes();
    let mut octets = Vec::with_capacity(100 + id.len());
    octets.extend_from_slice(b"taskmint grant\0");
    octets.extend_from_slice(&[VERSION, class]);
    octets.extend_from_slice(&facts.task.octets());
    octets.extend_from_slice(&facts.root.octets());
    octets.extend_from_slice(&facts.place.log().0);
    octets.extend_from_slice(&facts.place.bucket().to_be_bytes());
    octets.extend_from_slice(&facts.place.index().to_be_bytes());
    octets.extend_from_slice(&facts.limit.millis().to_be_bytes());
    octets.extend_from_slice(id);
    octets
}
