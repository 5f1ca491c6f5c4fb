//! `path` and `sha256`: facts about the file that a peer runs.
//!
//! Everything here may block as long as a file system likes.

use std::io::ErrorKind;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use taskmint_attest::AttestError;
use taskmint_model::Selector;
use taskmint_peer::{FileIdentity, LookError, OpenExecutable, Peer, ProcessFacts};

use crate::digest::Digests;
use crate::{Config, selector_if_printable};

/// Selectors of the file that the peer runs.
///
/// What can't be told is left out and logged: fewer selectors only match fewer entries.
///
/// # Errors
/// If the peer is gone, or runs another file than `facts` say.
pub(crate) fn selectors(
    config: Config,
    digests: &Digests,
    peer: &Peer,
    facts: &ProcessFacts,
) -> Result<Vec<Selector>, AttestError> {
    let changed = || LookError::Executable { pid: peer.pid() };
    let looked_at = facts.executable.as_ref().map_err(|_| changed())?;
    let open = peer
        .held()
        .executable()
        .map_err(LookError::from)?
        .map_err(|_| changed())?;
    if !open.facts().file.same_inode(&looked_at.file) {
        return Err(changed().into());
    }
    let mut selectors = Vec::new();
    if config.discover_path {
        selectors.extend(path(&open));
    }
    if config.max_sha256_bytes > 0 {
        selectors.extend(sha256(&open, digests, config.max_sha256_bytes));
    }
    Ok(selectors)
}

/// The path, if the agent finds the same file there.
///
/// The kernel gives the path in the peer's mount namespace, where an unprivileged user can bind
/// any file to any path. What the agent opens there, in its own, no peer can choose.
fn path(open: &OpenExecutable) -> Option<Selector> {
    let path = &open.facts().path;
    match file_at(path) {
        Ok(found) if found.same_inode(&open.facts().file) => {}
        Ok(_) => {
            tracing::warn!(path = %path.display(), "left out: another file is there");
            return None;
        }
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            tracing::warn!(
                path = %path.display(),
                %error,
                "left out: the agent may not call openat2; under systemd, remove RestrictSUIDSGID="
            );
            return None;
        }
        Err(error) => {
            tracing::info!(path = %path.display(), %error, "left out: the agent finds no file there");
            return None;
        }
    }
    let text = path.to_str();
    if text.is_none() {
        tracing::warn!(path = %path.display(), "left out: a path that is not utf-8");
    }
    selector_if_printable("path", text?)
}

fn file_at(path: &Path) -> std::io::Result<FileIdentity> {
    // The kernel's path has no links in it; if there is one on the way now, it was put there.
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let file = openat2(
        CWD,
        path,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )?;
    FileIdentity::of(&file)
}

fn sha256(open: &OpenExecutable, digests: &Digests, limit: u64) -> Option<Selector> {
    match digests.of(open, limit) {
        Ok(digest) => selector_if_printable(
            "sha256",
            &digest.iter().fold(String::with_capacity(64), |text, byte| {
                text + &format!("{byte:02x}")
            }),
        ),
        Err(error) => {
            let path = open.facts().path.display();
            tracing::warn!(%path, %error, "left out: no sha256 of the executable");
            None
        }
    }
}
