#!/usr/bin/env python3
"""Recomputes every value of ../status.json from its input fields, with Python's own library only.

Written from docs/decisions/0001-status-bytes.md and 0015-packed-maps.md, not from the Rust code. Exits 1 if anything differs.
"""

import base64
import hashlib
import json
import pathlib
import struct
import sys
import uuid

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
from maps import CHUNK, unpack  # noqa: E402

MAX_INDEX = (1 << 40) - 1
failures = []
checks = 0


def check(what, expected, found):
    global checks
    checks += 1
    if expected != found:
        failures.append(f"{what}\n  recomputed {expected}\n  in file    {found}")


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def u40(index):
    assert 0 <= index <= MAX_INDEX
    return index.to_bytes(5, "big")


def der(tag, content):
    if len(content) < 128:
        return bytes([tag, len(content)]) + content
    size = (len(content).bit_length() + 7) // 8
    return bytes([tag, 0x80 | size]) + len(content).to_bytes(size, "big") + content


def der_integer(value):
    return der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def der_oid(arcs):
    content = bytes([arcs[0] * 40 + arcs[1]])
    for arc in arcs[2:]:
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(0x80 | arc & 0x7F)
        content += bytes(reversed(groups))
    return content


def judge_oids(vector):
    digits = vector["uuid"].replace("-", "")
    cuts = [0, 4, 8, 12, 16, 20, 26, 32]
    arc = vector["under"] + [int(digits[a:b], 16) for a, b in zip(cuts, cuts[1:])]
    for oid in vector["arcs"]:
        arcs = arc + [oid["last"]]
        check(f"oid {oid['use']} arcs", arcs, oid["arcs"])
        check(f"oid {oid['use']} text", ".".join(map(str, arcs)), oid["text"])
        check(f"oid {oid['use']} der", der_oid(arcs).hex(), oid["der"])
        check(f"oid {oid['use']} arcs below 2^31", True, all(a < 1 << 31 for a in arcs))


def judge_serial(vector):
    octets = b"\x01" + bytes([vector["generation"]]) + struct.pack(">I", vector["bucket"])
    octets += u40(vector["index"]) + bytes.fromhex(vector["random"])
    check("serial", octets.hex(), vector["bytes"])
    check("serial length", 20, len(octets))


def judge_extension(vector):
    binding = vector["input"]
    content = der_integer(1)
    for name in ("log", "task", "root"):
        content += der(0x04, bytes.fromhex(binding[name]))
    content += der_integer(binding["bucket"]) + der_integer(binding["index"])
    check("extension", der(0x30, content).hex(), vector["der"])


def judge_claim(vector):
    binding = vector["input"]
    value = {
        "v": 1,
        "log": base64.urlsafe_b64encode(bytes.fromhex(binding["log"])).rstrip(b"=").decode(),
        "task": str(uuid.UUID(hex=binding["task"])),
        "root": str(uuid.UUID(hex=binding["root"])),
        "bucket": binding["bucket"],
        "index": binding["index"],
    }
    check("claim name", "https://taskmint.dev/task", vector["name"])
    check("claim", value, vector["value"])


CAUSES = [
    None, "completed", "failed", "cancelled", "revoked", "expired", "holder_died", "node_lost",
    "evicted", "parent_ended", "superseded", "restored", "entry_removed",
]


def judge_log(vector):
    """Returns the records' octets and the hash after each."""
    seed = bytes.fromhex(vector["log"]) + bytes([vector["generation"]])
    link = sha256(b"taskmint seed v1", seed)
    check("log genesis", link.hex(), vector["genesis"])
    octets, hashes = [], []
    for record in vector["records"]:
        name = f"record {record['sequence']}"
        check(f"{name} cause", CAUSES[record["cause"]], record["cause_name"])
        this = struct.pack(
            ">BBBBIQQI5s7x16s8x",
            1, record["kind"], record["cause"], 0, record["epoch"], record["sequence"],
            record["time"], record["bucket"], u40(record["index"]), bytes.fromhex(record["task"]),
        )
        check(f"{name} length", 64, len(this))
        check(f"{name} bytes", this.hex(), record["bytes"])
        link = sha256(b"taskmint link v1", link, this)
        check(f"{name} hash", link.hex(), record["hash"])
        octets.append(this)
        hashes.append(link)
    return octets, hashes


def signer_chain(signer):
    return (
        bytes.fromhex(signer["instance"])
        + struct.pack(">Q", signer["counter"])
        + bytes.fromhex(signer["hash"])
    )


def judge_head(head, log_hash):
    previous = head["previous"]
    flags = (1 if head["nonce"] else 0) | (2 if previous else 0)
    check("head log hash", log_hash.hex(), head["log_hash"])
    octets = struct.pack(
        ">16s8sBBHIQ32sIIQ56s16s8sB7x",
        b"taskmint head v1", bytes.fromhex(head["log"]), head["generation"], flags,
        head["largest_limit_hours"], head["epoch"], head["sequence"], log_hash, head["floor"],
        head["max_age"], head["time"], signer_chain(head["signer"]),
        bytes.fromhex(head["nonce"] or "00" * 16),
        bytes.fromhex(previous["log"]) if previous else bytes(8),
        previous["generation"] if previous else 0,
    )
    check("head length", 176, len(octets))
    check("head", octets.hex(), head["bytes"])


def unpacked(text, version):
    packed = bytes.fromhex(text)
    check("packed map version", version, packed[0])
    return unpack(packed)


def judge_packing(number, vector):
    chunks = {}
    for name, status in (("ended", 1), ("suspended", 2)):
        to, modulo, below = vector[name]["squares"]
        indices = [index for index in range(to) if index * index % modulo < below]
        for first, last in vector[name]["ranges"]:
            indices += range(first, last)
        for index in indices:
            chunk = chunks.setdefault(index // (4 * CHUNK), bytearray(CHUNK))
            chunk[index // 4 % CHUNK] |= status << index % 4 * 2
    same = unpacked(vector["packed"], 2) == {n: bytes(c) for n, c in chunks.items()}
    check(f"packing {number} unpacks to its statuses", True, same)
    parts = [struct.pack(">I", n) + sha256(b"taskmint chnk v1", chunks[n]) for n in sorted(chunks)]
    check(f"packing {number} digest", sha256(b"taskmint bmap v1", *parts).hex(), vector["digest"])


def judge_map(vector):
    """Returns the map's number of chunks and digest."""
    chunks = {}
    for name, bits in (("ended", 1), ("suspended", 2)):
        for index in vector[name]:
            number, position = divmod(index, CHUNK * 4)
            chunk = chunks.setdefault(number, bytearray(CHUNK))
            chunk[position // 4] |= bits << position % 4 * 2
    parts = [b"taskmint bmap v1"]
    for number in sorted(chunks):
        parts += [struct.pack(">I", number), sha256(b"taskmint chnk v1", chunks[number])]
    name = f"map {vector['bucket']}"
    digest = sha256(*parts)
    check(f"{name} chunks", len(chunks), vector["chunks"])
    check(f"{name} digest", digest.hex(), vector["digest"])
    same = unpacked(vector["packed"], 1) == {n: bytes(c) for n, c in chunks.items()}
    check(f"{name} unpacks to its statuses", True, same)
    return struct.pack(">I", len(chunks)) + digest


def judge_checkpoint(vector, log_hash, maps):
    check("checkpoint log hash", log_hash.hex(), vector["log_hash"])
    octets = struct.pack(
        ">16s8sBBHIQ32sI4xQ56s",
        b"taskmint ckpt v1", bytes.fromhex(vector["log"]), vector["generation"], 0, len(maps),
        vector["epoch"], vector["sequence"], log_hash, vector["floor"], vector["time"],
        signer_chain(vector["signer"]),
    )
    for bucket in sorted(maps):
        octets += struct.pack(">I", bucket) + maps[bucket]
    check("checkpoint", octets.hex(), vector["bytes"])
    check("checkpoint digest", sha256(octets).hex(), vector["digest"])


def main():
    path = pathlib.Path(__file__).resolve().parent.parent / "status.json"
    vectors = json.loads(path.read_text())
    judge_oids(vectors["oid"])
    judge_serial(vectors["serial"])
    judge_extension(vectors["extension"])
    judge_claim(vectors["claim"])
    octets, hashes = judge_log(vectors["log"])
    delta = vectors["delta"]
    run = b"".join(octets[delta["from"] - 1 : delta["to"]])
    check("delta", run.hex(), delta["bytes"])
    for head in vectors["heads"]:
        judge_head(head, hashes[head["sequence"] - 1])
    maps = {vector["bucket"]: judge_map(vector) for vector in vectors["maps"]}
    for number, vector in enumerate(vectors["packings"]):
        judge_packing(number, vector)
    checkpoint = vectors["checkpoint"]
    judge_checkpoint(checkpoint, hashes[checkpoint["sequence"] - 1], maps)
    known = {"oid", "serial", "extension", "claim", "log", "delta", "heads", "maps", "packings"}
    known.add("checkpoint")
    check("members that are judged", sorted(known), sorted(vectors))
    for failure in failures:
        print(failure, file=sys.stderr)
    print(f"status vectors, python: {checks} checked, {len(failures)} differ")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
