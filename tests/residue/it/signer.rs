//! The signer, its control, and what is found in either.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use taskmint_secret::{Protection, protection};

use crate::desk::{Desk, Kind, Signatures, Signer, program};
use crate::image::{Extent, Image, REGISTERS, any_runs, wait_for};
use crate::known::{Found, Known};
use crate::skip;

const CONTROL: &str = env!("CARGO_BIN_EXE_taskmint-residue-control");
const MEMORY: &str = "TASKMINT_RESIDUE_MEMORY";
const NO_SECRET_MEMORY: &str = "this kernel has no memfd_secret, so keys are found by root";

/// Of each kind.
const MANY: usize = 10_000;
const BATCH: usize = 500;
/// Images that are taken in the middle of signing.
const MOMENTS: u32 = 20;
/// Cores that the kernel writes.
const CORES: u64 = 16;

const KINDS: [Kind; 6] = [
    Kind::X509,
    Kind::Jwt,
    Kind::Head,
    Kind::Checkpoint,
    Kind::Crl,
    Kind::StatusList,
];

/// Of a signer that signed all it had to, and of moments while it did.
struct Images {
    moments: Vec<Image>,
    done: Image,
    gcore: Option<Image>,
}

/// All that can be found: keys, what seals them, and the nonces of what was signed.
struct Search {
    secrets: Known,
    canaries: Known,
}

async fn sign_everything(signer: &Signer<'_>, signatures: &mut Signatures) {
    for kind in KINDS {
        for _ in 0..MANY / BATCH {
            signer.sign(kind, BATCH, signatures).await;
        }
    }
}

/// Stops a signer again and again while it signs.
async fn moments(signer: &Signer<'_>, signatures: &mut Signatures) -> io::Result<Vec<Image>> {
    let (pid, answered) = (signer.pid(), Arc::new(AtomicUsize::new(0)));
    let watched = Arc::clone(&answered);
    let watch = tokio::task::spawn_blocking(move || {
        let each = (0..MOMENTS).map(|number| {
            let before = watched.load(Ordering::Relaxed);
            wait_for(|| watched.load(Ordering::Relaxed) > before && any_runs(pid));
            // Each a little later in the batch that it works on now.
            thread::sleep(Duration::from_micros(300) * number);
            Image::of_stopped(pid)
        });
        each.collect()
    });
    while !watch.is_finished() {
        for kind in KINDS {
            signer.sign(kind, BATCH, signatures).await;
            answered.fetch_add(1, Ordering::Relaxed);
        }
    }
    watch.await.unwrap()
}

/// Has everything signed, and looks. `None` where this process may not look into that one.
async fn images(desk: &Desk, signer: &Signer<'_>, signatures: &mut Signatures) -> Option<Images> {
    sign_everything(signer, signatures).await;
    let moments = match moments(signer, signatures).await {
        Ok(moments) => moments,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return None,
        Err(error) => panic!("{error}"),
    };
    Some(Images {
        moments,
        done: Image::of(signer.pid(), Extent::All).unwrap(),
        gcore: Image::by_gcore(signer.pid(), desk.folder.path()),
    })
}

impl Search {
    fn new(desk: &Desk, signatures: &Signatures) -> Self {
        let mut secrets = desk.known();
        desk.add_nonces(&mut secrets, signatures);
        Self {
            secrets,
            canaries: desk.canaries(),
        }
    }

    /// What is found; fails if an image has not even what must be there.
    fn look(&self, image: &Image) -> Found {
        let canaries = self.canaries.search(image);
        assert_eq!(canaries.len(), 2, "the search finds nothing: {canaries:?}");
        self.secrets.search(image)
    }

    fn look_at_all(&self, images: &[Image]) -> Found {
        let mut found = Found::new();
        for (name, places) in images.iter().flat_map(|image| self.look(image)) {
            found.entry(name).or_default().extend(places);
        }
        found
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_nonce_or_passphrase_is_in_the_memory_of_the_signer() {
    let desk = Desk::new();
    let signer = desk.start(&program("taskmint-signer"), &[]).await;
    let mut signatures = Signatures::default();
    let Some(images) = images(&desk, &signer, &mut signatures).await else {
        return skip("only root may look into the signer");
    };
    drop(signer);
    let search = Search::new(&desk, &signatures);
    assert!(search.secrets.len() > KINDS.len() * MANY * 5 * 4 * 2);
    let Images {
        moments,
        done,
        gcore,
    } = &images;
    println!(
        "searched {} MiB for {} limbs, and {} moments",
        done.len() >> 20,
        search.secrets.len(),
        moments.len()
    );
    if protection() < Protection::Secret {
        return skip(NO_SECRET_MEMORY);
    }
    let refused = done
        .refused
        .iter()
        .filter(|name| name.contains("secretmem"));
    assert!(refused.count() > 0, "{:?}", done.refused);
    assert_eq!(search.look(done), Found::new());
    assert_eq!(search.look_at_all(moments), Found::new(), "while it signs");
    match gcore {
        Some(gcore) => assert_eq!(search.look(gcore), Found::new(), "gcore"),
        None => skip("there is no gcore"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_keys_and_nonces_are_found_in_a_signer_on_ordinary_memory() {
    let desk = Desk::new();
    let signer = desk
        .start(Path::new(CONTROL), &[(MEMORY, "ordinary")])
        .await;
    let mut signatures = Signatures::default();
    let Some(images) = images(&desk, &signer, &mut signatures).await else {
        return skip("not even a child may be looked into here");
    };
    drop(signer);
    let search = Search::new(&desk, &signatures);
    let found: Vec<_> = search.look(&images.done).into_keys().collect();
    let kept = ["CA key", "JWT key", "grant key", "log key", "sealing key"];
    assert_eq!(found, kept);
    let found = search.look_at_all(&images.moments);
    let nonces = found.iter().filter(|(name, _)| name.ends_with("nonce"));
    let nonces: usize = nonces.map(|(_, places)| places.len()).sum();
    println!("limbs of nonces in {MOMENTS} moments: {nonces}");
    assert!(nonces > 0, "{:?}", found.keys());
    if let Some(gcore) = &images.gcore {
        let found: Vec<_> = search.look(gcore).into_keys().collect();
        assert_eq!(found, kept);
    }
}

/// The signer itself forbids its core, since the registers of a thread at work are in it; so this is
/// about the memory of one that does not.
#[tokio::test(flavor = "multi_thread")]
async fn no_key_is_in_the_memory_of_a_core_that_the_kernel_writes_of_a_signer_at_work() {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    if pattern.starts_with(['|', '/']) {
        return skip("cores are not written where processes are");
    }
    let desk = Desk::new();
    let search = Search::new(&desk, &Signatures::default());
    let is_secret = protection() == Protection::Secret;
    if !is_secret {
        skip(NO_SECRET_MEMORY);
    }
    let mut in_registers = 0;
    for number in 0..CORES {
        for memory in ["ordinary", "secret"] {
            let Some(core) = core(&desk, memory, number).await else {
                return skip("the kernel writes no cores here");
            };
            let mut found = search.look(&core);
            if memory == "ordinary" {
                assert!(found.contains_key("CA key"), "{found:?}");
                continue;
            }
            found.retain(|_, places| {
                let before = places.len();
                places.retain(|place| !place.ends_with(REGISTERS));
                in_registers += before - places.len();
                !places.is_empty()
            });
            assert!(!is_secret || found.is_empty(), "{found:?}");
        }
    }
    println!("limbs in the registers of {CORES} cores: {in_registers}");
}

/// Of a signer that is ended while it signs.
async fn core(desk: &Desk, memory: &str, number: u64) -> Option<Image> {
    let signer = desk.start(Path::new(CONTROL), &[(MEMORY, memory)]).await;
    let mut signatures = Signatures::default();
    signer.sign(Kind::X509, BATCH, &mut signatures).await;
    let abort = async {
        tokio::time::sleep(Duration::from_millis(5 + 3 * number)).await;
        signer.abort();
    };
    let work = async { while signer.try_sign(Kind::Jwt, BATCH).await {} };
    tokio::join!(work, abort);
    let cores: Vec<_> = fs::read_dir(desk.folder.path())
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with("core")
        })
        .collect();
    let core = cores.first()?;
    let image = Image::of_core(core).unwrap();
    fs::remove_file(core).unwrap();
    Some(image)
}
