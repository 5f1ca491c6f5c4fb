//! The boot id: start times count from it, so they mean nothing without it.

use std::sync::OnceLock;
use std::{fs, io};

const PATH: &str = "/proc/sys/kernel/random/boot_id";

static BOOT_ID: OnceLock<[u8; 16]> = OnceLock::new();

/// The id of this boot of this machine, read once.
///
/// # Errors
/// If `/proc/sys/kernel/random/boot_id` can't be read or holds no UUID.
pub fn boot_id() -> io::Result<[u8; 16]> {
    if let Some(id) = BOOT_ID.get() {
        return Ok(*id);
    }
    let text = fs::read_to_string(PATH)?;
    let id = parse(text.trim_end()).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{PATH} holds no uuid"))
    })?;
    Ok(*BOOT_ID.get_or_init(|| id))
}

fn parse(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    if digits.len() != 32 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(&digits, 16)
        .ok()
        .map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_id_is_a_uuid_and_stays() {
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
        assert_ne!(boot_id().unwrap(), [0; 16]);
    }

    #[test]
    fn what_is_no_uuid_is_refused() {
        let good = "00010203-0405-0607-0809-0a0b0c0d0e0f";
        assert_eq!(parse(good).unwrap()[15], 15);
        for bad in [
            "",
            "0001",
            &good[1..],
            &format!("{good}0"),
            &good.replace('f', "g"),
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
