//! The public listener as strangers ask it, and the workloads that they ask about.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;
use taskmint_issuer::Issuer;
use taskmint_status::TaskBinding;
use taskmint_store::KeyUse;
use taskmint_testkit::pem;
use taskmint_verifier::{PeerSvid, tls};
use taskmint_wire::{node, task};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::World;
use crate::node::{Key, Node, caller};

pub(crate) use crate::node::UID;

pub(crate) const LINES: &str = "store.kind = \"memory\"\nkeys.kind = \"memory\"\n\
    public_listen = \"127.0.0.1:0\"\npublic.plain_http = true\ncrl.interval = \"1s\"\ntasks.lease = \"5m\"\n\
    public_url = \"https://x.example.org/t\"\n";

/// A task with its first certificate.
pub(crate) struct Workload {
    pub(crate) id: String,
    pub(crate) pid: u32,
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: Key,
}

impl Workload {
    pub(crate) async fn begin(node: &mut Node, pid: u32) -> Self {
        Self::begin_as(node, pid, |_| ()).await
    }

    /// One that asks for something of its own.
    pub(crate) async fn begin_as(
        node: &mut Node,
        pid: u32,
        change: impl FnOnce(&mut node::BeginTaskRequest),
    ) -> Self {
        let key = Key::new();
        let mut begin = node.begin(UID, pid, key.spki());
        change(&mut begin);
        let began = node.client.begin_task(begin).await.unwrap().into_inner();
        Self {
            id: began.task.unwrap().id,
            pid,
            certificate: began.certificate,
            key,
        }
    }

    pub(crate) fn serial(&self) -> [u8; 20] {
        self.peer().serial
    }

    pub(crate) fn binding(&self) -> TaskBinding {
        self.peer().binding.unwrap()
    }

    fn peer(&self) -> PeerSvid {
        tls::read_verified(&CertificateDer::from(self.certificate.as_slice())).unwrap()
    }

    pub(crate) fn hex(&self) -> String {
        hex_of(&self.serial())
    }

    pub(crate) async fn complete(&self, node: &mut Node) {
        let end = node::EndTaskRequest {
            task_id: self.id.clone(),
            cause: "completed".to_owned(),
            caller: Some(caller(UID, self.pid)),
            ..Default::default()
        };
        node.client.end_task(end).await.unwrap();
    }

    pub(crate) async fn suspend(&self, world: &mut World) {
        let request = task::SuspendRequest {
            task_id: self.id.clone(),
            reason: "a look at it".to_owned(),
            ..Default::default()
        };
        world.admin.suspend_task(request).await.unwrap();
    }

    pub(crate) async fn resume(&self, world: &mut World) {
        let request = task::ResumeRequest {
            task_id: self.id.clone(),
            ..Default::default()
        };
        world.admin.resume_task(request).await.unwrap();
    }

    pub(crate) async fn token(&self, node: &mut Node, audience: &str) -> String {
        let item = node::mint_jwt_request::Item {
            task_id: self.id.clone(),
            audience: vec![audience.to_owned()],
        };
        let request = node::MintJwtRequest { items: vec![item] };
        let answer = node.client.mint_jwt(request).await.unwrap().into_inner();
        answer.results[0].token.clone()
    }
}

/// What came back over HTTP.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

fn hex_of(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02X}")).collect()
}

/// One request over a connection that stays open.
pub(crate) async fn exchange<S>(stream: &mut S, head: &str, body: &str) -> Answer
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = format!(
        "{head}\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    let split = loop {
        let mut part = [0; 4096];
        let len = stream.read(&mut part).await.unwrap();
        assert!(len > 0, "closed after {:?}", String::from_utf8_lossy(&read));
        read.extend_from_slice(&part[..len]);
        if let Some(at) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
    };
    let head = String::from_utf8(read[..split].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse();
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let mut body = read[split + 4..].to_vec();
    let length = headers.get("content-length").map_or("0", String::as_str);
    let missing = length.parse::<usize>().unwrap() - body.len();
    let mut rest = vec![0; missing];
    stream.read_exact(&mut rest).await.unwrap();
    body.extend(rest);
    Answer {
        status: status.unwrap(),
        headers,
        body,
    }
}

/// One request over a connection of its own.
pub(crate) async fn ask(world: &World, head: &str, body: &str) -> Answer {
    let address = world.server.public_address.unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    exchange(&mut stream, head, body).await
}

pub(crate) async fn get(world: &World, path: &str) -> Answer {
    ask(world, &format!("GET {path} HTTP/1.1"), "").await
}

/// The CA that signs now: its key's id and its certificate.
pub(crate) async fn ca(issuer: &Issuer) -> (String, Vec<u8>) {
    let all = issuer.authorities().await.unwrap();
    let certificate = issuer.ca_certificate().await.unwrap();
    let is_ca = |view: &&taskmint_issuer::AuthorityView| view.record.usage == KeyUse::Ca;
    let active = all.iter().rfind(is_ca).unwrap();
    assert_eq!(active.record.certificate, certificate);
    (active.record.key_id.clone(), certificate)
}

/// A file for openssl and the like.
pub(crate) fn pem_file(folder: &Path, name: &str, label: &str, der: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, pem(label, der)).unwrap();
    path
}

pub(crate) async fn world(lines: &str) -> (World, Node) {
    let mut world = World::with(&format!("{LINES}{lines}")).await;
    let node = joined(&mut world).await;
    (world, node)
}

pub(crate) async fn joined(world: &mut World) -> Node {
    world.entry("w", UID, false).await;
    let token = world.token("n1").await;
    Node::join(&token).await
}
