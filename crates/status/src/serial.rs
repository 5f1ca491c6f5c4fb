//! The certificate serial number, which carries the status place (protocol P13).
//!
//! ```text
//! 0x01 | log generation (1) | bucket (u32) | index (u40) | random (9)     always 20 octets
//! ```
//!
//! The first octet keeps the DER INTEGER positive and its length constant. A proxy that hands on
//! only the serial can be answered from it, but only the issuer's own bundle makes a serial
//! trustworthy: check the chain before reading a place out of one.

use crate::octets::{Reader, Truncated, u40};
use crate::place::{Generation, LogId, Place, Slot};

/// Octets in a serial.
pub const SERIAL_LEN: usize = 20;

const VERSION: u8 = 0x01;

/// A certificate's serial number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Serial {
    /// Generation of the log that the slot belongs to.
    pub generation: Generation,
    /// Where the task's status is kept.
    pub slot: Slot,
    /// What tells apart the certificates of one task.
    pub random: [u8; 9],
}

impl Serial {
    /// The serial's octets, most significant first: the content of the DER INTEGER.
    #[must_use]
    pub fn encode(&self) -> [u8; SERIAL_LEN] {
        let [b0, b1, b2, b3] = self.slot.bucket().to_be_bytes();
        let [i0, i1, i2, i3, i4] = u40(self.slot.index());
        let [r0, r1, r2, r3, r4, r5, r6, r7, r8] = self.random;
        let generation = self.generation.get();
        [
            VERSION, generation, b0, b1, b2, b3, i0, i1, i2, i3, i4, r0, r1, r2, r3, r4, r5, r6,
            r7, r8,
        ]
    }

    /// # Errors
    /// [`SerialError`] for another length, another first octet, or generation zero.
    pub fn decode(octets: &[u8]) -> Result<Self, SerialError> {
        if octets.len() != SERIAL_LEN {
            return Err(SerialError::Length(octets.len()));
        }
        let mut reader = Reader::new(octets);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(SerialError::Version(version));
        }
        let generation = Generation::new(reader.u8()?).ok_or(SerialError::NoGeneration)?;
        let (bucket, index) = (reader.u32()?, reader.u40()?);
        let slot = Slot::new(bucket, index).map_err(|_| SerialError::Length(octets.len()))?;
        Ok(Self {
            generation,
            slot,
            random: reader.array()?,
        })
    }

    /// The place, once the log that the reader trusts has the serial's generation.
    ///
    /// # Errors
    /// [`SerialError::OtherGeneration`] when it has another: the place would be another task's.
    pub fn place_in(&self, log: LogId, generation: Generation) -> Result<Place, SerialError> {
        if self.generation != generation {
            return Err(SerialError::OtherGeneration {
                serial: self.generation,
                log: generation,
            });
        }
        Ok(self.slot.in_log(log))
    }
}

/// Not a serial of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SerialError {
    /// Not 20 octets.
    #[error("serial has {0} octets, not 20")]
    Length(usize),
    /// The first octet is not 1.
    #[error("serial version {0} is unknown")]
    Version(u8),
    /// Generation zero.
    #[error("serial names no log generation")]
    NoGeneration,
    /// A place of another log.
    #[error("serial is of log generation {serial}, not {log}")]
    OtherGeneration {
        /// What the serial says.
        serial: Generation,
        /// What the reader trusts.
        log: Generation,
    },
}

impl From<Truncated> for SerialError {
    fn from(_: Truncated) -> Self {
        Self::Length(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::place::MAX_INDEX;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn every_serial_comes_back(g in 1_u8.., bucket: u32, index in 0..=MAX_INDEX, random: [u8; 9]) {
            let slot = Slot::new(bucket, index).unwrap();
            let serial = Serial { generation: Generation::new(g).unwrap(), slot, random };
            prop_assert_eq!(Serial::decode(&serial.encode()), Ok(serial));
        }

        #[test]
        fn what_decodes_encodes_to_the_same_octets(octets in proptest::collection::vec(any::<u8>(), 0..24)) {
            if let Ok(serial) = Serial::decode(&octets) {
                prop_assert_eq!(serial.encode().to_vec(), octets);
            }
        }
    }

    #[test]
    fn other_lengths_versions_and_no_generation_are_refused() {
        let serial = Serial {
            generation: Generation::FIRST,
            slot: Slot::new(7, 8).unwrap(),
            random: [9; 9],
        };
        let octets = serial.encode();
        assert_eq!(Serial::decode(&octets[1..]), Err(SerialError::Length(19)));
        let mut other = octets;
        other[0] = 2;
        assert_eq!(Serial::decode(&other), Err(SerialError::Version(2)));
        other[0] = 1;
        other[1] = 0;
        assert_eq!(Serial::decode(&other), Err(SerialError::NoGeneration));
    }

    #[test]
    fn a_serial_of_another_generation_names_no_place() {
        let serial = Serial {
            generation: Generation::FIRST,
            slot: Slot::new(7, 8).unwrap(),
            random: [9; 9],
        };
        let second = Generation::new(2).unwrap();
        assert!(serial.place_in(LogId([1; 8]), Generation::FIRST).is_ok());
        assert_eq!(
            serial.place_in(LogId([1; 8]), second),
            Err(SerialError::OtherGeneration {
                serial: Generation::FIRST,
                log: second
            })
        );
    }
}
