//! Where a service is.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;

/// Where a service is, and how to be sure of it.
#[derive(Clone)]
pub enum Endpoint {
    /// A unix socket, by its path. Its folder's permissions are what makes it trustworthy.
    Unix(PathBuf),
    /// TCP under TLS.
    Tls {
        /// Host and port, such as `server.example:8443` or `[::1]:8443`.
        address: String,
        /// Who may be there and who we are. ALPN is set on connecting.
        config: Arc<ClientConfig>,
    },
}

/// Text that names no endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// The variable is not set.
    #[error("environment variable `{0}` is not set")]
    NotSet(&'static str),
    /// Neither `unix:` and an absolute path, nor an absolute path alone.
    #[error("`{0}` is not a unix socket: expected `unix:` and an absolute path")]
    NotUnix(String),
}

impl Endpoint {
    /// Reads what `SPIFFE_ENDPOINT_SOCKET` and its like hold: `unix:/path`, `unix:///path`, or
    /// the absolute path alone.
    ///
    /// # Errors
    /// [`EndpointError::NotUnix`] for anything else, `tcp:` too.
    pub fn from_socket(text: &str) -> Result<Self, EndpointError> {
        let path = match text.strip_prefix("unix:") {
            // `unix://` has an authority, which has to be empty.
            Some(rest) => rest.strip_prefix("//").unwrap_or(rest),
            None => text,
        };
        let plain = path.starts_with('/') && !path.contains(['?', '#', '\0']);
        if !plain {
            return Err(EndpointError::NotUnix(text.chars().take(256).collect()));
        }
        Ok(Self::Unix(PathBuf::from(path)))
    }

    /// Reads an environment variable as [`from_socket`](Self::from_socket) does.
    ///
    /// # Errors
    /// [`EndpointError`].
    pub fn from_env(name: &'static str) -> Result<Self, EndpointError> {
        match std::env::var(name) {
            Ok(text) if !text.is_empty() => Self::from_socket(&text),
            _ => Err(EndpointError::NotSet(name)),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tls { address, .. } => f.write_str(address),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_read_in_the_three_common_spellings() {
        for text in ["unix:/run/a.sock", "unix:///run/a.sock", "/run/a.sock"] {
            assert_eq!(
                Endpoint::from_socket(text).unwrap().to_string(),
                "unix:/run/a.sock"
            );
        }
    }

    #[test]
    fn what_is_no_socket_is_refused() {
        for text in [
            "",
            "run/a.sock",
            "unix:a.sock",
            "unix://host/a.sock",
            "tcp://127.0.0.1:1",
            "unix:/a?b",
        ] {
            let refused = Endpoint::from_socket(text).unwrap_err();
            assert_eq!(refused, EndpointError::NotUnix(text.to_owned()));
        }
    }
}
