#!/usr/bin/env python3
"""The Workload API by raw gRPC: tables of bad inputs and of what the standard asks for.

Each row is a case of its own, printed as `ok NAME` or `FAIL NAME: why`. The numbers in brackets
are lines of SPIFFE's Workload Endpoint (WEP) and Workload API (WAPI).
"""

import base64
import json
import os
import sys
import time

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2
from spiffe._proto import workload_pb2 as api

Code = grpc.StatusCode
SERVICE = "/SpiffeWorkloadAPI/"
TRUE = (("workload.spiffe.io", "true"),)
SOON = 20
# A message that is not even read; gRPC implementations name it differently.
TOO_LARGE = (Code.RESOURCE_EXHAUSTED, Code.OUT_OF_RANGE)
AUDIENCE = "blackbox"

UNARY = {
    "FetchJWTSVID": (api.JWTSVIDRequest(audience=[AUDIENCE]), api.JWTSVIDResponse),
    "ValidateJWTSVID": (api.ValidateJWTSVIDRequest(audience=AUDIENCE, svid="a.b.c"),
                        api.ValidateJWTSVIDResponse),
}
STREAMS = {
    "FetchX509SVID": (api.X509SVIDRequest(), api.X509SVIDResponse),
    "FetchX509Bundles": (api.X509BundlesRequest(), api.X509BundlesResponse),
    "FetchJWTBundles": (api.JWTBundlesRequest(), api.JWTBundlesResponse),
}
REFLECTION = ["grpc.reflection.v1", "grpc.reflection.v1alpha"]
# Everything but exactly one `true` is refused (WEP-06, WEP-07).
BAD_HEADERS = {
    "missing": (),
    "True": (("workload.spiffe.io", "True"),),
    "TRUE": (("workload.spiffe.io", "TRUE"),),
    "1": (("workload.spiffe.io", "1"),),
    "empty": (("workload.spiffe.io", ""),),
    "false": (("workload.spiffe.io", "false"),),
    "twice": TRUE + TRUE,
    "both": TRUE + (("workload.spiffe.io", "false"),),
    "another": (("broker.spiffe.io", "true"),),
}

failed = 0


def case(name, test):
    global failed
    try:
        test()
    except Exception as error:  # noqa: BLE001 - told, and on to the next
        failed += 1
        said = f"{error.code()}: {error.details()}" if isinstance(error, grpc.RpcError) else error
        print(f"FAIL {name}: {type(error).__name__}: {said}", flush=True)
    else:
        print(f"ok {name}", flush=True)


def ensure(holds, why):
    if not holds:
        raise AssertionError(why)


class Endpoint:
    """The Workload API without a client library."""

    def __init__(self, target, options=()):
        self.channel = grpc.insecure_channel(target, options=options)

    def unary(self, method, request, metadata=TRUE, answer=None):
        answer = answer or UNARY[method][1]
        send = bytes if isinstance(request, bytes) else type(request).SerializeToString
        call = self.channel.unary_unary(SERVICE + method, send, answer.FromString)
        return call(request, metadata=metadata, timeout=SOON)

    def first(self, method, request=None, metadata=TRUE):
        """The first message of a stream."""
        default, answer = STREAMS[method]
        request = default if request is None else request
        send = bytes if isinstance(request, bytes) else type(request).SerializeToString
        call = self.channel.unary_stream(SERVICE + method, send, answer.FromString)
        stream = call(request, metadata=metadata, timeout=SOON)
        try:
            return next(stream)
        finally:
            stream.cancel()

    def reflect(self, version, request, metadata=TRUE):
        call = self.channel.stream_stream(
            f"/{version}.ServerReflection/ServerReflectionInfo",
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString)
        return next(call(iter([request]), metadata=metadata, timeout=SOON))


def refused(codes, call):
    """The call must fail with one of the codes, and say why."""
    codes = codes if isinstance(codes, tuple) else (codes,)
    try:
        answer = call()
    except grpc.RpcError as error:
        ensure(error.code() in codes, f"{error.code()}: {error.details()}")
        # That a method is not there needs no more words.
        ensure(error.details() or error.code() == Code.UNIMPLEMENTED, "a refusal without a word")
        return error
    raise AssertionError(f"accepted: {str(answer)[:200]}")


def headers(endpoint):
    """WEP-07, WEP-08, on every method of every service."""
    listing = reflection_pb2.ServerReflectionRequest(list_services="")
    for name, metadata in BAD_HEADERS.items():
        for method, (request, _) in UNARY.items():
            case(f"header {name} on {method}", lambda: refused(
                Code.INVALID_ARGUMENT, lambda: endpoint.unary(method, request, metadata)))
        for method in STREAMS:
            case(f"header {name} on {method}", lambda: refused(
                Code.INVALID_ARGUMENT, lambda: endpoint.first(method, metadata=metadata)))
        for version in REFLECTION:
            case(f"header {name} on {version}", lambda: refused(
                Code.INVALID_ARGUMENT, lambda: endpoint.reflect(version, listing, metadata)))


def fetch_jwt(*audience, spiffe_id=""):
    return api.JWTSVIDRequest(audience=audience, spiffe_id=spiffe_id)


def audiences(endpoint):
    """WAPI-12, WAPI-40, and bounds: refused before work is spent."""
    rows = {
        "none": (fetch_jwt(), Code.INVALID_ARGUMENT),
        "an empty one": (fetch_jwt(""), Code.INVALID_ARGUMENT),
        "an empty one of two": (fetch_jwt("a", ""), Code.INVALID_ARGUMENT),
        "16 KiB": (fetch_jwt("a" * 16384), Code.INVALID_ARGUMENT),
        "10,000 of them": (fetch_jwt(*(str(n) for n in range(10000))), Code.INVALID_ARGUMENT),
        "8 MiB": (fetch_jwt("a" * (8 << 20)), TOO_LARGE),
    }
    for name, (request, code) in rows.items():
        case(f"audience: {name}", lambda: refused(
            code, lambda: endpoint.unary("FetchJWTSVID", request)))


def subjects(endpoint):
    """WAPI-41, WAPI-42, WAPI-45."""
    own = endpoint.first("FetchX509SVID").svids[0].spiffe_id
    domain = "/".join(own.split("/")[:3])

    def named():
        answer = endpoint.unary("FetchJWTSVID", fetch_jwt(AUDIENCE, spiffe_id=own))
        ensure([svid.spiffe_id for svid in answer.svids] == [own], str(answer.svids))

    case("subject: the own", named)
    rows = {
        "another's": (f"{domain}/somebody-else", Code.PERMISSION_DENIED),
        "of another trust domain": ("spiffe://elsewhere.test/a", Code.PERMISSION_DENIED),
        "a server's": (f"{domain}/taskmint/server/server-1", Code.PERMISSION_DENIED),
        "no SPIFFE ID": ("https://example.org/a", Code.INVALID_ARGUMENT),
        "with a dot segment": (f"{domain}/a/../b", Code.INVALID_ARGUMENT),
        "with a query": (f"{own}?a", Code.INVALID_ARGUMENT),
        "too long": (f"{domain}/" + "a" * 4096, Code.INVALID_ARGUMENT),
    }
    for name, (subject, code) in rows.items():
        case(f"subject: {name}", lambda: refused(code, lambda: endpoint.unary(
            "FetchJWTSVID", fetch_jwt(AUDIENCE, spiffe_id=subject))))


def part(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def tokens(endpoint):
    """WAPI-49, WAPI-51: the refusals of JWT-SVID, through the server."""
    good = endpoint.unary("FetchJWTSVID", fetch_jwt(AUDIENCE)).svids[0].svid
    header, payload, signature = good.split(".")
    padded = payload + "=" * (-len(payload) % 4)
    claims = json.loads(base64.urlsafe_b64decode(padded))
    flipped = ("A" if signature[0] != "A" else "B") + signature[1:]
    late = part(claims | {"exp": 1})
    rows = {
        "empty": "",
        "no token": "token",
        "two parts": f"{header}.{payload}",
        "four parts": f"{good}.a",
        "JSON serialization": json.dumps({"payload": payload, "signatures": []}),
        "signature changed": f"{header}.{payload}.{flipped}",
        "signature cut off": f"{header}.{payload}.",
        "payload changed": f"{header}.{part(claims | {'sub': claims['sub'] + 'x'})}.{signature}",
        "expired by its bearer": f"{header}.{late}.{signature}",
        "alg none": f"{part({'alg': 'none'})}.{payload}.",
        "alg HS256": f"{part({'alg': 'HS256', 'kid': 'a'})}.{payload}.{signature}",
        "alg EdDSA": f"{part({'alg': 'EdDSA', 'kid': 'a'})}.{payload}.{signature}",
        "typ of a WIT": f"{part({'alg': 'ES256', 'typ': 'wit+jwt'})}.{payload}.{signature}",
        "unknown kid": f"{part({'alg': 'ES256', 'kid': 'nobody'})}.{payload}.{signature}",
        "a byte that is no base64url": f"{header}.{payload}.{signature[:-1]}!",
        "32 KiB": "a" * (32 << 10),
    }

    def validate(token, audience=AUDIENCE):
        return endpoint.unary(
            "ValidateJWTSVID", api.ValidateJWTSVIDRequest(audience=audience, svid=token))

    for name, token in rows.items():
        case(f"token: {name}", lambda: refused(Code.INVALID_ARGUMENT, lambda: validate(token)))
    case("token: 8 MiB", lambda: refused(TOO_LARGE, lambda: validate("a" * (8 << 20))))
    case("token: for another", lambda: refused(Code.INVALID_ARGUMENT, lambda: validate(good, "b")))
    case("token: for nobody", lambda: refused(Code.INVALID_ARGUMENT, lambda: validate(good, "")))

    def accepted():
        answer = validate(good)
        ensure(answer.spiffe_id == claims["sub"], f"judged as {answer.spiffe_id}")
        told = dict(answer.claims.items())
        ensure({"sub", "aud", "exp"} <= set(told), f"claims {sorted(told)}")

    case("token: good", accepted)


def calls(endpoint):
    """WEP-20, WAPI-60, and bodies that are no message."""
    rows = {"unknown method": "FetchEverything", "no WIT": "FetchWITSVID"}
    for name, method in rows.items():
        case(f"call: {name}", lambda: refused(Code.UNIMPLEMENTED, lambda: endpoint.unary(
            method, b"", answer=api.JWTSVIDResponse)))

    def elsewhere():
        call = endpoint.channel.unary_unary("/nobody.Knows/This", bytes, bytes)
        return call(b"", metadata=TRUE, timeout=SOON)

    case("call: unknown service", lambda: refused(Code.UNIMPLEMENTED, elsewhere))
    no_message = (Code.INVALID_ARGUMENT, Code.INTERNAL)
    case("call: no message, unary", lambda: refused(no_message, lambda: endpoint.unary(
        "FetchJWTSVID", b"\xff\xff\xff\xff")))
    case("call: no message, stream", lambda: refused(no_message, lambda: endpoint.first(
        "FetchX509SVID", b"\xff\xff\xff\xff")))
    case("call: still served after all that", lambda: endpoint.first("FetchX509SVID"))


def chain(octets):
    """DER certificates that lie back to back (WAPI-27)."""
    found = []
    while octets:
        size, head = octets[1], 2
        if size & 0x80:
            head = 2 + (size & 0x7F)
            size = int.from_bytes(octets[2:head], "big")
        found.append(x509.load_der_x509_certificate(octets[:head + size]))
        octets = octets[head + size:]
    return found


def svids(endpoint):
    """WAPI-08, WAPI-20 to WAPI-28."""
    start = time.monotonic()
    answer = endpoint.first("FetchX509SVID")
    took = time.monotonic() - start
    case("first X.509-SVID within a second", lambda: ensure(took < 1, f"{took:.2f} s"))
    case("svids are never empty", lambda: ensure(len(answer.svids) > 0, "none"))
    hints = [svid.hint for svid in answer.svids if svid.hint]
    case("hints are unique", lambda: ensure(len(hints) == len(set(hints)), str(hints)))
    for svid in answer.svids:
        case(f"{svid.spiffe_id} is whole", lambda: whole(svid))


def whole(svid):
    for field in ("spiffe_id", "x509_svid", "x509_svid_key", "bundle"):
        ensure(getattr(svid, field), f"no {field}")
    leaf, *above = chain(svid.x509_svid)
    roots = chain(svid.bundle)
    ensure(all(root.issuer != leaf.subject for root in roots), "the leaf is a root")
    ensure(not set(above) & set(roots), "a root is in the chain")
    key = load_der_private_key(svid.x509_svid_key, None)
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ensure(key.public_key().public_bytes(*form) == leaf.public_key().public_bytes(*form),
           "the key is another's")
    basic = leaf.extensions.get_extension_for_class(x509.BasicConstraints)
    ensure(not basic.value.ca, "the leaf is a CA")
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage)
    ensure(usage.critical and usage.value.digital_signature, "key usage")
    ensure(not usage.value.key_cert_sign and not usage.value.crl_sign, "key usage of a CA")
    extended = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    both = {x509.oid.ExtendedKeyUsageOID.SERVER_AUTH, x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH}
    ensure(both <= set(extended), "extended key usage")


def bundles(endpoint):
    """WAPI-28, WAPI-29, WAPI-46, WAPI-47."""
    own = endpoint.first("FetchX509SVID").svids[0].spiffe_id
    domain = "/".join(own.split("/")[:3])
    for method in ("FetchX509Bundles", "FetchJWTBundles"):
        start = time.monotonic()
        answer = endpoint.first(method).bundles
        took = time.monotonic() - start
        case(f"first {method} within a second", lambda: ensure(took < 1, f"{took:.2f} s"))
        case(f"{method} has the own trust domain",
             lambda: ensure(domain in answer, f"{domain} is not in {list(answer)}"))
        case(f"{method} keys are trust domains", lambda: ensure(
            all(key.count("/") == 2 and key.startswith("spiffe://") for key in answer),
            str(list(answer))))
        if method == "FetchX509Bundles":
            case("X.509 bundles are DER", lambda: ensure(
                all(chain(value) for value in answer.values()), "an empty bundle"))
        else:
            case("JWT bundles have nothing else in them", lambda: only_jwt(answer))


def only_jwt(answer):
    for document in answer.values():
        keys = json.loads(document)["keys"]
        ensure(keys, "no key")
        for key in keys:
            ensure(key.get("use", "jwt-svid") == "jwt-svid", f"use {key.get('use')}")
            ensure(key.get("kid") and "x5c" not in key and "d" not in key, f"members {sorted(key)}")


def reflection(endpoint):
    """WEP-21 to WEP-23, WAPI-04: reflection works, and nothing is added to the API."""
    def lists(version):
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answer = endpoint.reflect(version, request)
        names = {service.name for service in answer.list_services_response.service}
        ensure("SpiffeWorkloadAPI" in names, str(names))

    def methods():
        request = reflection_pb2.ServerReflectionRequest(file_containing_symbol="SpiffeWorkloadAPI")
        answer = endpoint.reflect(REFLECTION[0], request).file_descriptor_response
        found = set()
        for octets in answer.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(octets)
            for service in file.service:
                if service.name == "SpiffeWorkloadAPI":
                    ensure(not file.package, f"package {file.package}")
                    found |= {method.name for method in service.method}
        ensure(found == set(UNARY) | set(STREAMS), f"methods {sorted(found)}")

    case("reflection lists the service", lambda: lists(REFLECTION[0]))
    case("the API has five methods and no more", methods)


def spellings(path):
    """What C-core makes the `:authority` of, spelled in each way, and others' choices of it."""
    names = ["localhost", "example.org:443", "%2Frun%2Fa.sock", "/run/a.sock", "a b", "a@b"]
    channels = {"unix:///": (f"unix://{path}", ()), "unix:/": (f"unix:{path}", ())}
    channels |= {name: (f"unix:{path}", (("grpc.default_authority", name),)) for name in names}
    for name, (target, options) in channels.items():
        case(f"authority {name}", lambda: Endpoint(target, options).first("FetchX509SVID"))


def main():
    socket = os.environ["SPIFFE_ENDPOINT_SOCKET"]
    endpoint = Endpoint(socket)
    for table in (svids, bundles, headers, audiences, subjects, tokens, calls, reflection):
        try:
            table(endpoint)
        except grpc.RpcError as error:
            case(table.__name__, lambda: ensure(False, f"{error.code()}: {error.details()}"))
    spellings(socket.removeprefix("unix:").replace("///", "/"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
