//! What overrides the file: environment variables, then flags.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where systemd puts what `LoadCredential=` names.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// Environment and flags, as values: nothing here reads the process's own unless
/// [`Overrides::from_process`] is asked to.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    environment: BTreeMap<String, String>,
    flags: Vec<(String, Option<String>)>,
}

impl Overrides {
    /// Overrides nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// From environment variables and `key=value` pairs; of two pairs for a key the last counts.
    pub fn new(
        environment: impl IntoIterator<Item = (String, String)>,
        sets: impl IntoIterator<Item = String>,
    ) -> Self {
        let flags = sets.into_iter().map(|set| match set.split_once('=') {
            Some((key, value)) => (key.trim().to_owned(), Some(value.to_owned())),
            None => (set, None),
        });
        Self {
            environment: environment.into_iter().collect(),
            flags: flags.collect(),
        }
    }

    /// From the process's own environment and the given `key=value` pairs.
    pub fn from_process(sets: impl IntoIterator<Item = String>) -> Self {
        // What is no UTF-8 can't be one of our variables or values.
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Self::new(environment, sets)
    }

    /// Where the service manager's credentials are, if it gave any.
    pub(crate) fn credentials(&self) -> Option<&Path> {
        self.environment
            .get(CREDENTIALS)
            .filter(|path| !path.is_empty())
            .map(Path::new)
    }

    /// The path of a credential that the service manager may have given.
    pub(crate) fn credential(&self, name: &str) -> Option<PathBuf> {
        self.credentials().map(|folder| folder.join(name))
    }

    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str)
    }

    /// The variables that begin with `prefix`.
    pub(crate) fn variables<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.environment
            .keys()
            .map(String::as_str)
            .filter(move |name| name.starts_with(prefix))
    }

    pub(crate) fn flag(&self, key: &str) -> Option<&str> {
        let mut given = self.flags.iter().rev();
        given
            .find(|(name, _)| name == key)
            .and_then(|(_, value)| value.as_deref())
    }

    /// The keys of all flags, and whether each has a value.
    pub(crate) fn flags(&self) -> impl Iterator<Item = (&str, bool)> {
        self.flags
            .iter()
            .map(|(key, value)| (key.as_str(), value.is_some()))
    }
}

/// The environment variable for a key: `TASKMINT_SERVER_` and `credentials.x509_ttl` make
/// `TASKMINT_SERVER_CREDENTIALS_X509_TTL`.
pub(crate) fn variable_name(prefix: &str, key: &str) -> String {
    format!("{prefix}{}", key.replace('.', "_").to_uppercase())
}

/// Whether a variable is not ours though it begins like one: the path of the file itself, which
/// the command line reads, and what Kubernetes sets in every pod beside a Service that is called
/// `taskmint-server`.
pub(crate) fn is_foreign(prefix: &str, variable: &str) -> bool {
    let Some(rest) = variable.strip_prefix(prefix) else {
        return true;
    };
    rest == "CONFIG"
        || rest == "PORT"
        || rest == "SERVICE_HOST"
        || rest.starts_with("PORT_")
        || rest.starts_with("SERVICE_PORT")
}
