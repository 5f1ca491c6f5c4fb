//! PEM, written by hand: what reads or writes it in products is held against this.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

/// An envelope of RFC 7468 in lines of 64, ending in a newline.
pub fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for (index, character) in BASE64_STANDARD.encode(der).chars().enumerate() {
        if index > 0 && index % 64 == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text + &format!("\n-----END {label}-----\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_64_characters_and_the_last_one_what_is_left() {
        let full = "AAAA".repeat(16);
        let of = |len| pem("X509 CRL", &vec![0; len]);
        let body =
            |body: &str| format!("-----BEGIN X509 CRL-----\n{body}\n-----END X509 CRL-----\n");
        assert_eq!(of(3), body("AAAA"));
        assert_eq!(of(48), body(&full));
        assert_eq!(of(49), body(&format!("{full}\nAA==")));
    }
}
