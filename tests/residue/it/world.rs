//! A server, its signer and an agent: the real binaries, in a folder of their own.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use taskmint_client::{Admin, Endpoint, Tasks, connect};
use taskmint_model::{Entropy, SystemEntropy};
use taskmint_wire::{admin, task};
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::desk::{program, secret_file};

const SOON: Duration = Duration::from_secs(30);

/// One trust domain with one node.
pub(crate) struct World {
    folder: TempDir,
    ports: [u16; 4],
    pub(crate) trust_domain: String,
    pub(crate) sealing: [u8; 32],
    pub(crate) join_string: String,
    server: Running,
    agent: Option<Running>,
}

struct Running(Child);

impl World {
    /// Starts the server, and makes an entry for this user and a join string.
    pub(crate) async fn new() -> Self {
        let entropy: &dyn Entropy = &SystemEntropy;
        let folder = TempDir::new().unwrap();
        let ports = free_ports();
        let sealing: [u8; 32] = entropy.array();
        let name = u64::from_le_bytes(entropy.array());
        let trust_domain = format!("residue-{name:016x}.test");
        secret_file(&folder.path().join("sealing-key"), &sealing);
        let at = folder.path().display();
        let configuration = format!(
            "trust_domain = \"{trust_domain}\"\n\
             data_dir = \"{at}/server\"\n\
             listen = \"127.0.0.1:{}\"\n\
             watch_listen = \"127.0.0.1:{}\"\n\
             http_listen = \"127.0.0.1:{}\"\n\
             [keys]\nsealing_key_file = \"{at}/sealing-key\"\n\
             [admin]\nsocket = \"{at}/admin.sock\"\n",
            ports[0], ports[1], ports[2],
        );
        let server = start(folder.path(), "server", &configuration, Stdio::null());
        ready(ports[2]);
        let mut world = Self {
            folder,
            ports,
            trust_domain,
            sealing,
            join_string: String::new(),
            server,
            agent: None,
        };
        let mut admin = Admin::new(world.socket("admin.sock").await);
        let entry = admin::Entry {
            spiffe_id: format!("spiffe://{}/held", world.trust_domain),
            selectors: vec![format!("unix:uid:{}", rustix::process::getuid().as_raw())],
            owner: "residue".to_owned(),
            scopes: vec!["*".to_owned()],
            audiences: vec!["*".to_owned()],
            implicit: true,
            ..admin::Entry::default()
        };
        let entries = admin::CreateEntriesRequest {
            entries: vec![entry],
        };
        let made = admin.create_entries(entries).await.unwrap().into_inner();
        assert!(made.results[0].entry.is_some(), "{made:?}");
        let token = admin::CreateTokenRequest {
            node: "n1".to_owned(),
            ..admin::CreateTokenRequest::default()
        };
        let token = admin.create_token(token).await.unwrap().into_inner();
        world.join_string = token.join_string;
        world
    }

    /// Starts the agent, which joins by a file.
    pub(crate) fn join(&mut self) {
        secret_file(&self.path("join"), self.join_string.as_bytes());
        let file = self.path("join").display().to_string();
        self.join_by(&file, Stdio::null());
    }

    /// Starts the agent, which joins by its standard input.
    pub(crate) fn join_by_standard_input(&mut self) {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(self.join_string.as_bytes()).unwrap();
        drop(writer);
        self.join_by("-", reader.into());
    }

    fn join_by(&mut self, file: &str, input: Stdio) {
        let at = self.folder.path().display();
        let configuration = format!(
            "join_string_file = \"{file}\"\n\
             data_dir = \"{at}/agent\"\n\
             workload_socket = \"{at}/workload.sock\"\n\
             task_socket = \"{at}/task.sock\"\n\
             revocation_socket = \"{at}/revocation.sock\"\n\
             task_socket_dir = \"{at}/tasks\"\n\
             http_listen = \"127.0.0.1:{}\"\n",
            self.ports[3],
        );
        self.agent = Some(start(self.folder.path(), "agent", &configuration, input));
        ready(self.ports[3]);
    }

    pub(crate) fn server(&self) -> u32 {
        self.server.0.id()
    }

    pub(crate) fn agent(&self) -> u32 {
        self.agent.as_ref().unwrap().0.id()
    }

    /// The signer, which the server started.
    pub(crate) fn signer(&self) -> u32 {
        let threads = fs::read_dir(format!("/proc/{}/task", self.server())).unwrap();
        let children = threads
            .flatten()
            .map(|thread| fs::read_to_string(thread.path().join("children")).unwrap_or_default());
        children.collect::<String>().trim().parse().unwrap()
    }

    pub(crate) async fn tasks(&self) -> Tasks {
        Tasks::new(self.socket("task.sock").await)
    }

    /// Waits until no task of a workload lives, by the server's word.
    pub(crate) async fn all_ended(&self) {
        let mut admin = Admin::new(self.socket("admin.sock").await);
        let begun = Instant::now();
        loop {
            let request = admin::ListTasksRequest {
                list: Some(task::ListRequest {
                    live_only: true,
                    ..task::ListRequest::default()
                }),
                ..admin::ListTasksRequest::default()
            };
            let live = admin.list_tasks(request).await.unwrap().into_inner().tasks;
            if live.is_empty() {
                return;
            }
            assert!(begun.elapsed() < SOON, "{live:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The private keys, PKCS#8 PEM, that a process of the command gets, which then ends.
    pub(crate) fn fetch(&self) -> Vec<String> {
        let folder = TempDir::new_in(self.folder.path()).unwrap();
        let fetched = Command::new(program("taskmint"))
            .args(["svid", "fetch", "x509", "--write"])
            .arg(folder.path())
            .arg("--workload-socket")
            .arg(self.path("workload.sock"))
            .output()
            .unwrap();
        assert!(fetched.status.success(), "{fetched:?}");
        let files = fs::read_dir(folder.path()).unwrap().flatten();
        let keys = files
            .map(|file| file.path())
            .filter(|path| has_ending(path, "key"));
        keys.map(|path| fs::read_to_string(path).unwrap()).collect()
    }

    /// Ends the server, and says where its store is.
    pub(crate) fn stop(&mut self) -> PathBuf {
        let pid = Pid::from_child(&self.server.0);
        kill_process(pid, Signal::TERM).unwrap();
        self.server.0.wait().unwrap();
        self.path("server/store")
    }

    async fn socket(&self, name: &str) -> Channel {
        let endpoint = Endpoint::Unix(self.path(name));
        connect(&endpoint).await.unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn start(folder: &Path, name: &str, configuration: &str, input: Stdio) -> Running {
    let file = folder.join(format!("{name}.toml"));
    fs::write(&file, configuration).unwrap();
    let log = File::create(folder.join(format!("{name}.log"))).unwrap();
    let mut command = Command::new(program(&format!("taskmint-{name}")));
    command.arg("--config").arg(file).stdin(input);
    command.stdout(log.try_clone().unwrap()).stderr(log);
    Running(command.spawn().unwrap())
}

fn ready(port: u16) {
    let begun = Instant::now();
    while !is_ready(port).unwrap_or(false) {
        assert!(begun.elapsed() < SOON, "it is not ready");
        thread::sleep(Duration::from_millis(20));
    }
}

fn is_ready(port: u16) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.write_all(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.starts_with("HTTP/1.1 200"))
}

fn free_ports() -> [u16; 4] {
    let listeners = [(); 4].map(|()| TcpListener::bind(("127.0.0.1", 0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

fn has_ending(path: &Path, ending: &str) -> bool {
    path.extension()
        .is_some_and(|extension| extension == ending)
}
