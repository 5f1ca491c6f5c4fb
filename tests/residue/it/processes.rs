//! Server and agent: authority keys, the sealing key, join tokens that were used, and keys of
//! workloads whose tasks have ended.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use p256::SecretKey;
use p256::pkcs8::DecodePrivateKey as _;
use taskmint_client::bootstrap::JoinString;
use taskmint_model::{Clock as _, SystemClock};
use taskmint_status::LogId;
use taskmint_store::{AuthorityRecord, KeyUse, Registry as _};
use taskmint_store_rocksdb::{Options, RocksStore};
use taskmint_wire::task;

use crate::desk::add_mac_key;
use crate::image::{Extent, Image};
use crate::known::{Found, Known};
use crate::numbers::add_key;
use crate::skip;
use crate::world::World;

/// Tasks of each kind.
const TASKS: usize = 5;

/// How long after its use a secret may be found.
const AFTERWARDS: Duration = Duration::from_secs(5);

/// An image, or nothing where that is not allowed.
fn image(pid: u32) -> Option<Image> {
    match Image::of(pid, Extent::All) {
        Ok(image) => Some(image),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            skip("this user may not look into every process of ours");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Waits until nothing of this is in a process, as connections that carried it are still being
/// closed.
fn gone(world: &World, pid: u32, known: &Known) {
    let begun = Instant::now();
    loop {
        let Some(image) = image(pid) else { return };
        sure(world, &image);
        let found = known.search(&image);
        if found.is_empty() {
            return;
        }
        assert!(begun.elapsed() < AFTERWARDS, "{}: {found:?}", name(pid));
    }
}

fn sure(world: &World, image: &Image) {
    let mut canary = Known::new();
    canary.add("trust domain", world.trust_domain.as_bytes());
    assert_eq!(canary.search(image).len(), 1, "the search finds nothing");
}

/// The token of a join string, as it is in there, as it was made, and as it is written.
fn token(join_string: &str) -> Known {
    let mut known = Known::new();
    let join: JoinString = join_string.parse().unwrap();
    let token = join.token.as_ref().unwrap().expose();
    known.add("join token", token.as_bytes());
    let octets: Vec<u8> = (0..token.len() / 2)
        .map(|at| u8::from_str_radix(&token[2 * at..][..2], 16).unwrap())
        .collect();
    known.add("random octets of the join token", &octets);
    // The token's 64 octets and the checksum are the last.
    let tail = &join_string[join_string.len() - 88..];
    known.add("join string", tail.as_bytes());
    known
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_token_is_in_neither_server_nor_agent_once_it_was_used() {
    let joins: [fn(&mut World); 2] = [World::join, World::join_by_standard_input];
    for join in joins {
        let mut world = World::new().await;
        let known = token(&world.join_string);
        join(&mut world);
        for pid in [world.server(), world.agent()] {
            gone(&world, pid, &known);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_workload_are_not_in_the_agent_once_its_tasks_have_ended() {
    let mut world = World::new().await;
    world.join();
    let (mut known, mut begun) = (Known::new(), Vec::new());
    // First, as children of whoever begins tasks get none by themselves.
    for number in 0..TASKS {
        let keys = world.fetch();
        assert!(!keys.is_empty(), "nothing was fetched");
        for pem in keys {
            let key = SecretKey::from_pkcs8_pem(&pem).unwrap();
            add_key(
                &mut known,
                &format!("fetched {number}"),
                &key.to_bytes().into(),
            );
        }
    }
    let mut tasks = world.tasks().await;
    for number in 0..TASKS {
        let request = task::BeginRequest {
            purpose: "to be ended".to_owned(),
            ..task::BeginRequest::default()
        };
        let answer = tasks.begin(request).await.unwrap().into_inner();
        let key = SecretKey::from_pkcs8_der(&answer.svid.unwrap().private_key).unwrap();
        add_key(
            &mut known,
            &format!("begun {number}"),
            &key.to_bytes().into(),
        );
        begun.push(answer.task.unwrap().id);
    }
    let Some(alive) = image(world.agent()) else {
        return;
    };
    let living = known.search(&alive).into_keys();
    let living = living.filter(|name| name.starts_with("begun")).count();
    assert_eq!(living, TASKS, "what lives is not found");
    for task_id in begun {
        let request = task::EndRequest {
            task_id,
            ..task::EndRequest::default()
        };
        tasks.complete(request).await.unwrap();
    }
    world.all_ended().await;
    gone(&world, world.agent(), &known);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_of_the_authority_is_in_the_server_the_agent_or_the_signer_that_it_started() {
    let mut world = World::new().await;
    world.join();
    for _ in 0..TASKS {
        world.fetch();
    }
    world.all_ended().await;
    let images: Vec<Image> = [world.server(), world.agent(), world.signer()]
        .into_iter()
        .filter_map(image)
        .collect();
    let mut known = Known::new();
    known.add("sealing key", &world.sealing);
    let records = authorities(&world.stop()).await;
    assert!(records.len() >= 4, "{}", records.len());
    for record in records {
        let (name, key) = opened(&record, &world);
        match record.usage {
            KeyUse::Grant => add_mac_key(&mut known, name, &key),
            _ => add_key(&mut known, name, &key),
        }
    }
    for image in &images {
        sure(&world, image);
        assert_eq!(known.search(image), Found::new());
    }
}

async fn authorities(store: &Path) -> Vec<AuthorityRecord> {
    let now = SystemClock.now();
    let store = RocksStore::open(store, LogId([0; 8]), now, Options::default()).unwrap();
    store.authorities().await.unwrap()
}

/// A key that the store has sealed, by what is written of the format.
fn opened(record: &AuthorityRecord, world: &World) -> (&'static str, [u8; 32]) {
    let (kind, name) = match record.usage {
        KeyUse::Ca => (1, "CA key"),
        KeyUse::Jwt => (2, "JWT key"),
        KeyUse::Log => (3, "log key"),
        KeyUse::Grant => (4, "grant key"),
    };
    let label = [
        &b"taskmint sealed key\0"[..],
        &[1, kind],
        &record.id.octets(),
        world.trust_domain.as_bytes(),
    ]
    .concat();
    let key = UnboundKey::new(&CHACHA20_POLY1305, &world.sealing).unwrap();
    let nonce = Nonce::try_assume_unique_for_key(&record.sealed[1..13]).unwrap();
    let mut content = record.sealed[13..].to_vec();
    let opened = LessSafeKey::new(key).open_in_place(nonce, Aad::from(label), &mut content);
    (name, opened.unwrap()[..32].try_into().unwrap())
}

fn name(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default()
}
