"""What worlds of real processes have in common: ports, secrets, patience, children, logs."""

import pathlib
import socket
import sys
import time
import urllib.error
import urllib.request


def free_ports(count):
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def secret(path, octets):
    path.touch(0o600)
    path.write_bytes(octets)


def until(what, seconds, pause):
    """Asks again until the answer is true, or patience is at its end; the last answer."""
    end = time.monotonic() + seconds
    while True:
        found = what()
        if found or time.monotonic() > end:
            return found
        time.sleep(pause)


def is_ready(port):
    """Whether the daemon with this HTTP port says so."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=2) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError):
        return False


def children(pid):
    """Processes that this one has started and that live; none while it starts one."""
    try:
        files = pathlib.Path(f"/proc/{pid}/task").glob("*/children")
        return [int(child) for file in files for child in file.read_text().split()]
    except FileNotFoundError:
        return []


def complain(logs, lines=25):
    """The ends of logs, for whoever has to find out why."""
    for path in logs:
        text = path.read_text(errors="replace").splitlines()[-lines:]
        print(f"--- {path.name}", *text, sep="\n", file=sys.stderr)
