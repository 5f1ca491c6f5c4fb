//! Where the program has its join string from, as a process of its own.

use std::io::Write as _;
use std::process::Stdio;

use taskmint_client::bootstrap::{JoinString, JoinToken};
use taskmint_id::TrustDomain;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use crate::fake::PATIENCE;

/// An agent that has never been a node, with `join` on its standard input, which then ends.
fn agent(folder: &TempDir, join: &[u8]) -> Child {
    let at = folder.path().display();
    let text = format!(
        "join_string_file = \"/no/such/file\"\ndata_dir = \"{at}/state\"\n\
         workload_socket = \"{at}/workload\"\ntask_socket = \"{at}/task\"\n\
         revocation_socket = \"{at}/revocation\"\ntask_socket_dir = \"{at}/tasks\"\n\
         http_listen = \"127.0.0.1:0\"\n"
    );
    let config = folder.path().join("agent.toml");
    std::fs::write(&config, text).unwrap();
    let mut given = tempfile::tempfile().unwrap();
    given.write_all(join).unwrap();
    std::io::Seek::rewind(&mut given).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_taskmint-agent"));
    command.arg("--config").arg(config);
    command.args(["-s", "join_string_file=-"]);
    command.stdin(given).stderr(Stdio::piped());
    command.stdout(Stdio::null()).kill_on_drop(true);
    command.spawn().unwrap()
}

/// Waits until the agent has logged this.
async fn says(agent: &mut Child, wanted: &str) {
    let mut log = BufReader::new(agent.stderr.take().unwrap());
    let mut all = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&all).contains(wanted) {
            assert_ne!(log.read_buf(&mut all).await.unwrap(), 0, "it ended");
        }
    };
    let read = tokio::time::timeout(PATIENCE, reading).await;
    assert!(read.is_ok(), "{}", String::from_utf8_lossy(&all));
}

#[tokio::test]
async fn a_join_string_on_standard_input_counts_for_every_attempt() {
    let folder = TempDir::new().unwrap();
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap().to_string();
    let trust_domain = TrustDomain::parse("example.org").unwrap();
    let token = JoinToken::new("secret").unwrap();
    let join = JoinString::new(trust_domain, address, [7; 32], Some(token)).unwrap();
    let text = join.to_text().unwrap();
    let _agent = agent(&folder, format!("{}\n", text.as_str()).as_bytes());
    // Nobody answers there, so it comes again, by what it has read once.
    for _ in 0..3 {
        let came = tokio::time::timeout(PATIENCE, server.accept()).await;
        drop(came.expect("it comes").unwrap());
    }
}

#[tokio::test]
async fn what_is_no_join_string_on_standard_input_is_refused_and_not_repeated() {
    let long = vec![b'x'; (64 << 10) + 1];
    for (given, wanted) in [
        (&b"hunter2"[..], "not a join string"),
        (b"", "`standard input` is empty"),
        (b"\xff\xfe", "the join string is no text"),
        (&long, "`standard input` is longer than 65536 bytes"),
    ] {
        let folder = TempDir::new().unwrap();
        says(&mut agent(&folder, given), wanted).await;
    }
}
