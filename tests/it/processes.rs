//! The real binaries as processes of their own, which tests stop, kill and cut off.

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use taskmint_client::{Admin, Endpoint, Tasks, WorkloadApi, connect};
use taskmint_model::{SystemEntropy, TaskId};
use taskmint_status::TaskBinding;
use taskmint_verifier::watch::{Bundles, Options, Source, SystemClocks, Watch};
use taskmint_verifier::{StatusCheck as _, Trust};
use taskmint_wire::{admin, task, task_from_wire};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::joined::own_uid_selector;

/// Longer than anything takes that is going to happen, on a machine that has other things to do.
pub(crate) const SOON: Duration = Duration::from_secs(60);

const LOOK: Duration = Duration::from_millis(20);

/// A process of ours; killed when dropped.
pub(crate) struct Process(Child);

/// A trust domain: its server, and a folder for everybody.
pub(crate) struct Domain {
    folder: TempDir,
    pub(crate) server: Process,
    pub(crate) admin: Admin,
    nodes: SocketAddr,
    watch: SocketAddr,
    http: SocketAddr,
}

/// A node and its agent.
pub(crate) struct Node {
    folder: PathBuf,
    pub(crate) agent: Process,
    network: Option<Network>,
}

/// A network of its own, in which the server can be reached over loopback, until that is cut.
struct Network {
    orders: std::sync::mpsc::Sender<Order>,
    _relays: Vec<tokio::task::JoinHandle<()>>,
}

/// What the thread does that lives in the network.
enum Order {
    Start(PathBuf, std::sync::mpsc::Sender<Child>),
    Link(&'static str, std::sync::mpsc::Sender<bool>),
}

impl Process {
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).unwrap();
    }

    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// One that does nothing until it is killed.
    pub(crate) fn sleeping() -> Self {
        let mut command = Command::new("sleep");
        command
            .arg("1000")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn start(program: &str, config: &Path) -> Self {
        Self(spawn(program, config))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Domain {
    /// A server with more lines of configuration, and an entry for processes of this user.
    pub(crate) async fn start(lines: &str) -> Self {
        let folder = TempDir::new().unwrap();
        private(&folder.path().join("sealing-key"), &[7; 32]);
        let [nodes, watch, http] = free();
        let at = folder.path().display();
        let config = folder.path().join("server.toml");
        let text = format!(
            "trust_domain = \"example.org\"\ndata_dir = \"{at}/server\"\nlisten = \"{nodes}\"\n\
             watch_listen = \"{watch}\"\nhttp_listen = \"{http}\"\nadmin.socket = \"{at}/admin\"\n\
             keys.sealing_key_file = \"{at}/sealing-key\"\nlog.level = \"warn\"\n{lines}\n"
        );
        fs::write(&config, text).unwrap();
        let server = Process::start("taskmint-server", &config);
        is_ready(http, true).await;
        let endpoint = Endpoint::Unix(folder.path().join("admin"));
        let mut admin = Admin::new(connect(&endpoint).await.unwrap());
        let entry = admin::Entry {
            spiffe_id: "spiffe://example.org/me".to_owned(),
            selectors: vec![own_uid_selector()],
            ..Default::default()
        };
        let entries = vec![entry];
        let made = admin.create_entries(admin::CreateEntriesRequest { entries });
        assert!(made.await.unwrap().into_inner().results[0].entry.is_some());
        Self {
            folder,
            server,
            admin,
            nodes,
            watch,
            http,
        }
    }

    /// A node whose agent has joined.
    pub(crate) async fn node(&mut self, name: &str, lines: &str) -> Node {
        let folder = self.prepare(name, lines).await;
        let agent = Process::start("taskmint-agent", &folder.join("agent.toml"));
        let network = None;
        Node {
            folder,
            agent,
            network,
        }
    }

    /// A node in a network of its own; none where that is not permitted.
    pub(crate) async fn node_in_network(&mut self, name: &str) -> Option<Node> {
        let network = Network::start(&[self.nodes, self.watch])?;
        let folder = self.prepare(name, "").await;
        let agent = network.run(&folder.join("agent.toml"));
        let network = Some(network);
        Some(Node {
            folder,
            agent,
            network,
        })
    }

    async fn prepare(&mut self, name: &str, lines: &str) -> PathBuf {
        let folder = self.folder.path().join(name);
        fs::create_dir(&folder).unwrap();
        let request = admin::CreateTokenRequest {
            node: name.to_owned(),
            ..Default::default()
        };
        let token = self.admin.create_token(request).await.unwrap().into_inner();
        private(&folder.join("join"), token.join_string.as_bytes());
        let [http] = free();
        let at = folder.display();
        let text = format!(
            "join_string_file = \"{at}/join\"\ndata_dir = \"{at}/state\"\n\
             workload_socket = \"{at}/workload\"\ntask_socket = \"{at}/task\"\n\
             revocation_socket = \"{at}/revocation\"\ntask_socket_dir = \"{at}/tasks\"\n\
             http_listen = \"{http}\"\nlog.level = \"warn\"\n{lines}\n"
        );
        fs::write(folder.join("agent.toml"), text).unwrap();
        folder
    }

    pub(crate) async fn server_is_ready(&self) {
        is_ready(self.http, true).await;
    }

    /// One task, as the server sees it.
    pub(crate) async fn task(&mut self, id: &str) -> task::Task {
        let task_id = id.to_owned();
        let answer = self.admin.get_task(task::GetRequest { task_id }).await;
        answer.unwrap().into_inner().task.unwrap()
    }

    /// Waits until a task has ended.
    pub(crate) async fn ended(&mut self, id: &str) -> task::Ending {
        let ended = async {
            loop {
                if let Some(ending) = self.task(id).await.ending {
                    return ending;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(SOON, ended).await.unwrap()
    }

    /// The ids of all tasks of workloads that live.
    pub(crate) async fn live(&mut self) -> Vec<String> {
        let (mut found, mut page_token) = (Vec::new(), String::new());
        loop {
            let list = Some(task::ListRequest {
                live_only: true,
                page_token,
                ..Default::default()
            });
            let request = admin::ListTasksRequest {
                list,
                ..Default::default()
            };
            let page = self.admin.list_tasks(request).await.unwrap().into_inner();
            found.extend(page.tasks.into_iter().map(|task| task.id));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return found;
            }
        }
    }
}

impl Node {
    /// Waits until its agent has a session.
    pub(crate) async fn is_ready(&self, wanted: bool) {
        let text = fs::read_to_string(self.folder.join("agent.toml")).unwrap();
        let line = text.lines().find(|line| line.starts_with("http_listen"));
        let address = line.unwrap().split('"').nth(1).unwrap();
        is_ready(address.parse().unwrap(), wanted).await;
    }

    pub(crate) fn start_again(&mut self) {
        let config = self.folder.join("agent.toml");
        self.agent = match &self.network {
            Some(network) => network.run(&config),
            None => Process::start("taskmint-agent", &config),
        };
    }

    /// Cuts it off, or joins it again. Nobody is told: what is sent does not arrive.
    pub(crate) fn link(&self, state: &'static str) {
        let network = self.network.as_ref().unwrap();
        let (say, said) = std::sync::mpsc::channel();
        network.orders.send(Order::Link(state, say)).unwrap();
        assert!(said.recv().unwrap(), "the link is not {state}");
    }

    pub(crate) async fn tasks(&self) -> Tasks {
        let endpoint = Endpoint::Unix(self.folder.join("task"));
        let connected = async {
            loop {
                match connect(&endpoint).await {
                    Ok(channel) => return Tasks::new(channel),
                    Err(_) => tokio::time::sleep(LOOK).await,
                }
            }
        };
        tokio::time::timeout(SOON, connected).await.unwrap()
    }

    /// Begins a task that a child of this process holds, once the agent is able to.
    pub(crate) async fn begin(&self, holder: &Process) -> task::Task {
        let request = task::BeginRequest {
            binding: task::Binding::Tree.into(),
            pid: holder.pid(),
            ..Default::default()
        };
        let mut last = None;
        let begun = async {
            loop {
                match self.tasks().await.begin(request.clone()).await {
                    Ok(begun) => return begun.into_inner().task.unwrap(),
                    Err(status) => last = Some(status),
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let begun = tokio::time::timeout(SOON, begun).await;
        begun.unwrap_or_else(|_| panic!("{last:?}"))
    }

    /// The ids of all tasks of this process that the agent says live.
    pub(crate) async fn live(&self) -> Vec<String> {
        let request = task::ListRequest {
            live_only: true,
            ..Default::default()
        };
        let list = self.tasks().await.list(request).await.unwrap();
        let tasks = list.into_inner().tasks.into_iter();
        tasks.map(|task| task.id).collect()
    }

    /// A verifier on this node that has heard everything.
    pub(crate) async fn verifier(&self) -> Watch {
        let workload = Endpoint::Unix(self.folder.join("workload"));
        let known = async {
            loop {
                if let Ok(api) = WorkloadApi::connect(&workload).await
                    && api.first_jwt_bundles().await.is_ok()
                {
                    return;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(SOON, known).await.unwrap();
        let source = Source::Relay(self.folder.join("revocation"));
        let mut options = Options::new("example.org".parse().unwrap(), source, "verifier");
        options.bundles = Bundles::WorkloadApi(workload);
        let (clocks, entropy) = (Arc::new(SystemClocks), Arc::new(SystemEntropy));
        let watch = Watch::start(options, Trust::default(), clocks, entropy).unwrap();
        tokio::time::timeout(SOON, watch.synced()).await.unwrap();
        watch
    }
}

impl Network {
    /// One with a way to these addresses; none where that is not permitted.
    fn start(addresses: &[SocketAddr]) -> Option<Self> {
        let (orders, ordered) = std::sync::mpsc::channel();
        let (say, said) = std::sync::mpsc::channel();
        let addresses = addresses.to_vec();
        let own = addresses.clone();
        std::thread::spawn(move || {
            let entered = unshare(CloneFlags::CLONE_NEWNET).is_ok() && link("up");
            let listeners = entered.then(|| own.iter().map(|at| TcpListener::bind(at).unwrap()));
            // Sockets stay in the network in which they were made.
            say.send(listeners.map(Iterator::collect::<Vec<_>>))
                .unwrap();
            for order in ordered {
                match order {
                    Order::Start(config, say) => {
                        say.send(spawn("taskmint-agent", &config)).unwrap();
                    }
                    Order::Link(state, say) => say.send(link(state)).unwrap(),
                }
            }
        });
        let listeners = said.recv().unwrap()?;
        let relays = listeners.into_iter().zip(addresses);
        let relays = relays.map(|(listener, to)| tokio::spawn(relay(listener, to)));
        let _relays = relays.collect();
        Some(Self { orders, _relays })
    }

    fn run(&self, config: &Path) -> Process {
        let (say, said) = std::sync::mpsc::channel();
        self.orders
            .send(Order::Start(config.to_owned(), say))
            .unwrap();
        Process(said.recv().unwrap())
    }
}

/// Whether a task is refused by its status.
pub(crate) fn refusal(watch: &Watch, task: &task::Task) -> Option<&'static str> {
    let task = task_from_wire(task).unwrap();
    let octets = |id: TaskId| id.octets();
    let binding = TaskBinding {
        place: task.place,
        task: octets(task.id),
        root: octets(task.root),
    };
    watch.check(&binding).err().map(|refused| refused.reason)
}

/// Waits until a verifier refuses a task because it has ended.
pub(crate) async fn is_refused(watch: &Watch, task: &task::Task) {
    let refused = async {
        while refusal(watch, task) != Some("TASK_ENDED") {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(SOON, refused).await.unwrap();
}

/// Relays connections into another network.
async fn relay(listener: TcpListener, to: SocketAddr) {
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    while let Ok((mut near, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut far = tokio::net::TcpStream::connect(to).await?;
            tokio::io::copy_bidirectional(&mut near, &mut far).await
        });
    }
}

/// Sets the loopback of this thread's network up or down.
fn link(state: &str) -> bool {
    let done = Command::new("ip")
        .args(["link", "set", "lo", state])
        .stderr(Stdio::null())
        .status();
    done.is_ok_and(|status| status.success())
}

fn spawn(program: &str, config: &Path) -> Child {
    let log = config.with_extension("log");
    let log = fs::OpenOptions::new().create(true).append(true).open(log);
    let mut command = Command::new(binary(program));
    command.arg("--config").arg(config);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(log.unwrap()).spawn().unwrap()
}

/// A program of this workspace that was built.
fn binary(name: &str) -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let beside = || this.ancestors().nth(2).unwrap().to_owned();
    let folder = std::env::var_os("TASKMINT_BIN").map_or_else(beside, PathBuf::from);
    let path = folder.join(name);
    let found = path.is_file();
    assert!(
        found,
        "there is no {}: run cargo build --bins",
        path.display()
    );
    path
}

/// Waits until a daemon says that it is ready, or no longer.
async fn is_ready(http: SocketAddr, wanted: bool) {
    let state = async {
        while ready(http).await.unwrap_or(false) != wanted {
            tokio::time::sleep(LOOK).await;
        }
    };
    let reached = tokio::time::timeout(SOON, state).await;
    reached.unwrap_or_else(|_| panic!("{http} is not ready = {wanted}"));
}

async fn ready(http: SocketAddr) -> std::io::Result<bool> {
    let mut stream = tokio::net::TcpStream::connect(http).await?;
    let ask = b"GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(ask).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.starts_with("HTTP/1.1 200"))
}

fn free<const N: usize>() -> [SocketAddr; N] {
    let listeners: [_; N] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap())
}

fn private(path: &Path, content: &[u8]) {
    let mut options = fs::OpenOptions::new();
    let options = options.write(true).create_new(true).mode(0o600);
    options.open(path).unwrap().write_all(content).unwrap();
}
