//! `cold-sync`, `check`, `revoke-cost`: statuses at scale, 1,000,000 ended of 10,000,000 places.
//!
//! The server's store is filled with changes of status alone: of a task that nobody asks for, all
//! that a verifier or an end of another one meets is its status. What is measured goes over mTLS.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use sha2::{Digest as _, Sha256};
use taskmint_issuer::Issuer;
use taskmint_model::{Cause, TaskId};
use taskmint_status::{Place, Status, TaskBinding};
use taskmint_store::{Change, Commit, StatusChange};
use taskmint_verifier::StatusCheck as _;
use taskmint_verifier::watch::{Events, Watch};

use crate::agent::PATIENCE;
use crate::end;
use crate::figure::{Bar, Figure};
use crate::node::{Node, UID, Workload};
use crate::proxy::Proxy;
use crate::samples::Samples;
use crate::world::{World, entry};

/// Hours ahead in which the places lie.
const BUCKETS: u64 = 24;

/// Where they begin: behind all hours in which tasks that are begun here get their places.
const AHEAD: u32 = 100;

/// So that tasks may have their limits there.
const LIMIT: &str = "[tasks]\nmax_limit = \"10d\"\n";

/// Places in each of these hours.
const PLACES: u64 = 10_000_000 / BUCKETS;

/// Ended ones of all.
const MANY: u64 = 1_000_000;

const FEW: u64 = 1_000;

/// Changes of one commit.
const COMMIT: usize = 20_000;

/// Verifiers that start, one after the other.
const STARTS: usize = 15;

/// Questions between two looks at the time.
const BATCH: usize = 4096;

/// A server with so many ended places, and a verifier that is let in.
struct Scene {
    world: World,
    node: Node,
    service: Workload,
    /// Ended or not, by bucket and index.
    ended: Vec<bool>,
    first: u32,
}

impl Scene {
    async fn set(ended: u64) -> anyhow::Result<Self> {
        let mut world = World::start_with(LIMIT).await?;
        world.create(vec![entry("agent", UID, false)]).await?;
        let mut node = Node::join(&world.join_string("n1").await?).await?;
        let service = node.begin(7).await?;
        let issuer = &world.server.issuer;
        let first = issuer.now().hour() + AHEAD;
        let ended = chosen(ended);
        fill(issuer, first, &ended).await?;
        Ok(Self {
            world,
            node,
            service,
            ended,
            first,
        })
    }

    /// A place, and whether it is ended.
    fn place(&self, number: u64) -> anyhow::Result<(Place, bool)> {
        let log = self.world.server.issuer.store().identity().log;
        let bucket = self.first + u32::try_from(number / PLACES)?;
        let ended = self.ended.get(usize::try_from(number)?);
        let place = Place::new(log, bucket, number % PLACES)?;
        Ok((place, ended.copied().unwrap_or_default()))
    }

    /// What a set of so many of all places takes to be told, at least, in octets.
    fn entropy(&self) -> f64 {
        let all = self.ended.len() as f64;
        let p = self.ended.iter().filter(|ended| **ended).count() as f64 / all;
        -all * (p * p.log2() + (1.0 - p) * (1.0 - p).log2()) / 8.0
    }
}

/// Numbers without a pattern, the same in each run.
fn scattered(number: u64) -> u64 {
    let mixed = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

/// Which places are ended: by chance, about so many.
fn chosen(ended: u64) -> Vec<bool> {
    let all = PLACES * BUCKETS;
    let by_chance =
        |number: u64| scattered(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)) % all < ended;
    (1..=all).map(by_chance).collect()
}

async fn fill(issuer: &Issuer, first: u32, ended: &[bool]) -> anyhow::Result<()> {
    let (log, at) = (issuer.store().identity().log, issuer.now());
    let mut changes = Vec::with_capacity(COMMIT);
    let ended = (0..).zip(ended).filter(|(_, ended)| **ended);
    for (number, _) in ended {
        let number: u64 = number;
        let bucket = first + u32::try_from(number / PLACES)?;
        changes.push(Change::Status(StatusChange {
            place: Place::new(log, bucket, number % PLACES)?,
            task: TaskId::from_octets(u128::from(number).to_be_bytes()),
            status: Status::Ended,
            cause: Some(Cause::COMPLETED),
            at,
        }));
        if changes.len() == COMMIT {
            commit(issuer, &mut changes).await?;
        }
    }
    commit(issuer, &mut changes).await
}

async fn commit(issuer: &Issuer, changes: &mut Vec<Change>) -> anyhow::Result<()> {
    let commit = Commit {
        expect: Vec::new(),
        changes: std::mem::take(changes),
    };
    issuer.store().commit(commit).await?;
    Ok(())
}

/// What a new verifier is sent, and how long after its last octet it answers.
pub(crate) async fn cold_sync() -> anyhow::Result<Vec<Figure>> {
    let scene = Scene::set(MANY).await?;
    let proxy = Proxy::start(scene.world.server.watch_address).await?;
    let signed = scene.world.server.issuer.checkpoint().await?;
    let maps = signed.maps.iter().map(|(_, map)| map.len());
    let checkpoint = signed.body.len() + maps.sum::<usize>();
    let (mut octets, mut ready) = (0, Samples::default());
    for _ in 0..STARTS {
        let (sent, took) = start(&scene, &proxy, checkpoint as u64).await?;
        octets = octets.max(sent);
        ready.add(took);
    }
    let entropy = scene.entropy();
    let chunks = (BUCKETS * PLACES.div_ceil(4 * 4096)) as usize;
    let hashing = hashing(chunks);
    scene.world.stop().await?;
    let ready = |percent: f64, name| {
        let figure = Figure::new(name, ready.percentile(percent)?, "ms");
        anyhow::Ok(
            figure
                .floor("SHA-256 of the maps", hashing)
                .bar(Bar::AtMost(20.0)),
        )
    };
    Ok(vec![
        Figure::new("cold-sync octets", octets as f64 / 1000.0, "kB")
            .floor("entropy of the set", entropy / 1000.0)
            .bar(Bar::RatioAtMost(1.2)),
        ready(50.0, "cold-sync ready p50")?,
        ready(100.0, "cold-sync ready worst")?,
    ])
}

/// Starts one verifier; what it was sent, and how long after the checkpoint's last octet it answered.
async fn start(scene: &Scene, proxy: &Proxy, checkpoint: u64) -> anyhow::Result<(u64, Duration)> {
    proxy.reset();
    let watch = end::watch(&proxy.address().to_string(), &scene.node, &scene.service)?;
    tokio::time::timeout(PATIENCE, watch.synced())
        .await
        .context("the verifier does not come about")?;
    let synced = Instant::now();
    let passed = proxy.passed();
    let octets = passed.last().map_or(0, |(_, octets)| *octets);
    // What TLS adds makes this a little early, never late.
    let last = passed.iter().find(|(_, octets)| *octets >= checkpoint);
    let (last, _) = last.context("the verifier was not sent the checkpoint")?;
    for number in (0..scene.ended.len() as u64).step_by(9_973) {
        let (place, ended) = scene.place(number)?;
        ensure!(
            watch.check(&binding(place)).is_err() == ended,
            "{place} is answered wrongly"
        );
    }
    Ok((octets, synced.saturating_duration_since(*last)))
}

/// How long SHA-256 takes for so many chunks, in milliseconds.
fn hashing(chunks: usize) -> f64 {
    let octets = vec![7; 4096];
    let once = || {
        let begun = Instant::now();
        for _ in 0..chunks {
            black_box(Sha256::digest(black_box(&octets)));
        }
        begun.elapsed().as_secs_f64() * 1000.0
    };
    (0..STARTS).map(|_| once()).fold(f64::MAX, f64::min)
}

/// One question about a status, clocks and all, against one signature's verification.
pub(crate) async fn check(span: Duration) -> anyhow::Result<Vec<Figure>> {
    let scene = Scene::set(MANY).await?;
    let address = scene.world.server.watch_address.to_string();
    let watch = end::watch(&address, &scene.node, &scene.service)?;
    tokio::time::timeout(PATIENCE, watch.synced())
        .await
        .context("the verifier does not come about")?;
    let mut live = Vec::with_capacity(BATCH);
    for number in (1..).map(|number| scattered(number) % scene.ended.len() as u64) {
        match scene.place(number)? {
            (place, false) => live.push(binding(place)),
            (_, true) => continue,
        }
        if live.len() == BATCH {
            break;
        }
    }
    for binding in &live {
        if let Err(refused) = watch.check(binding) {
            bail!("{} is refused: {}", binding.place, refused.message);
        }
    }
    let verify = verifying()?;
    let (mut check, mut floor) = (f64::MAX, f64::MAX);
    let begun = Instant::now();
    // The best of each: the machine is shared, and both are far shorter than a turn on a core.
    while begun.elapsed() < span {
        check = check.min(each(BATCH, |at| {
            live.get(at).is_some_and(|b| watch.check(b).is_ok())
        })?);
        floor = floor.min(each(64, |_| verify())?);
    }
    drop(watch);
    scene.world.stop().await?;
    Ok(vec![
        Figure::new("check", check, "ns")
            .floor("0.001 P-256 verifications", floor / 1000.0)
            .bar(Bar::RatioAtMost(1.0)),
    ])
}

/// Nanoseconds for each of so many that must all succeed.
fn each(count: usize, mut run: impl FnMut(usize) -> bool) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let good = (0..count).filter(|at| black_box(run(*at))).count();
    let took = begun.elapsed().as_secs_f64() * 1e9 / count as f64;
    ensure!(good == count, "{} of {count} were refused", count - good);
    Ok(took)
}

fn verifying() -> anyhow::Result<impl Fn() -> bool> {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
        .ok()
        .context("cannot make a key")?;
    let message = [7; 500];
    let signature = pair
        .sign(&SystemRandom::new(), &message)
        .ok()
        .context("cannot sign")?;
    let key = UnparsedPublicKey::new(
        &ECDSA_P256_SHA256_FIXED,
        pair.public_key().as_ref().to_vec(),
    );
    Ok(move || key.verify(black_box(&message), signature.as_ref()).is_ok())
}

fn binding(place: Place) -> TaskBinding {
    TaskBinding {
        place,
        task: [0; 16],
        root: [0; 16],
    }
}

/// What one end costs where much has ended already: from the first octet of the complete until a
/// verifier refuses, in turns with a server on which little has.
pub(crate) async fn revoke_cost(span: Duration) -> anyhow::Result<Vec<Figure>> {
    let (mut few, mut many) = (Ends::set(FEW).await?, Ends::set(MANY).await?);
    let until = Instant::now() + span;
    for pid in 1000.. {
        if Instant::now() >= until {
            break;
        }
        few.end(pid).await?;
        many.end(pid).await?;
    }
    let (few, many) = (few.stop().await?, many.stop().await?);
    let figure = |percent: f64, name| {
        let figure = Figure::new(name, many.percentile(percent)?, "ms");
        anyhow::Ok(figure.floor("with 1,000 ended", few.percentile(percent)?))
    };
    Ok(vec![
        figure(50.0, "revoke-cost p50")?.bar(Bar::RatioAtMost(1.2)),
        figure(90.0, "revoke-cost p90")?,
    ])
}

struct Ends {
    scene: Scene,
    watch: Watch,
    events: Events,
    took: Samples,
}

impl Ends {
    async fn set(ended: u64) -> anyhow::Result<Self> {
        let scene = Scene::set(ended).await?;
        let address = scene.world.server.watch_address.to_string();
        let watch = end::watch(&address, &scene.node, &scene.service)?;
        tokio::time::timeout(PATIENCE, watch.synced())
            .await
            .context("the verifier does not come about")?;
        Ok(Self {
            events: watch.subscribe(),
            scene,
            watch,
            took: Samples::default(),
        })
    }

    async fn end(&mut self, pid: u32) -> anyhow::Result<()> {
        let workload = self.scene.node.begin(pid).await?;
        let took = end::once(
            &mut self.scene.node,
            &self.watch,
            &mut self.events,
            &workload,
        )
        .await?;
        self.took.add(took);
        Ok(())
    }

    async fn stop(self) -> anyhow::Result<Samples> {
        drop(self.watch);
        self.scene.world.stop().await?;
        Ok(self.took)
    }
}
