//! What a server and its signer say to each other: each reads what the other may have been made to
//! say.

use bytes::Bytes;
use taskmint_mint::protocol::{Answer, Call, CheckKey, Numbered, Unchecked, digest};

/// A frame to the signer.
pub fn signer_ask(data: &[u8]) {
    let Ok(asked) = Numbered::<Call>::decode(data) else {
        return;
    };
    let id = asked.id;
    let message = asked.encode();
    let again = Numbered::<Call>::decode(&message).expect("our own message");
    assert_eq!(again.id, id);
    assert_eq!(again.encode(), message);
}

/// A frame from the signer; then the same as an answer whose check is right.
pub fn signer_reply(data: &[u8]) {
    let (check, asked) = (CheckKey::new([7; 32]), digest(b"asked"));
    if let Ok(unchecked) = Unchecked::decode(Bytes::copy_from_slice(data)) {
        drop(unchecked.refusal());
        drop(unchecked.checked(&check, &asked));
    }
    let Some(read) = checked(&reply(data, &check.check(&asked, data)), &check) else {
        return;
    };
    let message = read.encode(&check, &asked);
    let again = checked(&message, &check).expect("our own message");
    assert_eq!(again.encode(&check, &asked), message);
    // Not one octet of it may be another.
    let mut changed = message;
    if let Some(last) = changed.last_mut() {
        *last ^= 1;
    }
    assert!(checked(&changed, &check).is_none());
}

fn checked(message: &[u8], check: &CheckKey) -> Option<Numbered<Answer>> {
    let unchecked = Unchecked::decode(Bytes::copy_from_slice(message)).ok()?;
    let id = unchecked.id;
    let what = unchecked.checked(check, &digest(b"asked")).ok()?;
    Some(Numbered { id, what })
}

/// A message of two fields of octets.
fn reply(answer: &[u8], check: &[u8; 32]) -> Vec<u8> {
    let mut message = vec![0x0a];
    let mut length = answer.len();
    while length > 0x7f {
        message.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    message.push(length as u8);
    message.extend_from_slice(answer);
    message.extend_from_slice(&[0x12, 32]);
    message.extend_from_slice(check);
    message
}
