//! Settings out of the configuration file.

use std::sync::Arc;

use taskmint_config::{AgentConfig, NodeAttestor, SecretSource};
use taskmint_model::{SystemClock, SystemEntropy};

use crate::settings::{JoinSource, Limits, NodeProof, ServerAddress, Settings, Sockets};

impl From<AgentConfig> for Settings {
    fn from(config: AgentConfig) -> Self {
        let limits = Limits {
            max_connections: config.limits.max_connections,
            max_connections_per_uid: config.limits.max_connections_per_uid,
            max_calls_per_connection: config.limits.max_calls_per_connection,
            max_watches: config.limits.max_watches,
            max_watches_per_uid: config.limits.max_watches_per_uid,
            max_begins: config.limits.max_begins as usize,
            calls_per_second: config.limits.per_caller.per_second,
            burst: config.limits.per_caller.burst,
        };
        let unix = &config.workload_attestors.unix;
        Self {
            trust_domain: config.trust_domain,
            data_dir: config.data_dir,
            join: match config.join_string_file {
                Some(SecretSource::File(path)) => JoinSource::File(path),
                Some(SecretSource::StandardInput) => JoinSource::StandardInput,
                None => JoinSource::None,
            },
            server: ServerAddress {
                node: config.server.address.map(|address| address.to_string()),
                watch: config
                    .server
                    .watch_address
                    .map(|address| address.to_string()),
                root_sha256: config.server.root_sha256.map(|fingerprint| fingerprint.0),
            },
            proof: match config.node_attestor {
                NodeAttestor::JoinToken => NodeProof::JoinToken,
                NodeAttestor::X509Pop {
                    certificate_file,
                    key_file,
                } => NodeProof::X509Pop {
                    certificate_file,
                    key_file,
                },
            },
            sockets: Sockets {
                workload: config.sockets.workload,
                task: config.sockets.task,
                revocation: config.sockets.revocation,
                task_dir: config.sockets.task_dir,
            },
            http_listen: Some(config.http_listen),
            limits,
            drift_allowance: Some(config.revocation.drift_allowance),
            unix: taskmint_workload_unix::Config {
                discover_path: unix.discover_path,
                max_sha256_bytes: unix.max_sha256_bytes,
            },
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use taskmint_config::Overrides;

    #[test]
    fn without_a_word_the_limits_are_those_of_the_settings() {
        let config = AgentConfig::parse("", "agent.toml", &Overrides::none()).unwrap();
        assert_eq!(Settings::from(config).limits, Limits::default());
    }

    #[test]
    fn what_the_file_says_is_what_the_agent_does() {
        let text = "data_dir = \"/d\"\njoin_string_file = \"/j\"\nworkload_socket = \"/w.sock\"\n\
                    [server]\naddress = \"s.example:8441\"\n[limits]\nmax_connections_per_uid = 7\n\
                    max_calls_per_connection = 9\nmax_begins = 3\n\
                    [revocation]\ndrift_allowance = \"20ms\"\n";
        let config = AgentConfig::parse(text, "agent.toml", &Overrides::none()).unwrap();
        let settings = Settings::from(config);
        assert_eq!(settings.data_dir.to_str(), Some("/d"));
        assert_eq!(settings.sockets.workload.to_str(), Some("/w.sock"));
        assert_eq!(settings.server.node.as_deref(), Some("s.example:8441"));
        assert_eq!(settings.limits.max_connections_per_uid, 7);
        assert_eq!(settings.limits.max_calls_per_connection, 9);
        assert_eq!(settings.limits.max_begins, 3);
        assert_eq!(settings.drift_allowance, Some(Duration::from_millis(20)));
        assert!(matches!(settings.join, JoinSource::File(path) if path.to_str() == Some("/j")));
    }
}
