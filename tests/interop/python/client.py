#!/usr/bin/env python3
"""The unmodified PyPI client `spiffe` against a running Taskmint.

`client.py check` goes through the Workload API, `client.py serve` and `client.py call PORT` speak
mTLS with a client of another language. Prints `ok NAME` or `FAIL NAME: why` for each step.
"""

import base64
import contextlib
import json
import os
import queue
import socket
import ssl
import subprocess
import sys
import tempfile
import time

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding
from spiffe import JwtBundleSet, JwtSvid, WorkloadApiClient, X509Source
from spiffe.workloadapi.errors import WorkloadApiError

AUDIENCE = "interop"
SOON = 30
TASK_BINDING = (
    "1.2.840.113556.1.8000.2554.17883.35219.41951.18175.36858.4083584.4197132.1"
)


class Wrong(Exception):
    """Something is not as it must be."""


def ensure(holds, why):
    if not holds:
        raise Wrong(why)


def operator(*arguments):
    subprocess.run([os.environ["INTEROP_OPERATOR"], *arguments], check=True, timeout=SOON)


def claims_of(token):
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


def task_of(token):
    return claims_of(token)["https://taskmint.dev/task"]["task"]


def refused(what, call):
    """The call must be refused with PermissionDenied."""
    try:
        call()
    except WorkloadApiError as error:
        ensure("PERMISSION_DENIED" in str(error), f"{what} was refused with `{error}`")
        return
    raise Wrong(f"{what} was given")


def fails(what, call):
    try:
        call()
    except Exception:  # noqa: BLE001 - whatever the client calls it
        return
    raise Wrong(f"{what} was accepted")


class Contexts:
    """An open stream of X.509 contexts."""

    def __init__(self, client, retry):
        self.seen = queue.Queue()
        self.handler = client.stream_x509_contexts(self.seen.put, self.seen.put, retry_connect=retry)

    def next(self, seconds=SOON):
        try:
            return self.seen.get(timeout=seconds)
        except queue.Empty:
            raise Wrong("nothing came on the stream") from None


def authorities(context):
    domain = context.default_svid.spiffe_id.trust_domain
    bundle = context.x509_bundle_set.get_bundle_for_trust_domain(domain)
    ensure(bundle is not None, "there is no bundle of the own trust domain")
    return {authority.public_bytes(Encoding.DER) for authority in bundle.x509_authorities}


def x509_context(client, state):
    start = time.monotonic()
    context = client.fetch_x509_context(timeout=SOON)
    took = time.monotonic() - start
    ensure(took < 2, f"the first answer took {took:.1f} s")
    svid = context.default_svid
    ensure(authorities(context), "the own bundle is empty")
    names = svid.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    ensure(uris == [str(svid.spiffe_id)], f"the certificate names {uris}")
    state["id"] = str(svid.spiffe_id)
    state["leaf"] = svid.leaf


def task_binding(client, state):
    """Certificate and token name the same task; serial and extension the same place (P13)."""
    svid = client.fetch_jwt_svid({AUDIENCE}, timeout=SOON)
    claim = claims_of(svid.token)["https://taskmint.dev/task"]
    found = state["leaf"].extensions.get_extension_for_oid(x509.ObjectIdentifier(TASK_BINDING))
    ensure(not found.critical, "the extension is critical")
    task = bytes.fromhex(claim["task"].replace("-", ""))
    ensure(b"\x04\x10" + task in found.value.value, "the extension names another task")
    serial = state["leaf"].serial_number.to_bytes(20, "big")
    bucket, index = int.from_bytes(serial[2:6], "big"), int.from_bytes(serial[6:11], "big")
    ensure(serial[0] == 1, f"the serial begins with {serial[0]}")
    ensure((bucket, index) == (claim["bucket"], claim["index"]), "the serial has another place")
    state["task"] = claim["task"]


def jwt_svid(client, state):
    svid = client.fetch_jwt_svid({AUDIENCE}, timeout=SOON)
    ensure(str(svid.spiffe_id) == state["id"], f"the token is for {svid.spiffe_id}")
    bundles = client.fetch_jwt_bundles(timeout=SOON)
    bundle = bundles.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
    judged = JwtSvid.parse_and_validate(svid.token, bundle, {AUDIENCE})
    ensure(str(judged.spiffe_id) == state["id"], f"judged as {judged.spiffe_id}")
    fails("a token for another audience",
          lambda: JwtSvid.parse_and_validate(svid.token, bundle, {"another"}))
    judged = client.validate_jwt_svid(svid.token, AUDIENCE, timeout=SOON)
    ensure(str(judged.spiffe_id) == state["id"], f"the server judged {judged.spiffe_id}")
    fails("a token for another audience, by the server,",
          lambda: client.validate_jwt_svid(svid.token, "another", timeout=SOON))
    state["token"] = svid.token


def jwt_by_others(client, state):
    """PyJWT, which knows nothing of SPIFFE, agrees."""
    header = jwt.get_unverified_header(state["token"])
    ensure(set(header) <= {"alg", "kid", "typ"}, f"the header has {sorted(header)}")
    bundles: JwtBundleSet = client.fetch_jwt_bundles(timeout=SOON)
    keys = [b.get_jwt_authority(header["kid"]) for b in bundles.bundles]
    key = next(key for key in keys if key is not None)
    claims = jwt.decode(state["token"], key, algorithms=["ES256"], audience=AUDIENCE,
                        options={"require": ["exp", "iat", "sub", "aud", "jti"]})
    ensure(claims["sub"] == state["id"], f"the subject is {claims['sub']}")


def bundles(client, state):
    x509_bundles = client.fetch_x509_bundles(timeout=SOON)
    ensure(all(bundle.x509_authorities for bundle in x509_bundles.bundles), "an empty bundle")
    names = {f"spiffe://{bundle.trust_domain.name}" for bundle in x509_bundles.bundles}
    domain = "/".join(state["id"].split("/")[:3])
    ensure(domain in names, f"{domain} is not among {names}")
    jwt_bundles = client.fetch_jwt_bundles(timeout=SOON)
    ensure(any(bundle.jwt_authorities for bundle in jwt_bundles.bundles), "no JWT authority")


def rotation(client, state):
    """A new CA is prepared and activated: the open stream brings a bundle that has it."""
    state["stream"] = Contexts(client, retry=False)
    state["retrying"] = Contexts(client, retry=True)
    state["source"] = X509Source(timeout_in_seconds=SOON)
    before = authorities(state["stream"].next())
    operator("rotate")
    deadline = time.monotonic() + SOON
    while time.monotonic() < deadline:
        after = authorities(state["stream"].next())
        if after > before:
            return
    raise Wrong("the stream brought no bundle with the new authority")


def rotated_svid(client, state):
    """A process that comes after the rotation gets its SVID from the new CA."""
    said = subprocess.run([sys.executable, __file__, "issuer"], check=True, timeout=SOON,
                          capture_output=True, text=True).stdout.strip()
    before = state["leaf"].issuer.rfc4514_string()
    ensure(said and said != before, f"the new SVID is by `{said}`, the old one by `{before}`")


def issuer():
    with WorkloadApiClient() as client:
        print(client.fetch_x509_svid(timeout=SOON).leaf.issuer.rfc4514_string())
    return 0


def withdrawal(client, state):
    """The task is revoked: the open stream ends with PermissionDenied."""
    operator("revoke", state["task"])
    while True:
        last = state["stream"].next()
        if isinstance(last, Exception):
            break
    ensure("PERMISSION_DENIED" in str(last), f"the stream ended with `{last}`")


def no_revival(client, state):
    """The client's own retries, and ours, bring nothing back."""
    retrying = state["retrying"].seen
    while not retrying.empty():
        retrying.get()
    deadline = time.monotonic() + float(os.environ.get("INTEROP_PATIENCE", "20"))
    while time.monotonic() < deadline:
        refused("an X.509-SVID", lambda: client.fetch_x509_svid(timeout=SOON))
        refused("a JWT-SVID", lambda: client.fetch_jwt_svid({AUDIENCE}, timeout=SOON))
        fails("the token of the ended task",
              lambda: client.validate_jwt_svid(state["token"], AUDIENCE, timeout=SOON))
        ensure(retrying.empty(), "the client's own retries brought an SVID back")
        time.sleep(1)
    # The client keeps what it had, by its own choice: that is why the verifier is the wall. If it
    # begins to let go, the table in the documentation has to say so.
    held = state["source"].get_x509_context().default_svid.leaf.serial_number
    ensure(held == state["leaf"].serial_number, "the client holds another SVID than it had")


def check():
    state = {}
    with WorkloadApiClient() as client:
        for step in (x509_context, task_binding, jwt_svid, jwt_by_others, bundles, rotation,
                     rotated_svid, withdrawal, no_revival):
            try:
                step(client, state)
            except Exception as error:  # noqa: BLE001 - told, and then the end
                print(f"FAIL {step.__name__}: {type(error).__name__}: {error}", flush=True)
                return 1
            print(f"ok {step.__name__}", flush=True)
    return 0


def context_of(purpose):
    """An ssl context of the process's own SVID, and its SPIFFE ID."""
    with WorkloadApiClient() as client:
        fetched = client.fetch_x509_context(timeout=SOON)
    svid = fetched.default_svid
    context = ssl.SSLContext(purpose)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    pem = "".join(ssl.DER_cert_to_PEM_cert(authority) for authority in authorities(fetched))
    context.load_verify_locations(cadata=pem)
    # `ssl` takes chain and key from files only: gone again at once.
    with tempfile.NamedTemporaryFile(dir=os.environ.get("XDG_RUNTIME_DIR")) as file:
        key = svid.private_key.private_bytes(
            Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        file.write(key + b"".join(c.public_bytes(Encoding.PEM) for c in svid.cert_chain))
        file.flush()
        context.load_cert_chain(file.name)
    return context, str(svid.spiffe_id)


def peer_of(stream):
    names = stream.getpeercert().get("subjectAltName", ())
    return [value for kind, value in names if kind == "URI"]


def serve():
    context, own = context_of(ssl.PROTOCOL_TLS_SERVER)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        print(f"port {listener.getsockname()[1]}", flush=True)
        plain, _ = listener.accept()
        plain.settimeout(60)
        with context.wrap_socket(plain, server_side=True) as stream:
            ensure(peer_of(stream) == [own], f"the caller is {peer_of(stream)}")
            ensure(stream.makefile("rb").readline() == b"ping\n", "the caller said no ping")
            stream.sendall(f"pong {own}\n".encode())
            # Until the caller has read it and gone, however it says so.
            with contextlib.suppress(OSError):
                stream.recv(1)
    print("ok tls_server")
    return 0


def call(port):
    context, own = context_of(ssl.PROTOCOL_TLS_CLIENT)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as plain:
        with context.wrap_socket(plain) as stream:
            ensure(peer_of(stream) == [own], f"the server is {peer_of(stream)}")
            stream.sendall(b"ping\n")
            answer = stream.makefile("rb").readline().decode().strip()
            ensure(answer == f"pong {own}", f"the server said `{answer}`")
    print("ok tls_client")
    return 0


def main(arguments):
    match arguments:
        case ["check"]:
            return check()
        case ["issuer"]:
            return issuer()
        case ["serve"]:
            return serve()
        case ["call", port]:
            return call(int(port))
    print(__doc__, file=sys.stderr)
    return 64


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
