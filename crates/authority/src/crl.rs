//! Certificate revocation lists (P22): RFC 5280, section 5; one complete list for each CA key.
//!
//! A list is not a proof of what it leaves out: whoever asks can leave a serial out, as it can
//! leave an end out of the log. It can't list what is no serial of a task, set the number back, or
//! make a list that outlives its welcome.

use taskmint_mint::credential::{CrlContent, Sign as _};
use taskmint_mint::journal::What;
use taskmint_mint::{CrlNumber, CrlRequest, Refusal, Revoked, Signed};
use taskmint_model::Timestamp;
use taskmint_status::{Generation, Serial};

use crate::chain::padded;
use crate::core::Core;
use crate::keyring::{Key, Keyring};
use crate::policy::Check as _;

/// The most entries of a list: some 45 MB of them.
const MAX_ENTRIES: usize = 1_000_000;

impl Core {
    pub(crate) fn crl(
        &self,
        ring: &Keyring,
        request: &CrlRequest,
        now: Timestamp,
    ) -> Result<Signed, Refusal> {
        // Not the active one only: what a CA signed before it was replaced is revoked by itself.
        let Key::Ca(ca) = ring.get(request.ca)? else {
            return Err(Refusal::Authority(request.ca));
        };
        let (from, to) = (request.this_update, request.next_update);
        self.policy.check_list((from, to), now)?;
        if to > ca.to || to <= now {
            let limit = ca.to;
            return Err(Refusal::PastLimit {
                not_after: to,
                limit,
            });
        }
        let content = CrlContent::new(ca.signer.public(), request)?;
        let mut numbers = self.crl_numbers.lock();
        let generation = self.check_number(request.number, numbers.get(&ca.id))?;
        self.check_revoked(&request.revoked, generation, now)?;
        let tail = self.chain.add(What::Crl, &padded(&request.number.octets()));
        let bytes = content.signed(&ca.name, &ca.signer)?;
        numbers.insert(ca.id, request.number);
        Ok(Signed {
            bytes,
            signature: Vec::new(),
            authority: ca.id,
            tail,
        })
    }

    fn check_number(
        &self,
        number: CrlNumber,
        before: Option<&CrlNumber>,
    ) -> Result<Generation, Refusal> {
        let log = *self.log.lock();
        let log = log.ok_or(Refusal::CrlNumber)?;
        let generation = log.generation;
        let of_log = number.generation == generation.get() && number.epoch == log.epoch();
        if !of_log || before.is_some_and(|before| number <= *before) {
            return Err(Refusal::CrlNumber);
        }
        Ok(generation)
    }

    fn check_revoked(
        &self,
        revoked: &[Revoked],
        generation: Generation,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        if revoked.len() > MAX_ENTRIES {
            return Err(Refusal::List("entries are too many".into()));
        }
        let pairs = revoked.iter().zip(revoked.iter().skip(1));
        if pairs.into_iter().any(|(one, two)| one.serial >= two.serial) {
            return Err(Refusal::List("serials do not ascend".into()));
        }
        let latest = now + self.policy.clock_skew;
        for entry in revoked {
            // Of an earlier generation, too: a restore ends tasks whose certificates still count.
            match Serial::decode(&entry.serial) {
                Ok(serial) if serial.generation <= generation => {}
                _ => return Err(Refusal::List("serial is no task's".into())),
            }
            if entry.at > latest {
                return Err(Refusal::List("revocation lies in the future".into()));
            }
        }
        Ok(())
    }
}
