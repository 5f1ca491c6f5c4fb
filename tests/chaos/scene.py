"""A server, two agents behind proxies, workloads and verifiers, all real processes."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

import grpc
from channel import channel
from daemons import children, complain, free_ports, is_ready, secret
from oracle import ensure, wait_for
from proxy import Network
from taskmint.admin.v1 import admin_pb2 as admin
from taskmint.admin.v1.admin_pb2_grpc import AdminStub
from taskmint.task.v1 import task_pb2 as task_api
from verdicts import now

HERE = pathlib.Path(__file__).parent
SOON = 30
DOMAIN = "chaos.test"
AGENTS, WORKLOADS = ("a0", "a1"), ("w0", "w1", "w2")
# Two on one node, one on the other.
VERIFIERS = {"v0": "a0", "v1": "a0", "v2": "a1"}

SERVER = """\
trust_domain = "{domain}"
data_dir = "{folder}/server"
listen = "127.0.0.1:{ports[0]}"
watch_listen = "127.0.0.1:{ports[1]}"
http_listen = "127.0.0.1:{ports[2]}"
keys.sealing_key_file = "{folder}/sealing-key"
admin.socket = "{folder}/admin.sock"
log.level = "warn"
revocation.max_age = "2s"
revocation.heartbeat = "500ms"
revocation.drift_allowance = "1s"
revocation.leeway = "0s"
"""

AGENT = """\
join_string_file = "{folder}/{name}.join"
data_dir = "{folder}/{name}"
workload_socket = "{folder}/{name}.workload"
task_socket = "{folder}/{name}.task"
revocation_socket = "{folder}/{name}.revocation"
task_socket_dir = "{folder}/{name}.tasks"
http_listen = "127.0.0.1:{http}"
server.address = "127.0.0.1:{nodes}"
server.watch_address = "127.0.0.1:{watch}"
log.level = "warn"
"""


class Talker:
    """A process that answers lines, and a thread that hears what it says."""

    def __init__(self, command, hear):
        self.process = subprocess.Popen([str(word) for word in command], text=True, bufsize=1,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.asked = self.answered = 0
        self.hear = hear
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()

    def _listen(self):
        for line in self.process.stdout:
            # The last line of a process that is killed may be cut off.
            if line.endswith("\n"):
                self.hear(line[:-1])
                self.answered += 1

    def ask(self, line, most=8):
        """Asks, unless it has enough to answer."""
        if self.asked - self.answered >= most or self.process.poll() is not None:
            return False
        try:
            self.process.stdin.write(line + "\n")
        except OSError:
            return False
        self.asked += 1
        return True

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.thread.join(10)
        for stream in (self.process.stdin, self.process.stdout):
            try:
                stream.close()
            except OSError:
                pass  # what it was asked last is lost with it


class Scene:
    def __init__(self, folder, binaries, seed, oracle):
        self.folder, self.binaries, self.oracle = folder, binaries, oracle
        self.ports = free_ports(3)
        self.network = Network(seed)
        self.daemons, self.http, self.proxies = {}, {"server": self.ports[2]}, {}
        self.workloads, self.verifiers = {}, {}
        secret(folder / "sealing-key", os.urandom(32))
        text = SERVER.format(domain=DOMAIN, folder=folder, ports=self.ports)
        (folder / "server.toml").write_text(text)

    def set_up(self):
        self.start("server")
        self.ready("server")
        with self.admin() as connection:
            stub = AdminStub(connection)
            entry = admin.Entry(spiffe_id=f"spiffe://{DOMAIN}/workload", owner="chaos", watch=True,
                                selectors=[f"unix:uid:{os.getuid()}"], scopes=["*"],
                                audiences=["*"])
            made = stub.CreateEntries(admin.CreateEntriesRequest(entries=[entry]), timeout=SOON)
            ensure(made.results[0].entry.id, f"no entry: {made.results[0].message}")
            for name in AGENTS:
                token = stub.CreateToken(admin.CreateTokenRequest(node=name), timeout=SOON)
                secret(self.folder / f"{name}.join", token.join_string.encode())
        for name in AGENTS:
            nodes, watch = (self.network.tcp(port) for port in self.ports[:2])
            self.proxies[f"{name}-nodes"], self.proxies[f"{name}-watch"] = nodes, watch
            self.http[name], = free_ports(1)
            text = AGENT.format(folder=self.folder, name=name, http=self.http[name],
                                nodes=nodes.at, watch=watch.at)
            (self.folder / f"{name}.toml").write_text(text)
            self.start(name)
        for name in AGENTS:
            self.ready(name)
        for name, agent in VERIFIERS.items():
            path = str(self.folder / f"{name}.relay")
            relay = self.network.unix(path, str(self.folder / f"{agent}.revocation"))
            self.proxies[f"{name}-relay"] = relay
            self.start_verifier(name)
        for number, name in enumerate(WORKLOADS):
            self.start_workload(name, AGENTS[number % len(AGENTS)])

    def admin(self):
        return channel(self.folder / "admin.sock")

    def start(self, name):
        program = "taskmint-server" if name == "server" else "taskmint-agent"
        with open(self.folder / f"{name}.log", "ab") as log:
            command = [self.binaries / program, "--config", self.folder / f"{name}.toml"]
            self.daemons[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log,
                                                  stderr=log)

    def start_verifier(self, name):
        agent = VERIFIERS[name]
        command = [self.binaries / "examples" / "judge", self.folder / f"{name}.relay",
                   self.folder / f"{agent}.workload", DOMAIN, name]

        def hear(line):
            task, at, verdict = line.split(" ", 2)
            self.oracle.judge(name, task, int(at), verdict)
            self.verdicts[name][task] = verdict

        self.verdicts = getattr(self, "verdicts", {})
        self.verdicts[name] = {}
        self.verifiers[name] = Talker(command, hear)

    def start_workload(self, name, agent):
        command = [sys.executable, HERE / "workload.py", self.folder / f"{agent}.task"]
        box = {}

        def hear(line):
            self.on_answer(box["talker"], json.loads(line))

        box["talker"] = self.workloads[name] = Talker(command, hear)
        box["talker"].agent = agent

    def on_answer(self, talker, answer):
        """What a workload was told counts from here on."""
        op, task = answer["op"], answer.get("task")
        with self.oracle.lock:
            if "error" in answer:
                return
            if op == "begin":
                self.oracle.begun(task, answer["leaf"], talker)
            elif op == "complete" and answer["ended"]:
                self.oracle.ended(task, answer["dead_by"])
            elif op == "suspend" and answer["suspended"]:
                self.oracle.tasks[task].suspended_at = now()

    def ready(self, name):
        def holds():
            process = self.daemons[name]
            ensure(process.poll() is None, f"the {name} ended with {process.returncode}")
            return is_ready(self.http[name])

        wait_for(f"the {name} is ready", holds)

    def signer(self):
        """The signer that the server started."""
        return next(iter(children(self.daemons["server"].pid)), None)

    def revive(self, name):
        """What a service manager does: starts what has ended."""
        if name in self.verifiers:
            self.verifiers[name].kill()
            self.start_verifier(name)
        elif self.daemons[name].poll() is not None:
            self.start(name)

    def states(self, tasks):
        found = {}
        with self.admin() as connection:
            stub = AdminStub(connection)
            for task in tasks:
                request = task_api.GetRequest(task_id=task)
                found[task] = stub.GetTask(request, timeout=SOON, wait_for_ready=True).task.state
        return found

    def complaints(self):
        """The ends of the logs, for whoever has to find out why."""
        complain(sorted(self.folder.glob("*.log")))

    def close(self):
        for talker in (*self.workloads.values(), *self.verifiers.values()):
            talker.kill()
        for process in reversed(self.daemons.values()):
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()
        self.network.close()


def quiet(call, *words, **named):
    """What an RPC says, or nothing where it fails."""
    try:
        return call(*words, **named)
    except grpc.RpcError:
        return None
