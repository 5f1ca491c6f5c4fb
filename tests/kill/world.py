"""A server, an agent and holders with the real binaries, on ports and in a folder of their own."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading

import grpc
from channel import channel
from daemons import children, complain, free_ports, is_ready, secret
from oracle import ensure, wait_for
from taskmint.admin.v1 import admin_pb2 as admin
from taskmint.admin.v1.admin_pb2_grpc import AdminStub
from taskmint.task.v1 import task_pb2 as task_api

HERE = pathlib.Path(__file__).parent
SOON = 30
JOURNAL_ENTRY = 88

SERVER = """\
trust_domain = "kill.test"
data_dir = "{folder}/server"
listen = "127.0.0.1:{ports[0]}"
watch_listen = "127.0.0.1:{ports[1]}"
http_listen = "127.0.0.1:{ports[2]}"

[keys]
sealing_key_file = "{folder}/sealing-key"

[admin]
socket = "{folder}/admin.sock"

[log]
level = "warn"
"""

AGENT = """\
join_string_file = "{folder}/join"
data_dir = "{folder}/agent"
workload_socket = "{folder}/workload.sock"
task_socket = "{folder}/task.sock"
revocation_socket = "{folder}/revocation.sock"
task_socket_dir = "{folder}/tasks"
http_listen = "127.0.0.1:{ports[3]}"

[log]
level = "warn"
"""


class Holder:
    """A process that begins and ends tasks, and a thread that hears what it says."""

    def __init__(self, socket_path, seed, facts):
        self.process = subprocess.Popen(
            [sys.executable, HERE / "holder.py", socket_path, str(seed)],
            stdout=subprocess.PIPE, text=True)
        self.pid, self.facts, self.heard = self.process.pid, facts, 0
        self.thread = threading.Thread(target=self._hear, daemon=True)
        self.thread.start()

    def _hear(self):
        for line in self.process.stdout:
            # The last line of a process that is killed may be cut off.
            if line.endswith("\n"):
                self.facts.hear(self.pid, line[:-1])
                self.heard += 1

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.thread.join(10)
        self.process.stdout.close()


class World:
    """One trust domain, from its first start on."""

    def __init__(self, folder, binaries, dice, facts):
        self.folder, self.binaries, self.dice, self.facts = folder, binaries, dice, facts
        self.ports = free_ports(4)
        self.server = self.agent = None
        self.holders = []
        secret(folder / "sealing-key", os.urandom(32))
        for name, text in (("server", SERVER), ("agent", AGENT)):
            path = folder / f"{name}.toml"
            path.write_text(text.format(folder=folder, ports=self.ports))

    def start(self, name):
        if name == "signer":
            return  # its server does that
        log = open(self.folder / f"{name}.log", "ab")
        command = [self.binaries / f"taskmint-{name}", "--config", self.folder / f"{name}.toml"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()
        setattr(self, name, process)

    def ready(self, name):
        """Waits until it serves; says so if it ended instead."""
        port = self.ports[2] if name == "server" else self.ports[3]

        def holds():
            process = getattr(self, name)
            ensure(process.poll() is None, f"the {name} ended with {process.returncode}")
            return is_ready(port)

        wait_for(f"the {name} is ready", holds)

    def set_up(self):
        """Server, entry, join string, agent."""
        self.start("server")
        self.ready("server")
        with channel(self.folder / "admin.sock") as connection:
            stub = AdminStub(connection)
            entry = admin.Entry(
                spiffe_id="spiffe://kill.test/holder", selectors=[f"unix:uid:{os.getuid()}"],
                owner="kill-test", scopes=["*"], audiences=["*"])
            result = stub.CreateEntries(
                admin.CreateEntriesRequest(entries=[entry]), timeout=SOON).results[0]
            ensure(result.entry.id, f"no entry: {result.reason}: {result.message}")
            join = stub.CreateToken(admin.CreateTokenRequest(node="n1"), timeout=SOON).join_string
        secret(self.folder / "join", join.encode())
        self.start("agent")
        self.ready("agent")

    def add_holder(self):
        holder = Holder(self.folder / "task.sock", self.dice.random(), self.facts)
        self.holders.append(holder)

    def kill(self, name):
        if name == "signer":
            for pid in children(self.server.pid):
                os.kill(pid, signal.SIGKILL)
            return
        process = getattr(self, name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def audit(self):
        """Every signature is on record, but for what a kill left between signing and recording; and
        a journal that lacks one is noticed."""
        journal = self.folder / "server" / "signer-journal"
        said = self._audit(journal)
        ensure(said.get("agrees"), f"signer and records disagree: {said}")
        ensure(said["signatures"] > 0, "nothing was signed")
        short = self.folder / "short-journal"
        short.write_bytes(journal.read_bytes()[JOURNAL_ENTRY:])
        ensure(not self._audit(short).get("agrees"), "a lost entry was not noticed")

    def _audit(self, journal):
        command = [self.binaries / "taskmint", "authority", "audit", "--journal", journal,
                   "-o", "json"]
        socket = {"TASKMINT_ADMIN_SOCKET": f"unix:{self.folder / 'admin.sock'}"}
        said = subprocess.run(command, capture_output=True, text=True, timeout=60,
                              env={**os.environ, **socket})
        ensure(said.returncode in (0, 2), f"no audit: {said.stderr[-2000:]}")
        return json.loads(said.stdout)

    def dump(self, tool):
        """What is on disk now; the server must be dead."""
        copy = self.folder / "copy"
        shutil.copytree(self.folder / "server" / "store", copy)
        try:
            said = subprocess.run([tool, copy], capture_output=True, text=True, timeout=120)
            ensure(said.returncode == 0, f"the store can't be opened: {said.stderr[-2000:]}")
            return said.stdout
        finally:
            shutil.rmtree(copy)

    def states(self, tasks):
        """What the server says of tasks: their states."""
        found = {}
        with channel(self.folder / "admin.sock") as connection:
            stub = AdminStub(connection)
            for task in tasks:
                request = task_api.GetRequest(task_id=task)
                found[task] = stub.GetTask(request, timeout=SOON, wait_for_ready=True).task.state
        return found

    def check_answers(self, ended, alive):
        """Over the API: ended tasks read ended, and those whose holder lives were not lost."""
        for task, state in self.states(ended).items():
            ensure(state == task_api.STATE_ENDED, f"the server says that {task} has not ended")
        for task, state in self.states(alive).items():
            if state == task_api.STATE_ENDED:
                # Its holder may have asked for that since; what it says takes a moment.
                wait_for(f"somebody ended {task}, whose holder lives",
                         lambda task=task: task not in self.facts.live(), 2)

    def live_tasks(self):
        """All tasks of workloads that the server says live: their ids and processes."""
        found, token = {}, ""
        with channel(self.folder / "admin.sock") as connection:
            stub = AdminStub(connection)
            while True:
                listing = task_api.ListRequest(live_only=True, page_token=token)
                answer = stub.ListTasks(admin.ListTasksRequest(list=listing), timeout=SOON)
                found |= {task.id: task.process for task in answer.tasks}
                token = answer.next_page_token
                if not token:
                    return found

    def check_dead(self, pid):
        """Everything of a dead holder ends, without its help (contract line 7), also what it began
        without ever hearing of it (P12)."""
        def all_ended():
            try:
                left = self.live_tasks()
            except grpc.RpcError:
                return False
            return not any(process.startswith(f"{pid}.") for process in left.values())

        wait_for(f"all tasks of the dead holder {pid} end", all_ended)
        with self.facts.lock:
            for task, holder in self.facts.holder.items():
                # As final as those that were ended by word, but nobody was told a position.
                if holder == pid:
                    self.facts.ended.setdefault(task, 1 << 62)

    def complaints(self):
        """The ends of the logs, for whoever has to find out why."""
        logs = [self.folder / f"{name}.log" for name in ("server", "agent")]
        complain([path for path in logs if path.exists()], 40)
        print("refused:", json.dumps(self.facts.refusals, indent=1), file=sys.stderr)

    def close(self):
        for holder in self.holders:
            holder.kill()
        for process in (self.agent, self.server):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
