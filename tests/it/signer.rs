//! The signer as a process of its own, which is killed, kept away and started again (P24 to P27).

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use taskmint_id::SpiffeId;
use taskmint_store::AuthorityState;
use taskmint_verifier::tls;
use taskmint_wire::node;
use taskmint_wire::revocation::watch_response::Frame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Status;

use crate::harness::World;
use crate::node::{Key, Node, UID, caller, reason, request_id};
use crate::watching::{Watching, applied};

/// Longer than a signer is away that is started again, pauses included.
const SOON: Duration = Duration::from_secs(30);

const LOOK: Duration = Duration::from_millis(10);

/// The real program, as the tests' own build has it.
pub(crate) fn program() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(find).clone()
}

fn find() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    // Tests lie one folder below programs.
    let folder = this.parent().unwrap();
    let folder = folder
        .parent()
        .filter(|_| folder.ends_with("deps"))
        .unwrap();
    let program = folder.join("taskmint-signer");
    if !program.exists() {
        let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
        let built = Command::new(cargo)
            .args(["build", "-q", "-p", "taskmint-signer", "--target-dir"])
            .arg(folder.parent().unwrap())
            .status();
        assert!(built.unwrap().success(), "the signer can't be built");
    }
    program
}

/// The signer of this world, if there is one.
fn pid(folder: &Path) -> Option<i32> {
    let key = folder.join("sealing-key").display().to_string();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = processes.filter_map(|process| {
        let pid = process.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(process.path().join("cmdline")).ok()?;
        let mut words = line.split(|octet| *octet == 0);
        words.any(|word| word == key.as_bytes()).then_some(pid)
    });
    pids.next()
}

/// Kills it, and says which one it was.
fn kill(world: &World) -> i32 {
    let pid = pid(world.folder.path()).expect("there is a signer");
    signal::kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    // Until it is gone, it signs.
    let line = format!("/proc/{pid}/cmdline");
    while std::fs::read(&line).is_ok_and(|line| !line.is_empty()) {
        std::thread::sleep(Duration::from_millis(1));
    }
    pid
}

async fn world() -> (World, Node) {
    let mut world = World::with_signer().await;
    world.entry("agent", UID, true).await;
    let token = world.token("n1").await;
    let node = Node::join(&token).await;
    (world, node)
}

async fn begin(node: &mut Node, pid: u32) -> Result<node::BeginTaskResponse, Status> {
    let begin = node.begin(UID, pid, Key::new().spki());
    Ok(node.client.begin_task(begin).await?.into_inner())
}

/// An SVID for a task, or the reason why not.
async fn mint(node: &mut Node, task: &str) -> Result<Vec<u8>, String> {
    let items = vec![node::mint_x509_request::Item {
        task_id: task.to_owned(),
        spki: Key::new().spki(),
    }];
    let minted = node.client.mint_x509(node::MintX509Request { items }).await;
    let minted = minted.map_err(|status| reason(&status))?.into_inner();
    let result = minted.results.into_iter().next().unwrap();
    match result.refusal {
        None => Ok(result.certificate),
        Some(refusal) => Err(refusal.reason),
    }
}

/// Mints as soon as it can be; until then it is told to try again, and at once.
async fn mint_soon(node: &mut Node, task: &str) -> Vec<u8> {
    let minting = async {
        loop {
            let asked = tokio::time::timeout(Duration::from_secs(5), mint(node, task)).await;
            match asked.expect("it hangs") {
                Ok(certificate) => return certificate,
                Err(reason) => assert_eq!(reason, "TRY_AGAIN"),
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(SOON, minting).await.unwrap()
}

fn id_of(certificate: &[u8]) -> SpiffeId {
    let der = rustls_pki_types::CertificateDer::from(certificate.to_vec());
    tls::read_verified(&der).unwrap().spiffe_id
}

async fn ready(world: &World) -> (bool, String) {
    let address = world.server.http_address;
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let ask = b"GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(ask).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    (answer.starts_with("HTTP/1.1 200"), answer)
}

async fn until_ready(world: &World, wanted: bool) -> String {
    let reached = async {
        loop {
            let (is, answer) = ready(world).await;
            if is == wanted {
                return answer;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(SOON, reached).await.unwrap()
}

/// Active keys, by id.
async fn active(world: &World) -> HashSet<String> {
    let keys = world.server.issuer.store().authorities().await.unwrap();
    let active = keys
        .iter()
        .filter(|key| key.state == AuthorityState::Active);
    active.map(|key| key.id.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_signer_is_started_again_and_minting_goes_on() {
    let (mut world, mut node) = world().await;
    let task = begin(&mut node, 7).await.unwrap().task.unwrap();
    let (keys, mut seen) = (active(&world).await, HashSet::new());
    for _ in 0..4 {
        let killed = kill(&world);
        assert!(seen.insert(killed), "it is the one that was killed before");
        let certificate = mint_soon(&mut node, &task.id).await;
        assert_eq!(id_of(&certificate).as_str(), task.spiffe_id);
        assert_ne!(pid(world.folder.path()), Some(killed));
    }
    // How far each of them had counted is written down (P24).
    let noted = world.audit().await;
    let noted = noted.iter().filter(|action| *action == "signer.tail");
    assert_eq!(noted.count(), seen.len());
    // It signs with the same keys, and new tasks begin.
    assert_eq!(active(&world).await, keys);
    begin(&mut node, 8).await.unwrap();
    until_ready(&world, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_there_is_no_signer_the_server_is_not_ready_and_says_try_again() {
    let (world, mut node) = world().await;
    let task = begin(&mut node, 7).await.unwrap().task.unwrap();
    until_ready(&world, true).await;
    let link = world.folder.path().join("signer");
    std::fs::remove_file(&link).unwrap();
    kill(&world);
    let answer = until_ready(&world, false).await;
    assert!(answer.contains("signer"), "{answer}");
    assert_eq!(mint(&mut node, &task.id).await.unwrap_err(), "TRY_AGAIN");
    let refused = begin(&mut node, 8).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable);
    assert_eq!(reason(&refused), "TRY_AGAIN");
    // What needs no signature goes on.
    let end = node::EndTaskRequest {
        task_id: task.id.clone(),
        cause: "completed".to_owned(),
        caller: Some(caller(UID, 7)),
        request_id: request_id(),
        ..Default::default()
    };
    node.client.end_task(end).await.unwrap();

    std::os::unix::fs::symlink(program(), &link).unwrap();
    until_ready(&world, true).await;
    begin(&mut node, 8).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_server_signs_with_the_keys_it_had() {
    let (world, mut node) = world().await;
    let task = begin(&mut node, 7).await.unwrap().task.unwrap();
    let (keys, first) = (active(&world).await, pid(world.folder.path()).unwrap());
    let away = world.go_away().await;
    let gone = async {
        while pid(away.folder.path()).is_some() {
            tokio::time::sleep(LOOK).await;
        }
    };
    // It does not outlive its server.
    tokio::time::timeout(SOON, gone).await.unwrap();
    let world = away.come_back().await;
    assert_ne!(pid(world.folder.path()), Some(first));
    assert_eq!(active(&world).await, keys);
    // The node still trusts the server, and the task is still granted.
    let (key, svid) = (node.key, node.identity);
    let address = world.server.address.to_string();
    let trust_domain = "example.org".parse().unwrap();
    let channel = crate::node::connect(&svid, &node.trust, &trust_domain, &address).await;
    node.client = node::nodes_client::NodesClient::new(channel);
    (node.key, node.identity) = (key, svid);
    let certificate = mint_soon(&mut node, &task.id).await;
    assert_eq!(id_of(&certificate).as_str(), task.spiffe_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_go_on_after_the_signer_was_killed_and_watchers_stay_open() {
    let (world, mut node) = world().await;
    let mut tasks = Vec::new();
    for pid in 7..10 {
        tasks.push(begin(&mut node, pid).await.unwrap().task.unwrap().id);
    }
    let mut watching = Watching::open(&world, &node, applied(&world)).await;
    let mut newest = 0;
    for (pid, task) in (7..10).zip(tasks) {
        kill(&world);
        let end = node::EndTaskRequest {
            task_id: task,
            cause: "completed".to_owned(),
            caller: Some(caller(UID, pid)),
            request_id: request_id(),
            ..Default::default()
        };
        node.client.end_task(end).await.unwrap();
        let sequence = world.server.issuer.store().position().borrow().sequence;
        assert!(sequence > newest);
        newest = sequence;
        // The same stream brings the end, under a head of the next signer.
        let followed = async {
            let mut followed = 0;
            while followed < sequence {
                if let Frame::Delta(delta) = watching.next().await.unwrap() {
                    let records = delta.records.len() / taskmint_status::record::RECORD_LEN;
                    followed = delta.first + u64::try_from(records).unwrap() - 1;
                }
            }
            while !matches!(watching.next().await.unwrap(), Frame::Head(_)) {}
        };
        tokio::time::timeout(SOON, followed).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_recorded_twice_and_nothing_leaves_without_a_record() {
    let (world, mut node) = world().await;
    let task = begin(&mut node, 7).await.unwrap().task.unwrap().id;
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let minting = (0..16).map(|_| {
        let mut client = node.client.clone();
        let (task, over) = (task.clone(), Arc::clone(&over));
        tokio::spawn(async move {
            let mut had = Vec::new();
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                let item = node::mint_x509_request::Item {
                    task_id: task.clone(),
                    spki: Key::new().spki(),
                };
                let items = vec![item; 4];
                let asked = client.mint_x509(node::MintX509Request { items });
                let asked = tokio::time::timeout(Duration::from_secs(5), asked).await;
                match asked.expect("it hangs") {
                    Ok(minted) => {
                        let results = minted.into_inner().results;
                        let minted = results.into_iter().filter(|one| one.refusal.is_none());
                        had.extend(minted.map(|one| one.certificate));
                    }
                    Err(status) => assert_eq!(reason(&status), "TRY_AGAIN"),
                }
            }
            had
        })
    });
    let minting: Vec<_> = minting.collect();
    for _ in 0..4 {
        mint_soon(&mut node, &task).await;
        kill(&world);
    }
    mint_soon(&mut node, &task).await;
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut had = Vec::new();
    for one in minting {
        had.extend(tokio::time::timeout(SOON, one).await.unwrap().unwrap());
    }
    assert!(had.len() > 100, "{} certificates", had.len());

    let mut records: HashMap<[u8; 20], usize> = HashMap::new();
    let store = world.server.issuer.store();
    let mut after = None;
    loop {
        let page = store.all_issuances(after, 1000).await.unwrap();
        let Some((number, last)) = page.last() else {
            break;
        };
        after = Some((last.place, *number));
        for (_, issuance) in &page {
            *records.entry(issuance.serial).or_default() += 1;
        }
    }
    assert!(records.values().all(|count| *count == 1), "a serial twice");
    let serials: Vec<[u8; 20]> = had.iter().map(|der| serial(der)).collect();
    assert!(serials.iter().all(|serial| records.contains_key(serial)));
    let distinct: HashSet<_> = serials.iter().collect();
    assert_eq!(distinct.len(), serials.len(), "handed out twice");
}

/// The serial number: the first INTEGER of twenty octets, behind the version.
fn serial(certificate: &[u8]) -> [u8; 20] {
    let mut windows = certificate.windows(22);
    let found = windows.find(|window| window.starts_with(&[2, 20, 1]));
    found.unwrap()[2..].try_into().unwrap()
}
