//! Attacks, played by real processes.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};
use taskmint_attest::WorkloadAttestors;
use taskmint_model::{Selectors, SystemClock};
use taskmint_peer::testing::{Actor, Socket, find, needs_root, skip};
use tempfile::TempDir;

use super::*;

/// A folder with two different programs that both only sleep.
struct Programs {
    folder: TempDir,
}

impl Programs {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sleep = fs::read(find("sleep").unwrap()).unwrap();
        for name in ["good", "evil"] {
            fs::create_dir(folder.path().join(name)).unwrap();
            let path = folder.path().join(name).join("sleep");
            // Bytes after the end of an ELF file change its digest and nothing else.
            fs::write(&path, [&sleep, name.as_bytes()].concat()).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder
            .path()
            .canonicalize()
            .unwrap()
            .join(name)
            .join("sleep")
    }
}

fn attestor(config: Config) -> WorkloadAttestors {
    let unix = UnixAttestor::new(config, Arc::new(SystemClock));
    WorkloadAttestors::new(vec![Arc::new(unix)]).unwrap()
}

async fn attest(peer: &Peer) -> Result<Selectors, AttestError> {
    attestor(Config::default()).attest(peer).await
}

async fn accept(socket: &Socket) -> Peer {
    Peer::of(&socket.accept().await.unwrap()).unwrap()
}

fn has(selectors: &Selectors, text: &str) -> bool {
    selectors.contains(&text.parse().unwrap())
}

fn with(selectors: &Selectors, fact: &str) -> Vec<String> {
    let values = selectors
        .iter()
        .filter_map(|selector| selector.value().strip_prefix(fact));
    values.map(ToOwned::to_owned).collect()
}

fn sha256_of(path: &Path) -> String {
    Sha256::digest(fs::read(path).unwrap())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[tokio::test]
async fn a_workload_is_its_user_its_groups_and_its_executable() {
    let (socket, programs) = (Socket::bind().unwrap(), Programs::new());
    let good = programs.path("good");
    let _actor = Actor::copy_connected(&socket, &good).unwrap();
    let selectors = attest(&accept(&socket).await).await.unwrap();

    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    assert!(has(&selectors, &format!("unix:uid:{uid}")));
    assert!(has(&selectors, &format!("unix:gid:{gid}")));
    let user = nix::unistd::User::from_uid(uid)
        .unwrap()
        .map(|user| user.name);
    assert_eq!(with(&selectors, "user:"), Vec::from_iter(user));
    let group = nix::unistd::Group::from_gid(gid)
        .unwrap()
        .map(|group| group.name);
    assert_eq!(with(&selectors, "group:"), Vec::from_iter(group));
    assert_eq!(with(&selectors, "path:"), [good.to_str().unwrap()]);
    assert_eq!(with(&selectors, "sha256:"), [sha256_of(&good)]);
}

#[tokio::test]
async fn supplementary_groups_are_those_of_the_process() {
    if needs_root("supplementary_groups_are_those_of_the_process") {
        return;
    }
    let socket = Socket::bind().unwrap();
    let _actor = Actor::connected_with_groups(&socket, &[0, 54_321]).unwrap();
    let selectors = attest(&accept(&socket).await).await.unwrap();
    assert_eq!(with(&selectors, "supplementary_gid:"), ["0", "54321"]);
    let root = nix::unistd::Group::from_gid(0.into())
        .unwrap()
        .unwrap()
        .name;
    assert_eq!(
        with(&selectors, "supplementary_group:"),
        [root],
        "the other has no name"
    );
}

#[tokio::test]
async fn what_is_turned_off_or_too_large_is_left_out() {
    let (socket, programs) = (Socket::bind().unwrap(), Programs::new());
    let _actor = Actor::copy_connected(&socket, &programs.path("good")).unwrap();
    let peer = accept(&socket).await;
    let size = fs::metadata(programs.path("good")).unwrap().len();
    for (max_sha256_bytes, digests) in [(0, 0), (size - 1, 0), (size, 1)] {
        for discover_path in [false, true] {
            let config = Config {
                discover_path,
                max_sha256_bytes,
            };
            let selectors = attestor(config).attest(&peer).await.unwrap();
            assert_eq!(with(&selectors, "path:").len(), usize::from(discover_path));
            assert_eq!(with(&selectors, "sha256:").len(), digests, "{config:?}");
        }
    }
}

/// What the two looks do not separate: both see the good binary, though another one connected.
#[tokio::test]
async fn one_that_executes_the_good_file_before_accept_is_taken_for_it() {
    let (socket, programs) = (Socket::bind().unwrap(), Programs::new());
    let good = programs.path("good");
    let script = format!("read go; exec {} 1000", good.display());
    let mut actor = Actor::script_connected(&socket, &script).unwrap();
    actor.proceed().unwrap();
    actor.until(|facts| {
        facts
            .executable
            .as_ref()
            .is_ok_and(|file| file.path == good)
    });
    let selectors = attest(&accept(&socket).await).await.unwrap();
    assert_eq!(with(&selectors, "path:"), [good.to_str().unwrap()]);
}

#[tokio::test]
async fn one_that_executes_the_good_file_after_accept_is_refused() {
    let (socket, programs) = (Socket::bind().unwrap(), Programs::new());
    let good = programs.path("good");
    let script = format!("read go; exec {} 1000", good.display());
    let mut actor = Actor::script_connected(&socket, &script).unwrap();
    let peer = accept(&socket).await;
    attest(&peer).await.unwrap();
    actor.proceed().unwrap();
    actor.until(|facts| {
        facts
            .executable
            .as_ref()
            .is_ok_and(|file| file.path == good)
    });
    let error = attest(&peer).await.unwrap_err();
    assert_eq!(error.reason(), "PEER_EXECUTABLE_CHANGED");
    assert!(error.is_refusal());
}

#[tokio::test]
async fn setuid_and_setgid_executables_are_refused() {
    for (mode, reason) in [(0o4755, "EXECUTABLE_SETUID"), (0o2755, "EXECUTABLE_SETGID")] {
        let (socket, programs) = (Socket::bind().unwrap(), Programs::new());
        let good = programs.path("good");
        let _actor = Actor::copy_connected(&socket, &good).unwrap();
        let peer = accept(&socket).await;
        attest(&peer).await.unwrap();
        fs::set_permissions(&good, Permissions::from_mode(mode)).unwrap();
        assert_eq!(
            attest(&peer).await.unwrap_err().reason(),
            reason,
            "set after accept"
        );

        let _actor = Actor::copy_connected(&socket, &good).unwrap();
        let peer = accept(&socket).await;
        assert_eq!(attest(&peer).await.unwrap_err().reason(), reason);
        // Taking the bit away again does not undo what the first look saw.
        fs::set_permissions(&good, Permissions::from_mode(0o755)).unwrap();
        let error = attest(&peer).await.unwrap_err();
        assert_eq!(error.reason(), reason);
        assert!(error.is_refusal());
    }
}

#[test]
fn an_executable_that_can_not_be_seen_is_refused() {
    let mut facts = taskmint_peer::HeldProcess::open(std::process::id())
        .unwrap()
        .facts()
        .unwrap();
    refuse_privileged(&facts).unwrap();
    for (error, reason) in [
        (ExecutableError::Missing, "EXECUTABLE_MISSING"),
        (
            ExecutableError::Unreadable { errno: 13 },
            "EXECUTABLE_UNREADABLE",
        ),
    ] {
        facts.executable = Err(error);
        let refusal = refuse_privileged(&facts).unwrap_err();
        assert_eq!(refusal.reason(), reason);
        assert!(
            refusal.is_refusal(),
            "no other attestor's word makes up for it"
        );
    }
}

#[tokio::test]
async fn a_file_bound_to_a_good_path_does_not_get_that_path() {
    const NAME: &str = "a_file_bound_to_a_good_path_does_not_get_that_path";
    let works = |flags: &str| {
        let status = Command::new("unshare")
            .args([flags, "mount", "--version"])
            .output();
        status.is_ok_and(|output| output.status.success())
    };
    let Some(flags) = ["-Urm", "-m"].into_iter().find(|flags| works(flags)) else {
        return skip(NAME, "no unshare, or no user namespaces");
    };
    let (socket, programs) = (Socket::bind().unwrap(), Programs::new());
    let (good, evil) = (programs.path("good"), programs.path("evil"));
    let mut command = Command::new(find("unshare").unwrap());
    let script = r#"mount --bind "$1" "$2" && exec "$2" 1000"#;
    command
        .args([flags, "sh", "-c", script, "sh"])
        .args([&evil, &good]);
    let actor = Actor::spawn_connected(&socket, command).unwrap();
    actor.until(|facts| {
        facts
            .executable
            .as_ref()
            .is_ok_and(|file| file.path == good)
    });

    let peer = accept(&socket).await;
    let shown = peer.first_look().executable.clone().unwrap();
    assert_eq!(
        shown.path, good,
        "the trick works: the kernel shows the good path"
    );
    let selectors = attest(&peer).await.unwrap();
    assert_eq!(with(&selectors, "path:"), [""; 0]);
    assert_eq!(with(&selectors, "sha256:"), [sha256_of(&evil)]);
}

#[tokio::test]
async fn a_path_is_not_handed_on_to_the_file_that_replaced_it() {
    let (socket, programs) = (Socket::bind().unwrap(), Programs::new());
    let (good, evil) = (programs.path("good"), programs.path("evil"));
    let digest = sha256_of(&good);
    let _actor = Actor::copy_connected(&socket, &good).unwrap();
    let peer = accept(&socket).await;
    fs::rename(&evil, &good).unwrap();
    let selectors = attest(&peer).await.unwrap();
    assert_eq!(with(&selectors, "path:"), [""; 0]);
    assert_eq!(
        with(&selectors, "sha256:"),
        [digest],
        "what runs is what is hashed"
    );
}

#[tokio::test]
async fn a_path_through_a_link_put_there_later_does_not_count() {
    let (socket, programs) = (Socket::bind().unwrap(), Programs::new());
    let good = programs.path("good");
    let _actor = Actor::copy_connected(&socket, &good).unwrap();
    let peer = accept(&socket).await;
    let folder = good.parent().unwrap();
    let elsewhere = folder.with_file_name("elsewhere");
    // The kernel follows the renamed folder, so the path stays true...
    fs::rename(folder, &elsewhere).unwrap();
    let selectors = attest(&peer).await.unwrap();
    assert_eq!(
        with(&selectors, "path:"),
        [elsewhere.join("sleep").to_str().unwrap()]
    );
    // ...and the old one, though a link leads from it to the same file, is not claimed.
    std::os::unix::fs::symlink(&elsewhere, folder).unwrap();
    let selectors = attest(&peer).await.unwrap();
    assert!(!has(&selectors, &format!("unix:path:{}", good.display())));
}

#[tokio::test]
async fn a_peer_that_has_exited_is_refused() {
    let socket = Socket::bind().unwrap();
    let mut actor = Actor::connected(&socket).unwrap();
    let peer = accept(&socket).await;
    actor.kill_without_reaping().unwrap();
    peer.exited().await.unwrap();
    let error = attest(&peer).await.unwrap_err();
    assert_eq!(error.reason(), "PEER_GONE", "a zombie");
    assert!(error.is_refusal());
    actor.end().unwrap();
    assert_eq!(
        attest(&peer).await.unwrap_err().reason(),
        "PEER_GONE",
        "reaped"
    );
}

#[tokio::test]
async fn a_peer_under_another_uid_than_it_connected_with_is_refused() {
    if needs_root("a_peer_under_another_uid_than_it_connected_with_is_refused") {
        return;
    }
    let socket = Socket::bind().unwrap();
    let _actor = Actor::connected_then_as(&socket, 65_533, 65_533).unwrap();
    let error = attest(&accept(&socket).await).await.unwrap_err();
    assert_eq!(error.reason(), "PEER_CREDENTIALS_CHANGED");
    assert!(error.is_refusal());
}

#[tokio::test]
async fn a_named_child_is_attested_by_what_it_runs_itself() {
    let (socket, programs) = (Socket::bind().unwrap(), Programs::new());
    let good = programs.path("good");
    let script = format!("{} 1000 & echo $!; read go", good.display());
    let actor = Actor::script_connected(&socket, &script).unwrap();
    let shell = accept(&socket).await;
    let pid = actor.line().unwrap().parse().unwrap();
    let path = good.clone();
    taskmint_peer::testing::until(pid, move |facts| {
        facts
            .executable
            .as_ref()
            .is_ok_and(|file| file.path == path)
    });
    let child = shell.child(pid).unwrap();
    assert_eq!(
        with(&attest(&child).await.unwrap(), "path:"),
        [good.to_str().unwrap()]
    );
    Actor::kill_stranger(child.held()).unwrap();
}
