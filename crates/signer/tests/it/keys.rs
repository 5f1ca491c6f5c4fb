//! The sealing key: what is refused at start, with what to do, and never written over.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use taskmint_mint::protocol::Call;
use taskmint_mint::{Refusal, Request};
use tempfile::TempDir;

use crate::support::{EPOCH, Keys, PROGRAM, Signer, command, fails, head, start, workload};

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// A file that `make-key` made.
    fn made(&self, name: &str, trust_domain: &str, passphrase: Option<&Path>) -> PathBuf {
        let path = self.path(name);
        let (code, said) = make_key(trust_domain, &path, passphrase);
        assert_eq!(code, Some(0), "{said}");
        path
    }
}

fn make_key(trust_domain: &str, out: &Path, passphrase: Option<&Path>) -> (Option<i32>, String) {
    let mut command = Command::new(PROGRAM);
    command
        .args(["make-key", "--trust-domain", trust_domain, "--out"])
        .arg(out);
    if let Some(passphrase) = passphrase {
        command.arg("--passphrase").arg(passphrase);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said)
}

fn with_key(key: &Path, passphrase: Option<&Path>) -> Command {
    let mut command = command(&["--sealing-key"]);
    command.arg(key);
    if let Some(passphrase) = passphrase {
        command.arg("--passphrase").arg(passphrase);
    }
    command
}

/// Refused at start, saying what to do, and the file is as before.
fn refused(mut command: Command, key: &Path, words: &[&str]) {
    let before = fs::read(key).ok();
    let mode = fs::metadata(key).ok().map(|metadata| metadata.mode());
    let (code, said) = fails(&mut command).unwrap();
    assert_eq!(code, Some(78), "{said}");
    for words in words {
        assert!(said.contains(words), "`{words}` is not in: {said}");
    }
    assert!(said.contains(&key.display().to_string()), "{said}");
    assert_eq!(fs::read(key).ok(), before);
    assert_eq!(fs::metadata(key).ok().map(|metadata| metadata.mode()), mode);
}

#[test]
fn a_sealing_key_that_is_none_is_refused() {
    let folder = Folder::new();
    let empty = folder.file("empty", b"");
    refused(with_key(&empty, None), &empty, &["32 octets", "this has 0"]);
    let short = folder.file("short", &[7; 31]);
    refused(
        with_key(&short, None),
        &short,
        &["32 octets", "this has 31"],
    );
    let long = folder.file("long", &vec![7; 70_000]);
    refused(with_key(&long, None), &long, &["longer than"]);
    let directory = folder.path("directory");
    fs::create_dir(&directory).unwrap();
    refused(with_key(&directory, None), &directory, &["no regular file"]);
    let absent = folder.path("absent");
    refused(with_key(&absent, None), &absent, &["cannot read"]);
}

#[test]
fn a_sealing_key_that_others_may_read_or_change_is_refused() {
    let folder = Folder::new();
    let key = folder.file("key", &[7; 32]);
    for mode in [0o644, 0o660, 0o602] {
        fs::set_permissions(&key, Permissions::from_mode(mode)).unwrap();
        refused(
            with_key(&key, None),
            &key,
            &["open to others", "run `chmod 600"],
        );
    }
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&key, Some(12345), None).unwrap();
        refused(with_key(&key, None), &key, &["belongs to uid 12345"]);
    }
}

#[test]
fn a_sealed_key_file_opens_by_its_passphrase_alone() {
    let folder = Folder::new();
    let passphrase = folder.file("passphrase", b"correct horse\n");
    let key = folder.made("key", "example.org", Some(&passphrase));
    assert_eq!(fs::metadata(&key).unwrap().mode() & 0o7777, 0o600);

    let (_signer, mut raw) = opened(&key, Some(&passphrase));
    raw.ready();

    refused(with_key(&key, None), &key, &["give its passphrase"]);
    let wrong = folder.file("wrong", b"correct house\n");
    refused(
        with_key(&key, Some(&wrong)),
        &key,
        &["wrong passphrase", "check it"],
    );
    let empty = folder.file("nothing", b"\n");
    refused(with_key(&key, Some(&empty)), &key, &["passphrase is empty"]);
    let absent = folder.path("absent");
    let (code, said) = fails(&mut with_key(&key, Some(&absent))).unwrap();
    assert_eq!(code, Some(78));
    assert!(said.contains("absent"), "{said}");
    fs::set_permissions(&passphrase, Permissions::from_mode(0o644)).unwrap();
    let (code, said) = fails(&mut with_key(&key, Some(&passphrase))).unwrap();
    assert_eq!(code, Some(78));
    assert!(said.contains("chmod 600"), "{said}");

    let plain = folder.file("plain", &[7; 32]);
    refused(with_key(&plain, Some(&wrong)), &plain, &["is not sealed"]);
}

fn opened(key: &Path, passphrase: Option<&Path>) -> (Signer, crate::support::Raw) {
    let mut arguments = vec!["--sealing-key", key.to_str().unwrap()];
    if let Some(passphrase) = passphrase {
        arguments.extend(["--passphrase", passphrase.to_str().unwrap()]);
    }
    Signer::start(&arguments)
}

#[test]
fn a_torn_or_foreign_sealed_key_file_is_refused() {
    let folder = Folder::new();
    let passphrase = folder.file("passphrase", b"correct horse");
    let whole = fs::read(folder.made("whole", "example.org", Some(&passphrase))).unwrap();
    let mut flipped = whole.clone();
    flipped[100] ^= 1;
    for (name, content) in [
        ("cut", &whole[..whole.len() - 1]),
        ("half", &whole[..60]),
        ("flipped", &flipped),
        ("longer", &[&whole[..], b"\n"].concat()),
    ] {
        let torn = folder.file(name, content);
        let words = ["is torn", "restore it from a backup"];
        refused(with_key(&torn, Some(&passphrase)), &torn, &words);
    }
    let foreign = folder.made("foreign", "example.com", Some(&passphrase));
    let words = ["another trust domain"];
    refused(with_key(&foreign, Some(&passphrase)), &foreign, &words);
}

#[test]
fn a_missing_key_is_made_once_and_never_written_over() {
    let folder = Folder::new();
    let key = folder.path("key");
    let arguments = ["--make-missing-key", "--sealing-key", key.to_str().unwrap()];
    let (mut signer, mut raw) = Signer::start(&arguments);
    raw.open();
    drop(raw);
    signer.ended();
    let made = fs::read(&key).unwrap();
    assert_eq!(made.len(), 32);
    assert_eq!(fs::metadata(&key).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(
        fs::read_dir(folder.0.path()).unwrap().count(),
        1,
        "and nothing beside it"
    );

    let (mut signer, mut raw) = Signer::start(&arguments);
    raw.open();
    drop(raw);
    signer.ended();
    assert_eq!(fs::read(&key).unwrap(), made);

    // What is there and is no key stays as it is.
    let empty = folder.file("empty", b"");
    let mut make = with_key(&empty, None);
    make.arg("--make-missing-key");
    refused(make, &empty, &["this has 0 octets"]);
    let nowhere = folder.path("nowhere");
    symlink(folder.path("target"), &nowhere).unwrap();
    let mut make = with_key(&nowhere, None);
    make.arg("--make-missing-key");
    refused(make, &nowhere, &["cannot read"]);
    assert!(!folder.path("target").exists());
}

#[test]
fn make_key_makes_two_keys_that_differ_and_overwrites_neither() {
    let folder = Folder::new();
    let (one, two) = (
        folder.made("one", "example.org", None),
        folder.made("two", "example.org", None),
    );
    let content = fs::read(&one).unwrap();
    assert_eq!(content.len(), 32);
    assert_ne!(content, fs::read(&two).unwrap());
    assert_eq!(fs::metadata(&one).unwrap().mode() & 0o7777, 0o600);

    let passphrase = folder.file("passphrase", b"correct horse");
    for passphrase in [None, Some(passphrase.as_path())] {
        let (code, said) = make_key("example.org", &one, passphrase);
        assert_eq!(code, Some(78));
        assert!(said.contains("never written over"), "{said}");
        assert_eq!(fs::read(&one).unwrap(), content);
    }
    let (code, said) = make_key("example.org", &folder.path("no/where"), None);
    assert_eq!(code, Some(78), "{said}");
    let empty = folder.file("nothing", b"");
    let (code, said) = make_key("example.org", &folder.path("three"), Some(&empty));
    assert_eq!(code, Some(78), "{said}");
    assert!(!folder.path("three").exists());
    assert_eq!(fs::read_dir(folder.0.path()).unwrap().count(), 4);

    // A name without a folder is one in this folder.
    let output = Command::new(PROGRAM)
        .current_dir(folder.0.path())
        .args(["make-key", "--trust-domain", "example.org", "--out", "four"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(fs::read(folder.path("four")).unwrap().len(), 32);
}

/// A signer by this key, and what it made.
fn keys_by(key: &Path) -> Keys {
    let (mut signer, mut raw) = opened(key, None);
    let keys = raw.ready();
    drop(raw);
    signer.ended();
    keys
}

#[test]
fn keys_come_back_by_their_sealing_key_alone() {
    let folder = Folder::new();
    let (right, wrong) = (
        folder.file("right", &[7; 32]),
        folder.file("wrong", &[8; 32]),
    );
    let keys = keys_by(&right);
    let load = || Call::Load(keys.sealed(), start());

    let (_signer, mut raw) = opened(&wrong, None);
    raw.open();
    let refusal = raw.done(load()).unwrap_err();
    assert!(matches!(refusal, Refusal::Sealed(_)), "{refusal}");
    assert!(
        refusal.to_string().contains("wrong sealing key"),
        "{refusal}"
    );
    // Nothing was taken over.
    assert_eq!(
        raw.done(Call::Activate(keys.ca.id)),
        Err(Refusal::Authority(keys.ca.id))
    );

    let (_signer, mut raw) = opened(&right, None);
    raw.open();
    let mut torn = keys.sealed();
    torn[1].blob.pop();
    let refusal = raw.done(Call::Load(torn, start())).unwrap_err();
    assert!(matches!(refusal, Refusal::Sealed(_)), "{refusal}");
    raw.done(load()).unwrap();
    let request = raw.x509(&workload());
    assert_eq!(
        raw.sign(Request::X509(request)).unwrap().authority,
        keys.ca.id
    );
    let signed = raw.sign(Request::Head(head(Vec::new()))).unwrap();
    assert_eq!(signed.authority, keys.log.id);
}

#[test]
fn a_grant_outlives_the_signer_that_made_it() {
    let folder = Folder::new();
    let key = folder.file("key", &[7; 32]);
    let (_signer, mut raw) = opened(&key, None);
    let keys = raw.ready();
    let facts = workload();
    let request = raw.x509(&facts);
    let (_second, mut raw) = opened(&key, None);
    raw.open();
    let start = taskmint_mint::LogStart {
        epoch: EPOCH + 1,
        ..start()
    };
    raw.done(Call::Load(keys.sealed(), start)).unwrap();
    raw.sign(Request::X509(request)).unwrap();
}
