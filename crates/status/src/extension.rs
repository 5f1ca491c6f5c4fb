//! The certificate extension that names the task (protocol P13), in strict DER.
//!
//! ```text
//! TaskBinding ::= SEQUENCE {
//!     version INTEGER (1),
//!     logId   OCTET STRING (SIZE(8)),
//!     taskId  OCTET STRING (SIZE(16)),
//!     rootId  OCTET STRING (SIZE(16)),
//!     bucket  INTEGER,        -- hours since 1970, 32 bits
//!     index   INTEGER }       -- 40 bits
//! ```
//!
//! Well-formed fields after `index` are ignored. The extension is never critical. Only the issuer's
//! own bundle makes it trustworthy: check the chain before reading it.
//!
//! # The arc
//! UUID `45db8993-a3df-46ff-8ffa-3e4f80400b0c`, cut from the left into five arcs of 16 bits and two
//! of 24, below 1.2.840.113556.1.8000.2554: a 2.25 arc would hold the UUID in one number, and Go's
//! parser refuses the whole certificate for an arc of 2^31 or more.

use crate::octets::{Reader, Truncated};
use crate::place::{LogId, Place};
use crate::serial::Serial;

/// `TaskBinding`'s object identifier: the project's arc, then 1.
pub const TASK_BINDING_OID: &[u64] = &[
    1, 2, 840, 113_556, 1, 8000, 2554, 17_883, 35_219, 41_951, 18_175, 36_858, 4_083_584,
    4_197_132, 1,
];

/// [`TASK_BINDING_OID`] as dotted text.
pub const TASK_BINDING_OID_TEXT: &str =
    "1.2.840.113556.1.8000.2554.17883.35219.41951.18175.36858.4083584.4197132.1";

/// The content octets of [`TASK_BINDING_OID`] in DER, without tag and length.
pub const TASK_BINDING_OID_DER: &[u8] = &[
    0x2a, 0x86, 0x48, 0x86, 0xf7, 0x14, 0x01, 0xbe, 0x40, 0x93, 0x7a, 0x81, 0x8b, 0x5b, 0x82, 0x93,
    0x13, 0x82, 0xc7, 0x5f, 0x81, 0x8d, 0x7f, 0x82, 0x9f, 0x7a, 0x81, 0xf9, 0x9f, 0x00, 0x82, 0x80,
    0x96, 0x0c, 0x01,
];

/// The extended key usage of the certificates that certify head keys (protocol P15): the arc, then 2.
pub const HEAD_SIGNING_OID: &[u64] = &[
    1, 2, 840, 113_556, 1, 8000, 2554, 17_883, 35_219, 41_951, 18_175, 36_858, 4_083_584,
    4_197_132, 2,
];

/// [`HEAD_SIGNING_OID`] as dotted text.
pub const HEAD_SIGNING_OID_TEXT: &str =
    "1.2.840.113556.1.8000.2554.17883.35219.41951.18175.36858.4083584.4197132.2";

/// The content octets of [`HEAD_SIGNING_OID`] in DER, without tag and length.
pub const HEAD_SIGNING_OID_DER: &[u8] = &[
    0x2a, 0x86, 0x48, 0x86, 0xf7, 0x14, 0x01, 0xbe, 0x40, 0x93, 0x7a, 0x81, 0x8b, 0x5b, 0x82, 0x93,
    0x13, 0x82, 0xc7, 0x5f, 0x81, 0x8d, 0x7f, 0x82, 0x9f, 0x7a, 0x81, 0xf9, 0x9f, 0x00, 0x82, 0x80,
    0x96, 0x0c, 0x02,
];

/// The longest extension that is read at all, in octets: ours are under 80.
pub const MAX_EXTENSION_LEN: usize = 1024;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const VERSION: u64 = 1;

/// What ties a credential to its task: carried by the extension and by the JWT claim alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TaskBinding {
    /// Where the task's status is kept.
    pub place: Place,
    /// The task's id.
    pub task: [u8; 16],
    /// The id of the task at the root of its tree; its own for a task without a parent.
    pub root: [u8; 16],
}

impl TaskBinding {
    /// The extension's value in DER.
    #[must_use]
    pub fn to_der(&self) -> Vec<u8> {
        let mut content = Vec::with_capacity(72);
        put_integer(&mut content, VERSION);
        put(&mut content, OCTET_STRING, &self.place.log().0);
        put(&mut content, OCTET_STRING, &self.task);
        put(&mut content, OCTET_STRING, &self.root);
        put_integer(&mut content, u64::from(self.place.bucket()));
        put_integer(&mut content, self.place.index());
        let mut der = Vec::with_capacity(content.len() + 2);
        put(&mut der, SEQUENCE, &content);
        der
    }

    /// Reads the extension's value.
    ///
    /// # Errors
    /// [`BindingError`] for anything but DER of the shape above: lengths and integers in their
    /// shortest form, nothing after the sequence.
    pub fn from_der(der: &[u8]) -> Result<Self, BindingError> {
        if der.len() > MAX_EXTENSION_LEN {
            return Err(BindingError::TooLong(der.len()));
        }
        let mut outer = Reader::new(der);
        let mut fields = Reader::new(field(&mut outer, SEQUENCE)?);
        if !outer.is_empty() {
            return Err(BindingError::Trailing);
        }
        let version = integer(&mut fields)?;
        if version != VERSION {
            return Err(BindingError::Version(version));
        }
        let log = LogId(octets(&mut fields)?);
        let (task, root) = (octets(&mut fields)?, octets(&mut fields)?);
        let bucket = u32::try_from(integer(&mut fields)?).map_err(|_| BindingError::Range)?;
        let index = integer(&mut fields)?;
        let place = Place::new(log, bucket, index).map_err(|_| BindingError::Range)?;
        while !fields.is_empty() {
            any_field(&mut fields)?;
        }
        Ok(Self { place, task, root })
    }

    /// Whether a certificate's serial names the same slot (protocol P13: it must).
    ///
    /// The serial names its log by generation only; [`Serial::place_in`] checks that one.
    ///
    /// # Errors
    /// [`BindingError::Disagreement`] when it doesn't.
    pub fn agree_with(&self, serial: &Serial) -> Result<(), BindingError> {
        if serial.slot == self.place.slot() {
            Ok(())
        } else {
            Err(BindingError::Disagreement)
        }
    }
}

/// Not a `TaskBinding` of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindingError {
    /// Longer than [`MAX_EXTENSION_LEN`].
    #[error("extension has {0} octets")]
    TooLong(usize),
    /// The input ends inside a field.
    #[error("extension ends inside a field")]
    Truncated,
    /// A tag or a length that the shape doesn't have, or not in its shortest form.
    #[error("extension is not strict der")]
    Der,
    /// Octets after the sequence.
    #[error("extension has trailing octets")]
    Trailing,
    /// Another version of the structure.
    #[error("task binding version {0} is unknown")]
    Version(u64),
    /// A bucket over 32 bits, an index over 40, or a negative number.
    #[error("bucket or index is out of range")]
    Range,
    /// Extension and serial name different slots.
    #[error("extension and serial name different places")]
    Disagreement,
}

impl From<Truncated> for BindingError {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

/// Every length written here is below 128, so one octet holds it.
fn put(into: &mut Vec<u8>, tag: u8, content: &[u8]) {
    debug_assert!(content.len() < 128, "a short form length");
    into.push(tag);
    into.push(content.len() as u8);
    into.extend_from_slice(content);
}

fn put_integer(into: &mut Vec<u8>, value: u64) {
    let bytes = value.to_be_bytes();
    let zeros = bytes
        .iter()
        .take(7)
        .take_while(|octet| **octet == 0)
        .count();
    let mut content = Vec::with_capacity(9);
    let digits = bytes.iter().skip(zeros).copied();
    // A set top bit would read as a negative number.
    if digits.clone().next().is_some_and(|first| first >= 0x80) {
        content.push(0);
    }
    content.extend(digits);
    put(into, INTEGER, &content);
}

fn field<'a>(reader: &mut Reader<'a>, tag: u8) -> Result<&'a [u8], BindingError> {
    let (found, content) = any_field(reader)?;
    if found == tag {
        Ok(content)
    } else {
        Err(BindingError::Der)
    }
}

fn any_field<'a>(reader: &mut Reader<'a>) -> Result<(u8, &'a [u8]), BindingError> {
    let tag = reader.u8()?;
    // A number of 31 announces a tag of several octets, which nothing here needs.
    if tag & 0x1f == 0x1f || tag == 0 {
        return Err(BindingError::Der);
    }
    let len = match reader.u8()? {
        short @ 0..=0x7f => usize::from(short),
        0x81 => match reader.u8()? {
            long @ 0x80.. => usize::from(long),
            _ => return Err(BindingError::Der),
        },
        0x82 => match reader.u16()? {
            long @ 0x100.. => usize::from(long),
            _ => return Err(BindingError::Der),
        },
        _ => return Err(BindingError::Der),
    };
    Ok((tag, reader.slice(len)?))
}

fn octets<const N: usize>(reader: &mut Reader<'_>) -> Result<[u8; N], BindingError> {
    field(reader, OCTET_STRING)?
        .try_into()
        .map_err(|_| BindingError::Der)
}

fn integer(reader: &mut Reader<'_>) -> Result<u64, BindingError> {
    let digits = match field(reader, INTEGER)? {
        [] => return Err(BindingError::Der),
        [0, low, ..] if *low < 0x80 => return Err(BindingError::Der),
        [first, ..] if *first >= 0x80 => return Err(BindingError::Range),
        [0, rest @ ..] if !rest.is_empty() => rest,
        digits => digits,
    };
    if digits.len() > 8 {
        return Err(BindingError::Range);
    }
    Ok(digits
        .iter()
        .fold(0, |value, octet| value << 8 | u64::from(*octet)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::place::{Generation, MAX_INDEX, Slot};

    fn binding(bucket: u32, index: u64) -> TaskBinding {
        let place = Place::new(LogId([0xaa; 8]), bucket, index).unwrap();
        TaskBinding {
            place,
            task: [1; 16],
            root: [2; 16],
        }
    }

    fn oid_der(arcs: &[u64]) -> Vec<u8> {
        let mut out = vec![(arcs[0] * 40 + arcs[1]) as u8];
        for arc in &arcs[2..] {
            let groups = (64 - arc.leading_zeros()).div_ceil(7).max(1);
            for group in (0..groups).rev() {
                let more = if group == 0 { 0 } else { 0x80 };
                out.push((arc >> (7 * group)) as u8 & 0x7f | more);
            }
        }
        out
    }

    #[test]
    fn the_oids_agree_in_all_three_forms_and_every_arc_is_small() {
        for (arcs, text, der) in [
            (
                TASK_BINDING_OID,
                TASK_BINDING_OID_TEXT,
                TASK_BINDING_OID_DER,
            ),
            (
                HEAD_SIGNING_OID,
                HEAD_SIGNING_OID_TEXT,
                HEAD_SIGNING_OID_DER,
            ),
        ] {
            let dotted: Vec<String> = arcs.iter().map(u64::to_string).collect();
            assert_eq!(dotted.join("."), text);
            assert_eq!(oid_der(arcs), der);
            assert!(arcs.iter().all(|arc| *arc < 1 << 31));
        }
    }

    #[test]
    fn the_arc_is_the_uuid_cut_from_the_left() {
        let arcs = &TASK_BINDING_OID[7..14];
        let hex: String = arcs[..5].iter().map(|arc| format!("{arc:04x}")).collect();
        assert_eq!(
            format!("{hex}{:06x}{:06x}", arcs[5], arcs[6]),
            "45db8993a3df46ff8ffa3e4f80400b0c"
        );
    }

    #[test]
    fn unknown_trailing_fields_are_ignored_and_must_be_der() {
        let plain = binding(495_000, 300).to_der();
        let with = |more: &[u8]| {
            let mut der = plain.clone();
            der.extend_from_slice(more);
            der[1] += more.len() as u8;
            TaskBinding::from_der(&der)
        };
        assert_eq!(with(&[0x0c, 2, b'h', b'i']), Ok(binding(495_000, 300)));
        assert_eq!(with(&[0x0c, 3, b'h', b'i']), Err(BindingError::Truncated));
        assert_eq!(with(&[0x1f, 0x81, 0]), Err(BindingError::Der));
    }

    #[test]
    fn der_that_is_not_the_shortest_form_is_refused() {
        let plain = binding(495_000, 3).to_der();
        let mut long = vec![SEQUENCE, 0x81];
        long.extend_from_slice(&plain[1..]);
        assert_eq!(TaskBinding::from_der(&long), Err(BindingError::Der));

        let mut padded = plain.clone();
        padded[1] += 1;
        let last = padded.len() - 2;
        padded.splice(last.., [2, 0, 3]);
        assert_eq!(TaskBinding::from_der(&padded), Err(BindingError::Der));

        let mut indefinite = plain.clone();
        indefinite[1] = 0x80;
        assert_eq!(TaskBinding::from_der(&indefinite), Err(BindingError::Der));
    }

    #[test]
    fn bad_bindings_are_refused_each_for_its_reason() {
        let plain = binding(1, 1).to_der();
        let edited = |at: usize, to: u8| {
            let mut der = plain.clone();
            der[at] = to;
            TaskBinding::from_der(&der)
        };
        assert_eq!(edited(4, 2), Err(BindingError::Version(2)));
        assert_eq!(edited(4, 0xff), Err(BindingError::Range));
        assert_eq!(edited(5, INTEGER), Err(BindingError::Der));
        assert_eq!(edited(0, 0x31), Err(BindingError::Der));
        assert_eq!(
            TaskBinding::from_der(&plain[..10]),
            Err(BindingError::Truncated)
        );
        assert_eq!(TaskBinding::from_der(&[]), Err(BindingError::Truncated));
        let mut trailing = plain.clone();
        trailing.push(0);
        assert_eq!(
            TaskBinding::from_der(&trailing),
            Err(BindingError::Trailing)
        );
        assert_eq!(
            TaskBinding::from_der(&[0; 2000]),
            Err(BindingError::TooLong(2000))
        );
    }

    #[test]
    fn a_bucket_or_index_too_wide_is_refused() {
        let mut der = binding(1, 1).to_der();
        der.truncate(der.len() - 3);
        put_integer(&mut der, MAX_INDEX + 1);
        der[1] = (der.len() - 2) as u8;
        assert_eq!(TaskBinding::from_der(&der), Err(BindingError::Range));
    }

    #[test]
    fn a_serial_of_another_slot_disagrees() {
        let serial = |index| Serial {
            generation: Generation::FIRST,
            slot: Slot::new(7, index).unwrap(),
            random: [0; 9],
        };
        assert_eq!(binding(7, 9).agree_with(&serial(9)), Ok(()));
        assert_eq!(
            binding(7, 9).agree_with(&serial(10)),
            Err(BindingError::Disagreement)
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn every_binding_comes_back(bucket: u32, index in 0..=MAX_INDEX, log: [u8; 8], task: [u8; 16], root: [u8; 16]) {
            let binding = TaskBinding { place: Place::new(LogId(log), bucket, index).unwrap(), task, root };
            prop_assert_eq!(TaskBinding::from_der(&binding.to_der()), Ok(binding));
        }

        #[test]
        fn arbitrary_octets_never_panic(der in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(TaskBinding::from_der(&der).is_err(), "nobody guesses a binding");
        }

        #[test]
        fn a_damaged_binding_decodes_only_to_what_it_says(at in 0_usize..66, to: u8) {
            let mut der = binding(495_000, 70_000).to_der();
            let at = at % der.len();
            der[at] = to;
            if let Ok(read) = TaskBinding::from_der(&der) {
                prop_assert_eq!(read.to_der(), der);
            }
        }
    }
}
