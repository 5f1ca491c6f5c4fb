//! Token status lists (draft-ietf-oauth-status-list): two bits a place, signed as a JWT by the
//! log's key (P15), whose certificate goes along in the header.

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::json;
use taskmint_mint::credential::{Sign as _, key_id};
use taskmint_mint::journal::What;
use taskmint_mint::{Refusal, Signed, StatusListRequest};
use taskmint_model::Timestamp;

use crate::chain::padded;
use crate::core::Core;
use crate::keyring::Keyring;
use crate::policy::Check as _;
use crate::rotation::is_for;

/// The longest list, as zlib has it.
const MAX_LIST: usize = 48 << 20;

/// Bits a status.
const BITS: u8 = 2;

impl Core {
    pub(crate) fn status_list(
        &self,
        ring: &Keyring,
        request: &StatusListRequest,
        now: Timestamp,
    ) -> Result<Signed, Refusal> {
        self.policy
            .check_list((request.at, request.expires_at), now)?;
        let lives_secs = request.expires_at.since(request.at).as_secs();
        if request.ttl_secs == 0 || request.ttl_secs > lives_secs {
            return Err(Refusal::Lifetime {
                asked_secs: request.ttl_secs,
                cap_secs: lives_secs,
            });
        }
        let log = *self.log.lock();
        let log = log.filter(|log| log.log == request.log);
        let log = log.ok_or(Refusal::OtherLog(request.log))?;
        let latest = (now + self.policy.max_limit + self.policy.clock_skew).hour();
        if request.bucket < log.floor() || request.bucket > latest {
            return Err(Refusal::List("bucket has no live place".into()));
        }
        if request.list.len() > MAX_LIST {
            return Err(Refusal::List("entries are too many".into()));
        }
        let uri = self.policy.status_uri(request.log, request.bucket);
        let uri = uri.ok_or(Refusal::List("address is not set".into()))?;
        let key = ring.log()?;
        // Another key's certificate would send its readers astray, and only them.
        if !is_for(&request.certificate, Some(key.signer.public())) {
            return Err(Refusal::List("certificate is another key's".into()));
        }
        let header = json!({
            "alg": "ES256",
            "kid": hex::encode(key_id(key.signer.public())),
            "typ": "statuslist+jwt",
            "x5c": [BASE64_STANDARD.encode(&request.certificate)],
        });
        let claims = json!({
            "sub": uri,
            "iat": request.at.secs(),
            "exp": request.expires_at.secs(),
            "ttl": request.ttl_secs,
            "status_list": {
                "bits": BITS,
                "lst": BASE64_URL_SAFE_NO_PAD.encode(&request.list),
            },
        });
        let mut token = BASE64_URL_SAFE_NO_PAD.encode(header.to_string());
        token.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(claims.to_string(), &mut token);
        let name: Vec<u8> = [
            &request.bucket.to_be_bytes()[..],
            &request.at.millis().to_be_bytes(),
        ]
        .concat();
        let tail = self.chain.add(What::StatusList, &padded(&name));
        let signature = key.signer.sign(token.as_bytes())?;
        token.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(Signed {
            bytes: token.into_bytes(),
            signature: Vec::new(),
            authority: key.id,
            tail,
        })
    }
}
