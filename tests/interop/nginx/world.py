"""A server with a public listener, an agent, and helpers: the real binaries, in a folder of their own."""

import json
import os
import pathlib
import signal
import subprocess

import daemons
from daemons import free_ports, is_ready, secret

BINARIES = pathlib.Path(os.environ["BINARIES"])
PATIENCE = float(os.environ["INTEROP_PATIENCE"])

SERVER = """\
trust_domain = "nginx.test"
data_dir = "{folder}/server"
listen = "127.0.0.1:{ports[0]}"
watch_listen = "127.0.0.1:{ports[1]}"
http_listen = "127.0.0.1:{ports[2]}"
public_listen = "127.0.0.1:{ports[3]}"
public = {{ cert_file = "{folder}/public.pem", key_file = "{folder}/public.key" }}
crl = {{ interval = "1s" }}
keys = {{ sealing_key_file = "{folder}/sealing-key" }}
admin = {{ socket = "{folder}/admin.sock" }}
log = {{ level = "warn" }}
"""

AGENT = """\
join_string_file = "{folder}/join"
data_dir = "{folder}/agent"
workload_socket = "{folder}/workload.sock"
task_socket = "{folder}/task.sock"
revocation_socket = "{folder}/revocation.sock"
task_socket_dir = "{folder}/tasks"
http_listen = "127.0.0.1:{ports[4]}"
log = {{ level = "warn" }}
"""

# Of certificates, in seconds: half of it until they are renewed, and longer than anybody who has ended is looked at.
LIFE = 60

HTTP_PORTS = {"server": 2, "agent": 4}


def until(what, seconds=PATIENCE):
    return daemons.until(what, seconds, 0.01)


def openssl(*arguments, **more):
    return subprocess.run(["openssl", *map(str, arguments)], capture_output=True, check=True, **more).stdout


def self_signed(folder, name, host):
    """A certificate that is its own authority, and its key."""
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}",
            "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem")


class World:
    def __init__(self, folder):
        self.folder, self.ports, self.processes = folder, free_ports(5), {}
        self.logs = []
        secret(folder / "sealing-key", os.urandom(32))
        self_signed(folder, "public", "taskmint.example.org")
        for name, text in (("server", SERVER), ("agent", AGENT)):
            (folder / f"{name}.toml").write_text(text.format(folder=folder, ports=self.ports))
        self.environment = {name: value for name, value in os.environ.items()
                            if not name.startswith(("TASKMINT_", "SPIFFE_"))}
        self.environment |= {
            "TASKMINT_ADMIN_SOCKET": f"unix:{folder}/admin.sock",
            "TASKMINT_TASK_SOCKET": f"unix:{folder}/task.sock",
            "SPIFFE_ENDPOINT_SOCKET": f"unix:{folder}/workload.sock",
        }

    def spawn(self, name, *command, **environment):
        """A process of this test, with a log."""
        path = self.folder / f"{name}.log"
        with open(path, "ab") as log:
            process = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                       env=self.environment | environment)
        self.processes[name] = process
        if path not in self.logs:
            self.logs.append(path)
        return process

    def start(self, name):
        process = self.spawn(name, BINARIES / f"taskmint-{name}", "--config", self.folder / f"{name}.toml")

        def ready():
            if process.poll() is not None:
                raise SystemExit(f"the {name} ended with {process.returncode}")
            return is_ready(self.ports[HTTP_PORTS[name]])

        if not until(ready):
            raise SystemExit(f"the {name} is not ready")

    def set_up(self):
        self.start("server")
        self.operator("entry", "create", "--spiffe-id", "/workload", "--selector", f"unix:uid:{os.getuid()}",
                      "--owner", "interop", "--implicit", "--crl", "--x509-ttl", f"{LIFE}s")
        secret(self.folder / "join", self.operator("token", "create", "--node", "n1")["join_string"].encode())
        self.start("agent")

    def operator(self, *arguments):
        """What `taskmint` answers."""
        said = subprocess.run([BINARIES / "taskmint", *arguments, "-o", "json"], capture_output=True, text=True,
                              env=self.environment, check=False, timeout=60)
        if said.returncode != 0:
            raise SystemExit(f"taskmint {' '.join(arguments)}: {said.returncode}: {said.stderr}")
        return json.loads(said.stdout) if said.stdout.strip() else None

    def helper(self, name, *arguments, **environment):
        return Helper(self, name, arguments, environment)

    def close(self):
        for process in self.processes.values():
            if process.poll() is None:
                # One may have been stopped.
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Helper:
    """`taskmint helper`, its folder and its task."""

    def __init__(self, world, name, arguments, environment):
        self.world, self.folder = world, world.folder / name
        self.process = world.spawn(name, BINARIES / "taskmint", "helper", "--dir", self.folder, "-o", "json",
                                   *arguments, **environment)

    def has(self, *names):
        """Waits for files."""
        return until(lambda: all((self.folder / name).exists() for name in names))

    def task(self):
        for task in self.world.operator("task", "list", "--admin", "--all-kinds"):
            if (task.get("process") or "").split(".")[0] == str(self.process.pid):
                return task["id"]
        raise SystemExit(f"process {self.process.pid} has no task")

    def files(self):
        """The folder as it is now: who opens several files wants them of one moment."""
        return (self.folder / "svid.pem").resolve().parent

    def serial(self):
        said = openssl("x509", "-noout", "-serial", "-in", self.files() / "svid.pem")
        return said.decode().strip().partition("=")[2]

    def lists(self):
        """The revocation lists, as openssl tells them."""
        blocks = (self.folder / "crl.pem").read_text().split("-----END X509 CRL-----\n")
        return "".join(openssl("crl", "-noout", "-text", input=f"{block}-----END X509 CRL-----\n".encode()).decode()
                       for block in blocks if block)
