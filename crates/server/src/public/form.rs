//! `application/x-www-form-urlencoded`, as RFC 7662 wants it: each parameter at most once.

/// The one value of a parameter.
///
/// # Errors
/// When the form is none, or gives the parameter twice.
pub(super) fn value(form: &[u8], wanted: &str) -> Result<Option<String>, Malformed> {
    let mut found = None;
    for pair in form.split(|octet| *octet == b'&') {
        let mut parts = pair.splitn(2, |octet| *octet == b'=');
        let name = decoded(parts.next().unwrap_or_default())?;
        let value = decoded(parts.next().unwrap_or_default())?;
        if name == wanted && found.replace(value).is_some() {
            return Err(Malformed);
        }
    }
    Ok(found)
}

/// Not a form, or a parameter twice.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

fn decoded(text: &[u8]) -> Result<String, Malformed> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(octet) = rest.next() {
        octets.push(match octet {
            b'+' => b' ',
            b'%' => {
                let (Some(high), Some(low)) = (rest.next(), rest.next()) else {
                    return Err(Malformed);
                };
                let mut one = [0];
                hex::decode_to_slice([*high, *low], &mut one).map_err(|_| Malformed)?;
                let [octet] = one;
                octet
            }
            octet => *octet,
        });
    }
    String::from_utf8(octets).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_decoded_and_stands_alone() {
        let of = |form: &str| value(form.as_bytes(), "token");
        let is = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(of("token=a.b-c"), is("a.b-c"));
        assert_eq!(of("x=1&token=a%2Eb+c&y"), is("a.b c"));
        assert_eq!(of("%74oken=a"), is("a"));
        assert_eq!(of("token="), is(""));
        assert_eq!(of(""), Ok(None));
        assert_eq!(of("tokens=a"), Ok(None));
        for bad in [
            "token=a&token=a",
            "token=%",
            "token=%2",
            "token=%zz",
            "token=%ff",
        ] {
            assert_eq!(of(bad), Err(Malformed), "{bad}");
        }
    }
}
