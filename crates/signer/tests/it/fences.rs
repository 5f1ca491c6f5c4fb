//! What the process gives up, and how it ends.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use taskmint_mint::journal::ENTRY_LEN;
use taskmint_mint::protocol::{Call, Wanted};
use taskmint_mint::{KeyKind, Request};
use tempfile::TempDir;

use crate::support::{
    MEMORY, Raw, Signer, append, check_chains, command, crl, head, journal, record, status_list,
    workload,
};

fn field(text: &str, name: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name}"))
        .trim()
        .to_owned()
}

fn threads(signer: &Signer) -> BTreeSet<String> {
    let tasks = fs::read_dir(signer.proc("task")).unwrap();
    tasks
        .map(|task| task.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Where its descriptors lead; nobody but root may know, which is a fence, too.
fn descriptors(signer: &Signer) -> Option<Vec<String>> {
    let links = match fs::read_dir(signer.proc("fd")) {
        Ok(links) => links,
        Err(error) => {
            assert!(!rustix::process::geteuid().is_root(), "{error}");
            return None;
        }
    };
    let target = |link: fs::DirEntry| fs::read_link(link.path()).unwrap().display().to_string();
    Some(links.map(|link| target(link.unwrap())).collect())
}

#[test]
fn every_thread_is_fenced_before_anybody_is_served() {
    let (signer, mut raw) = Signer::start(MEMORY);
    raw.open();
    for task in threads(&signer) {
        let status = fs::read_to_string(signer.proc(&format!("task/{task}/status"))).unwrap();
        assert_eq!(field(&status, "Seccomp:"), "2", "{task}");
        assert_eq!(field(&status, "NoNewPrivs:"), "1", "{task}");
    }
    let limits = fs::read_to_string(signer.proc("limits")).unwrap();
    let limit = |name| {
        let limit = field(&limits, name);
        let mut words = limit.split_whitespace();
        (
            words.next().unwrap().to_owned(),
            words.next().unwrap().to_owned(),
        )
    };
    assert_eq!(limit("Max core file size"), ("0".into(), "0".into()));
    assert_eq!(limit("Max open files"), ("16".into(), "16".into()));
    // Whoever may not be dumped belongs to root in `/proc`.
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(signer.proc("environ")).unwrap());
    assert_eq!(owner, 0);
}

#[test]
fn signing_and_making_keys_opens_nothing_and_starts_nothing() {
    let (signer, mut raw) = Signer::start(MEMORY);
    let keys = raw.ready();
    let (before, opened) = (threads(&signer), descriptors(&signer));
    // More than one region of secret memory has room for.
    for _ in 0..150 {
        raw.prepare(KeyKind::Jwt).unwrap();
    }
    let request = raw.x509(&workload());
    for _ in 0..20 {
        let wanted = vec![Wanted::Sign(Request::X509(request.clone())); 16];
        assert!(raw.batch(wanted).iter().all(Result::is_ok));
    }
    raw.sign(Request::Crl(crl(keys.ca.id, 1))).unwrap();
    assert_eq!(threads(&signer), before);
    assert_eq!(descriptors(&signer), opened);
    let Some(opened) = opened else { return };
    let journal = signer.journal.display().to_string();
    for link in &opened {
        let known = link.starts_with("socket:") || link.starts_with("pipe:") || *link == journal;
        assert!(known, "{link} is open");
    }
    assert_eq!(
        opened
            .iter()
            .filter(|link| link.starts_with("pipe:"))
            .count(),
        1
    );
    // Keys are mapped, and by no descriptor that another could take.
    let maps = fs::read_to_string(signer.proc("maps")).unwrap();
    let secret = maps
        .lines()
        .filter(|line| line.contains("secretmem"))
        .count();
    let said = raw_protection(&mut Signer::start(MEMORY).1);
    assert_eq!(secret > 0, said.contains("no dump, no swap"), "{said}");
}

fn raw_protection(raw: &mut Raw) -> String {
    raw.open().protection
}

#[test]
fn without_locked_memory_it_signs_and_says_what_is_not_covered() {
    let (ours, its) = UnixStream::pair().unwrap();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("journal");
    let mut signer = std::process::Command::new("sh");
    let drop_it = if rustix::process::geteuid().is_root() {
        // Root locks what it likes.
        "exec setpriv --bounding-set=-ipc_lock --inh-caps=-ipc_lock \"$@\""
    } else {
        "exec \"$@\""
    };
    let mut child = signer
        .args(["-c", &format!("ulimit -l 0; {drop_it}"), "sh"])
        .arg(command(MEMORY).get_program())
        .args(command(MEMORY).get_args())
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(its)))
        .stdout(Stdio::from(append(&path)))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut raw = Raw::new(ours);
    let keys = raw.ready();
    let said = {
        let request = raw.x509(&workload());
        raw.sign(Request::X509(request)).unwrap();
        raw.sign(Request::Crl(crl(keys.ca.id, 1))).unwrap();
        drop(raw);
        child.wait().unwrap()
    };
    assert_eq!(said.code(), Some(0));
}

#[test]
fn it_ends_when_its_server_does_and_has_counted_every_signature() {
    let (mut signer, mut raw) = Signer::start(MEMORY);
    let keys = raw.ready();
    let (facts, mut tails) = (workload(), Vec::new());
    for n in 0..8 {
        let certificate = Request::X509(raw.x509(&facts));
        let token = Request::Jwt(raw.jwt(&facts));
        let head = Request::Head(head(vec![record(n + 1, 1)]));
        let list = Request::Crl(crl(keys.ca.id, n + 1));
        let statuses = Request::StatusList(status_list(&keys.log));
        for request in [certificate, token, head, list, statuses] {
            tails.push(raw.sign(request).unwrap().tail);
            // Before the answer left.
            let (entries, torn) = journal(&signer.journal);
            assert_eq!(torn, 0);
            assert_eq!(entries.last().unwrap().link.tail, *tails.last().unwrap());
        }
    }
    let refused = raw.sign(Request::Head(head(vec![record(1, 1)])));
    refused.unwrap_err();
    drop(raw);
    assert_eq!(signer.ended().code(), Some(0));
    let (entries, torn) = journal(&signer.journal);
    // The CA's own certificate and that of the log's key are the first two.
    assert_eq!((entries.len(), torn), (2 + tails.len(), 0));
    check_chains(&entries);
    let counted: Vec<_> = entries
        .iter()
        .skip(2)
        .map(|entry| entry.link.tail)
        .collect();
    assert_eq!(counted, tails);
}

#[test]
fn a_reader_of_its_log_that_goes_away_takes_nothing_along() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("journal");
    let (ours, its) = UnixStream::pair().unwrap();
    let mut child = command(MEMORY)
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(its)))
        .stdout(Stdio::from(append(&path)))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut raw = Raw::new(ours);
    raw.open();
    drop(child.stderr.take());
    raw.done(Call::Load(Vec::new(), crate::support::start()))
        .unwrap();
    drop(raw);
    // It says goodbye to a broken pipe.
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn nothing_leaves_that_the_journal_does_not_hold() {
    let full = || OpenOptions::new().append(true).open("/dev/full").unwrap();
    let (ours, its) = UnixStream::pair().unwrap();
    let mut signer = Signer::on(its.into(), full(), "/dev/full".as_ref(), MEMORY);
    let mut raw = Raw::new(ours);
    raw.open();
    raw.done(Call::Load(Vec::new(), crate::support::start()))
        .unwrap();
    // The first signature is a CA's own certificate.
    let call = Call::Prepare(
        KeyKind::Ca { ttl_secs: 3600 },
        taskmint_model::AuthorityId::from_octets([1; 16]),
        crate::support::now(),
    );
    let message = raw.encoded(call);
    raw.send(&message);
    assert!(raw.reply().is_none());
    assert_eq!(signer.ended().code(), Some(1));
    assert!(signer.said().contains("the journal can't be written"));
}

#[test]
fn a_torn_entry_tears_none_of_those_behind_it() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("journal");
    let (mut signer, mut raw) = Signer::over(&path, MEMORY);
    raw.ready();
    drop(raw);
    signer.ended();
    let whole = fs::read(&path).unwrap();
    for torn in [1, 40, ENTRY_LEN - 1] {
        fs::write(&path, &whole[..whole.len() - ENTRY_LEN + torn]).unwrap();
        let (mut signer, mut raw) = Signer::over(&path, MEMORY);
        raw.ready();
        drop(raw);
        signer.ended();
        let (entries, rest) = journal(&path);
        // Two of before, one of them torn, and two of now.
        assert_eq!((entries.len(), rest), (3, 0), "torn at {torn}");
        assert_eq!(fs::read(&path).unwrap().len(), 4 * ENTRY_LEN);
        check_chains(&entries);
    }
}

#[test]
fn two_signers_never_write_one_journal() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("journal");
    let (mut first, mut raw) = Signer::over(&path, MEMORY);
    raw.open();
    let (_second, mut waiting) = Signer::over(&path, MEMORY);
    let hello = Call::Open(waiting.hello());
    let message = waiting.encoded(hello);
    waiting.send(&message);
    // It waits: for half a second nothing comes.
    waiting
        .stream
        .set_read_timeout(Some(std::time::Duration::from_millis(500)))
        .unwrap();
    let mut octet = [0];
    // Also past a signal: a child of another test may end meanwhile.
    let nothing = std::io::Read::read_exact(&mut waiting.stream, &mut octet);
    assert_eq!(nothing.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    waiting
        .stream
        .set_read_timeout(Some(crate::support::SOON))
        .unwrap();
    drop(raw);
    first.ended();
    assert!(waiting.reply().unwrap().refusal().is_none());
}

#[test]
fn it_starts_with_nothing_but_a_socket_and_a_journal() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("journal");
    let file = append(&path);
    let readable = OpenOptions::new()
        .read(true)
        .append(true)
        .open(&path)
        .unwrap();
    let anywhere = OpenOptions::new().write(true).open(&path).unwrap();
    let (ours, _its) = UnixStream::pair().unwrap();
    let socket = || Stdio::from(std::os::fd::OwnedFd::from(ours.try_clone().unwrap()));
    let cases = [
        (Stdio::null(), Stdio::from(file), "must be a socket"),
        (socket(), Stdio::from(readable), "not for reading"),
        (socket(), Stdio::from(anywhere), "opened for appending"),
        (socket(), Stdio::piped(), "must be a file"),
    ];
    for (stdin, stdout, words) in cases {
        let output = command(MEMORY)
            .stdin(stdin)
            .stdout(stdout)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(said.contains(words), "{said}");
    }
    assert_eq!(fs::read(&path).unwrap(), b"");
}
