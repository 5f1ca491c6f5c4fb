//! What an operator writes.

use taskmint_config::{AgentConfig, Mistakes, Overrides, ServerConfig};

/// A mistake is told with a place inside the text.
pub fn config_agent(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    tell(
        text,
        AgentConfig::check(text, "agent.toml", &Overrides::none()).map(drop),
    );
}

/// The same for the server's.
pub fn config_server(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    tell(
        text,
        ServerConfig::check(text, "server.toml", &Overrides::none()).map(drop),
    );
}

fn tell(text: &str, outcome: Result<(), Mistakes>) {
    let Err(mistakes) = outcome else { return };
    assert!(
        !mistakes.to_string().is_empty(),
        "refused without a word: {text:?}"
    );
}
