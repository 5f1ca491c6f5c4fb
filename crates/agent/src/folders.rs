//! Per-task folders (P2): `<task id>/workload.sock` and `task.sock`, for the uid that was named at
//! begin and nobody else, gone with the task. They are no bearer capability: peers are looked at as
//! everywhere.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use taskmint_model::TaskId;
use tokio_util::sync::CancellationToken;

use crate::agent::Agent;
use crate::caller::Scope;
use crate::listener::{Door, Incoming, accept, bind};

/// How long connections outlive their task: who ended it over one of them is still to be answered,
/// and streams say why they end. Nothing is given any more.
const LINGER: Duration = Duration::from_secs(1);

/// All per-task folders.
pub(crate) struct Folders {
    root: PathBuf,
    open: Mutex<HashMap<TaskId, Folder>>,
    services: OnceLock<Services>,
}

/// A folder whose sockets are listened on.
struct Folder {
    open: CancellationToken,
    linger: CancellationToken,
}

/// Where connections on per-task sockets go.
pub(crate) struct Services {
    pub(crate) workload: Incoming,
    pub(crate) task: Incoming,
}

impl Folders {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self {
            root,
            open: Mutex::default(),
            services: OnceLock::new(),
        }
    }

    /// Makes the folder that holds them all, and says where connections go.
    pub(crate) fn start(&self, services: Services) -> io::Result<()> {
        if !self.root.is_dir() {
            fs::create_dir_all(&self.root)?;
            fs::set_permissions(&self.root, fs::Permissions::from_mode(0o755))?;
        }
        // Set once, at start.
        drop(self.services.set(services));
        Ok(())
    }

    /// Where a task's sockets are.
    pub(crate) fn path(&self, task: TaskId) -> PathBuf {
        self.root.join(task.to_string())
    }

    /// Whose folder a task has on disk: what an agent before this one made.
    pub(crate) fn owner(&self, task: TaskId) -> Option<u32> {
        fs::symlink_metadata(self.path(task))
            .ok()
            .filter(fs::Metadata::is_dir)
            .map(|dir| dir.uid())
    }

    /// Listens on a task's sockets, in a folder of `uid`. A folder that is there already is used
    /// again: a container may have it mounted.
    pub(crate) fn make(&self, agent: &Arc<Agent>, task: TaskId, uid: u32) -> io::Result<PathBuf> {
        let services = self.services.get().ok_or(io::ErrorKind::NotConnected)?;
        let path = self.path(task);
        if self.open.lock().contains_key(&task) {
            return Ok(path);
        }
        take_folder(&path)?;
        let sockets = [
            ("workload.sock", "task_workload"),
            ("task.sock", "task_task"),
        ];
        let mut listeners = Vec::new();
        for (name, socket) in sockets {
            let listener = bind(&path.join(name)).map_err(|error| error.source)?;
            listeners.push((listener, socket));
        }
        std::os::unix::fs::lchown(&path, Some(uid), None)?;
        let (open, linger) = (CancellationToken::new(), CancellationToken::new());
        let folder = Folder {
            open: open.clone(),
            linger: linger.clone(),
        };
        self.open.lock().insert(task, folder);
        let incoming = [services.workload.clone(), services.task.clone()];
        for ((listener, socket), incoming) in listeners.into_iter().zip(incoming) {
            let scope = Scope::Task(task);
            let door = Door {
                socket,
                scope,
                only_uid: Some(uid),
                open: open.clone(),
                linger: linger.clone(),
            };
            tokio::spawn(accept(Arc::clone(agent), listener, door, incoming));
        }
        Ok(path)
    }

    /// Removes a task's folder, if it has one, and closes its connections.
    pub(crate) fn remove(&self, task: TaskId) {
        let Some(folder) = self.open.lock().remove(&task) else {
            return;
        };
        folder.open.cancel();
        tokio::spawn(async move {
            tokio::time::sleep(LINGER).await;
            folder.linger.cancel();
        });
        discard(&self.path(task));
    }

    /// Removes the folders of tasks that are gone: an agent before this one left them.
    pub(crate) fn remove_others(&self, keep: impl Fn(TaskId) -> bool) {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!(%error, path = %self.root.display(), "can't look for left folders");
                return;
            }
        };
        for entry in entries.flatten() {
            let task = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<TaskId>().ok());
            if task.is_some_and(|task| !keep(task)) {
                discard(&entry.path());
            }
        }
    }
}

/// Makes the folder, or takes back one that was given away. Mode 0700 either way.
fn take_folder(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    // Its folder is ours: who owns this one can't have replaced it by a link.
    let own = rustix::process::geteuid().as_raw();
    std::os::unix::fs::lchown(path, Some(own), None)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// Removes a folder with whatever its owner has put there.
fn discard(path: &Path) {
    let own = rustix::process::geteuid().as_raw();
    let removed =
        std::os::unix::fs::lchown(path, Some(own), None).and_then(|()| fs::remove_dir_all(path));
    if let Err(error) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, path = %path.display(), "a task's folder stays");
    }
}
