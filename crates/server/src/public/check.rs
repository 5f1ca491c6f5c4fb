//! `/check/<serial>`, for nginx's `auth_request` and the like: whether a certificate that was
//! verified already still counts. The serial carries the place (P13), so the answer is two bits.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use taskmint_status::Serial;
use taskmint_status::serial::SERIAL_LEN;

use super::Public;
use super::problem::Problem;

/// What nginx calls `$ssl_client_serial`, handed on.
const SERIAL_HEADER: &str = "x-ssl-client-serial";

/// The longest serial of RFC 5280, in hexadecimal, with room for separators.
const MAX_TEXT: usize = 64;

pub(super) async fn by_path(
    State(public): State<Public>,
    Path(serial): Path<String>,
) -> Result<StatusCode, Problem> {
    judge(&public, &serial).await
}

pub(super) async fn by_header(
    State(public): State<Public>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let mut values = headers.get_all(SERIAL_HEADER).into_iter();
    match (values.next(), values.next()) {
        (Some(serial), None) => {
            let serial = serial.to_str().map_err(|_| malformed())?;
            judge(&public, serial).await
        }
        // A client may have sent one of its own along.
        (Some(_), Some(_)) => Err(malformed()),
        (None, _) => Err(refused()),
    }
}

async fn judge(public: &Public, text: &str) -> Result<StatusCode, Problem> {
    // A proxy whose client showed no certificate hands on nothing.
    if text.is_empty() {
        return Err(refused());
    }
    let Some(serial) = read(text)? else {
        return Err(refused());
    };
    if public.issuer.is_serial_valid(&serial).await? {
        Ok(StatusCode::OK)
    } else {
        Err(refused())
    }
}

/// A serial in hexadecimal; nothing for one that is none of ours.
fn read(text: &str) -> Result<Option<Serial>, Problem> {
    if text.len() > MAX_TEXT {
        return Err(malformed());
    }
    let mut digits: String = text.chars().filter(|c| *c != ':').collect();
    // Our first octet is 01, and some write numbers without zeroes in front.
    if digits.len() % 2 == 1 {
        digits.insert(0, '0');
    }
    let octets = hex::decode(digits).map_err(|_| malformed())?;
    if octets.is_empty() {
        return Err(malformed());
    }
    Ok(match octets.len() {
        SERIAL_LEN => Serial::decode(&octets).ok(),
        _ => None,
    })
}

fn malformed() -> Problem {
    Problem::bad("BAD_SERIAL", "a serial number is hexadecimal")
}

/// One answer for whatever does not count: it says nothing about why.
fn refused() -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        "NOT_VALID",
        "no certificate with this serial number counts",
    )
}
