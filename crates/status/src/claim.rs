//! The JWT claim that names the task: the same facts as the certificate extension (protocol P13).
//!
//! ```json
//! "https://taskmint.dev/task": {
//!     "v": 1,
//!     "log": "qqqqqqqqqqo",
//!     "task": "01890a5d-ac96-774b-bcce-b302099a8057",
//!     "root": "01890a5d-ac96-774b-bcce-b302099a8057",
//!     "bucket": 495000,
//!     "index": 17 }
//! ```
//!
//! Members that are not listed are ignored, as trailing fields of the extension are.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::extension::TaskBinding;
use crate::place::{LogId, Place};

/// The claim's name.
pub const TASK_CLAIM: &str = "https://taskmint.dev/task";

const VERSION: u64 = 1;

/// The claim, ready to be written; in the order of its members' names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Claim {
    bucket: u32,
    index: u64,
    log: String,
    root: String,
    task: String,
    v: u64,
}

impl From<&TaskBinding> for Claim {
    fn from(binding: &TaskBinding) -> Self {
        Self {
            bucket: binding.place.bucket(),
            index: binding.place.index(),
            log: BASE64_URL_SAFE_NO_PAD.encode(binding.place.log().0),
            root: uuid_text(&binding.root),
            task: uuid_text(&binding.task),
            v: VERSION,
        }
    }
}

/// The claim's value for a binding.
#[must_use]
pub fn to_value(binding: &TaskBinding) -> Value {
    let Claim {
        bucket,
        index,
        log,
        root,
        task,
        v,
    } = binding.into();
    json!({ "bucket": bucket, "index": index, "log": log, "root": root, "task": task, "v": v })
}

/// Reads the claim's value.
///
/// # Errors
/// [`ClaimError`] when it is no object, or a member is missing, of another type, out of range or
/// not in its one canonical form (base64url without padding, lowercase UUIDs with hyphens).
pub fn from_value(value: &Value) -> Result<TaskBinding, ClaimError> {
    let claim = value.as_object().ok_or(ClaimError::NotAnObject)?;
    match number(claim, "v")? {
        VERSION => {}
        other => return Err(ClaimError::Version(other)),
    }
    let log = LogId(log_from(text(claim, "log")?).ok_or(ClaimError::Member("log"))?);
    let task = uuid_from(text(claim, "task")?).ok_or(ClaimError::Member("task"))?;
    let root = uuid_from(text(claim, "root")?).ok_or(ClaimError::Member("root"))?;
    let bucket =
        u32::try_from(number(claim, "bucket")?).map_err(|_| ClaimError::Member("bucket"))?;
    let index = number(claim, "index")?;
    let place = Place::new(log, bucket, index).map_err(|_| ClaimError::Member("index"))?;
    Ok(TaskBinding { place, task, root })
}

/// Not a task claim of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// The claim is not a JSON object.
    #[error("task claim is not an object")]
    NotAnObject,
    /// Another version of the claim.
    #[error("task claim version {0} is unknown")]
    Version(u64),
    /// A member is missing, of another type, out of range or not canonical.
    #[error("task claim member `{0}` is missing or malformed")]
    Member(&'static str),
}

fn number(claim: &Map<String, Value>, name: &'static str) -> Result<u64, ClaimError> {
    claim
        .get(name)
        .and_then(Value::as_u64)
        .ok_or(ClaimError::Member(name))
}

fn text<'a>(claim: &'a Map<String, Value>, name: &'static str) -> Result<&'a str, ClaimError> {
    claim
        .get(name)
        .and_then(Value::as_str)
        .ok_or(ClaimError::Member(name))
}

fn log_from(text: &str) -> Option<[u8; 8]> {
    // Eight octets are eleven characters; nothing longer is worth decoding.
    if text.len() != 11 {
        return None;
    }
    BASE64_URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

fn uuid_text(id: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (at, octet) in id.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        for digit in [octet >> 4, octet & 0xf] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        }
    }
    text
}

fn uuid_from(text: &str) -> Option<[u8; 16]> {
    let mut id = [0; 16];
    let mut digits = text.bytes().filter(|byte| *byte != b'-');
    for octet in &mut id {
        *octet = hex_digit(digits.next()?)? << 4 | hex_digit(digits.next()?)?;
    }
    // The one canonical text: wrong hyphens and further digits show here.
    (uuid_text(&id) == text).then_some(id)
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::place::MAX_INDEX;

    fn claim() -> Value {
        json!({
            "v": 1,
            "log": "qqqqqqqqqqo",
            "task": "01890a5d-ac96-774b-bcce-b302099a8057",
            "root": "01890a5d-ac96-774b-bcce-b302099a8058",
            "bucket": 495_000,
            "index": 17,
        })
    }

    #[test]
    fn the_claim_of_the_documentation_is_read_and_written() {
        let binding = from_value(&claim()).unwrap();
        assert_eq!(
            binding.place,
            Place::new(LogId([0xaa; 8]), 495_000, 17).unwrap()
        );
        assert_eq!(to_value(&binding), claim());
        assert_eq!(
            serde_json::to_string(&Claim::from(&binding)).unwrap(),
            to_value(&binding).to_string()
        );
    }

    #[test]
    fn unknown_members_are_ignored() {
        let mut with = claim();
        with["more"] = json!(true);
        assert_eq!(from_value(&with), from_value(&claim()));
    }

    #[test]
    fn malformed_members_are_refused_by_name() {
        let cases = [
            ("v", json!("1")),
            ("v", json!(1.0)),
            ("log", json!("qqqqqqqqqqo=")),
            ("log", json!("qqqqqqqqqqp")),
            ("log", json!("qqqqqqqqq+o")),
            ("task", json!("01890A5D-ac96-774b-bcce-b302099a8057")),
            ("task", json!("01890a5dac96774bbcceb302099a8057")),
            ("root", json!("01890a5d-ac96-774b-bcce-b302099a80570")),
            ("root", json!("0-1890a5dac96-774b-bcce-b302099a8057")),
            ("bucket", json!(1_u64 << 32)),
            ("bucket", json!(-1)),
            ("index", json!(MAX_INDEX + 1)),
            ("index", json!("17")),
            ("index", Value::Null),
        ];
        for (name, value) in cases {
            let mut bad = claim();
            bad[name] = value.clone();
            assert_eq!(
                from_value(&bad),
                Err(ClaimError::Member(name)),
                "{name}: {value}"
            );
            bad.as_object_mut().unwrap().remove(name);
            assert_eq!(
                from_value(&bad),
                Err(ClaimError::Member(name)),
                "{name} missing"
            );
        }
        assert_eq!(from_value(&json!([])), Err(ClaimError::NotAnObject));
        let mut later = claim();
        later["v"] = json!(2);
        assert_eq!(from_value(&later), Err(ClaimError::Version(2)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn every_binding_comes_back(bucket: u32, index in 0..=MAX_INDEX, log: [u8; 8], task: [u8; 16], root: [u8; 16]) {
            let binding = TaskBinding { place: Place::new(LogId(log), bucket, index).unwrap(), task, root };
            prop_assert_eq!(from_value(&to_value(&binding)), Ok(binding));
        }

        #[test]
        fn arbitrary_text_is_no_uuid_unless_canonical(text in "[0-9a-f-]{30,40}") {
            if let Some(id) = uuid_from(&text) {
                prop_assert_eq!(uuid_text(&id), text);
            }
        }
    }
}
