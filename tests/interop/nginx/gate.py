"""nginx with the configuration that the guide tells, and clients that call it."""

import http.client
import os
import pathlib
import re
import signal
import socket
import ssl
import subprocess
import time

from daemons import free_ports
from world import until

NGINX = os.environ["NGINX_BINARY"]

# `$pid` is the worker's.
FRAME = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log notice;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/tmp-body;
    proxy_temp_path {folder}/tmp-proxy;
    fastcgi_temp_path {folder}/tmp-fastcgi;
    uwsgi_temp_path {folder}/tmp-uwsgi;
    scgi_temp_path {folder}/tmp-scgi;
    server {{
        listen 127.0.0.1:{service};
        location / {{ return 200 "$request_method\\n"; }}
    }}
{blocks}
}}
"""


def guide_blocks():
    """The configurations in the guide: by list, by question."""
    text = pathlib.Path(os.environ["GUIDE"]).read_text()
    blocks = re.findall(r"^```nginx\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2, "the guide has two configurations"
    return blocks


def adapt(text, changes):
    """Replaces what is of a place; everything has to be there."""
    for old, new in changes.items():
        assert old in text, f"the guide has no `{old}`"
        text = text.replace(old, str(new))
    return text


class Gate:
    """nginx: `by_list`, `by_question`, and `by_ticket`, which is by list with what the guide warns of."""

    def __init__(self, world, helper_folder):
        self.world, self.folder = world, world.folder / "nginx"
        self.folder.mkdir()
        # Workers of an nginx that root starts are somebody else, who must get to their own files.
        for folder in (world.folder, self.folder):
            folder.chmod(0o711)
        self.by_list, self.by_question, self.by_ticket, service = free_ports(4)
        here = {"/run/taskmint-nginx": helper_folder, "127.0.0.1:8080": f"127.0.0.1:{service}"}
        listed, asked = guide_blocks()
        listed = adapt(listed, here)
        (self.folder / "ticket.key").write_bytes(os.urandom(80))
        ticketed = adapt(listed, {"ssl_session_tickets     off;":
                                  f"ssl_session_tickets on; ssl_session_ticket_key {self.folder}/ticket.key;"})
        asked = adapt(asked, here | {
            "taskmint.example.org:8443": f"127.0.0.1:{world.ports[3]}",
            "/etc/ssl/certs/ca-certificates.crt": world.folder / "public.pem",
        })
        ports = ((listed, self.by_list), (asked, self.by_question), (ticketed, self.by_ticket))
        blocks = "".join(adapt(block, {"listen 443 ssl": f"listen 127.0.0.1:{port} ssl"}) for block, port in ports)
        self.config = self.folder / "nginx.conf"
        self.config.write_text(FRAME.format(folder=self.folder, service=service, blocks=blocks))
        self.command = [NGINX, "-p", self.folder, "-e", self.folder / "error.log", "-c", self.config]
        self.process = None

    def start(self):
        tried = subprocess.run([*self.command, "-t"], capture_output=True, text=True, check=False)
        if tried.returncode != 0:
            raise SystemExit(f"nginx does not take its configuration: {tried.stderr}")
        self.process = self.world.spawn("nginx-master", *self.command)
        self.world.logs.append(self.folder / "error.log")
        if not until(self.is_listening):
            raise SystemExit("nginx does not start")

    def is_listening(self):
        try:
            socket.create_connection(("127.0.0.1", self.by_list), timeout=1).close()
            return (self.folder / "nginx.pid").exists()
        except OSError:
            return False

    def workers(self):
        """Process ids of the workers, also of those that finish what they have."""
        pid = self.process.pid
        return set(pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split())

    def reloaded(self, before):
        """Waits until none of these workers is left."""
        return until(lambda: self.workers().isdisjoint(before))

    def settled(self):
        """Waits until a reload is over."""
        return until(lambda: len(self.workers()) == 1)


class Client:
    """Calls with the files of a helper; each request over a connection of its own unless said."""

    def __init__(self, helper):
        self.helper = self.trusts = helper

    def context(self):
        files = self.helper.files()
        context = ssl.create_default_context(cafile=self.trusts.files() / "bundle.pem")
        # A SPIFFE ID is no host name; `shown` looks at it.
        context.check_hostname = False
        context.load_cert_chain(files / "svid.pem", files / "key.pem")
        return context

    def connect(self, port, context=None):
        return http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=context or self.context())

    def ask(self, port, method="GET", body=None, headers=()):
        connection = self.connect(port)
        try:
            return request(connection, method, body, dict(headers))[0]
        except OSError as error:
            return str(error)
        finally:
            connection.close()

    def shown(self, port):
        """What nginx shows: its SPIFFE IDs and its serial number."""
        connection = self.connect(port)
        connection.connect()
        certificate = connection.sock.getpeercert()
        connection.close()
        ids = [value for kind, value in certificate["subjectAltName"] if kind == "URI"]
        return ids, certificate["serialNumber"]

    def last_accepted(self, port, refusal, since, seconds):
        """Until when it still got in, and from when it was refused ever after, in ms; none if it is not.
        Old workers accept for a moment beside new ones, so one refusal proves little."""
        accepted, refused, row = 0.0, None, 0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            status = self.ask(port)
            now = (time.monotonic() - since) * 1000
            if status == refusal:
                refused, row = refused or now, row + 1
            elif status == 200:
                accepted, refused, row = now, None, 0
            else:
                raise SystemExit(f"neither 200 nor {refusal}: {status}")
            if row >= 20 and now - refused > 500:
                return accepted, refused
        return None


class Session:
    """A TLS session that is resumed, or would be."""

    def __init__(self, client, port):
        self.client, self.port, self.context, self.session = client, port, client.context(), None

    def ask(self):
        """The status, and whether nginx resumed."""
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=5)
        with self.context.wrap_socket(raw, server_hostname="nginx", session=self.session) as tls:
            tls.sendall(b"GET / HTTP/1.1\r\nHost: nginx\r\nConnection: close\r\n\r\n")
            said = b""
            while chunk := tls.recv(4096):
                said += chunk
            # The ticket comes with the first bytes.
            self.session = tls.session
            return int(said.split()[1]), tls.session_reused


def request(connection, method="GET", body=None, headers=None):
    """One more over an open connection: the status and the body."""
    connection.request(method, "/", body=body, headers=headers or {})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def stop(process):
    process.send_signal(signal.SIGSTOP)
    until(lambda: pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
