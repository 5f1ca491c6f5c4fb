"""Reads a token status list as a stranger would: no code of ours, the draft's own steps.

    status_list.py TOKEN_FILE CA_PEM EXPECTED_URI INDEX...

Prints one status a line. The signature is checked by openssl with the key of the header's `x5c`,
which must chain to the CA.
"""

import base64
import json
import pathlib
import subprocess
import sys
import tempfile
import textwrap
import time
import zlib


def decode(part):
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def der_integer(octets):
    octets = octets.lstrip(b"\0") or b"\0"
    if octets[0] & 0x80:
        octets = b"\0" + octets
    return bytes([2, len(octets)]) + octets


def check_signature(header, signed, signature, anchor, folder):
    leaf = header["x5c"][0]
    pem = "-----BEGIN CERTIFICATE-----\n%s\n-----END CERTIFICATE-----\n"
    (folder / "leaf.pem").write_text(pem % "\n".join(textwrap.wrap(leaf, 64)))
    verify = ["openssl", "verify", "-x509_strict", "-CAfile", anchor, folder / "leaf.pem"]
    subprocess.run(verify, check=True, capture_output=True)
    public = ["openssl", "x509", "-in", folder / "leaf.pem", "-noout", "-pubkey"]
    (folder / "key.pem").write_bytes(subprocess.run(public, check=True, capture_output=True).stdout)
    assert len(signature) == 64, "ES256 is r || s"
    pair = der_integer(signature[:32]) + der_integer(signature[32:])
    (folder / "signature").write_bytes(bytes([0x30, len(pair)]) + pair)
    (folder / "signed").write_bytes(signed.encode())
    digest = ["openssl", "dgst", "-sha256", "-verify", folder / "key.pem"]
    digest += ["-signature", folder / "signature", folder / "signed"]
    subprocess.run(digest, check=True, capture_output=True)


def main(token_file, anchor, uri, *indices):
    token = pathlib.Path(token_file).read_text()
    signed, _, signature = token.rpartition(".")
    header, claims = (json.loads(decode(part)) for part in signed.split("."))
    assert header["typ"] == "statuslist+jwt" and header["alg"] == "ES256", header
    with tempfile.TemporaryDirectory() as folder:
        check_signature(header, signed, decode(signature), anchor, pathlib.Path(folder))
    assert claims["sub"] == uri, claims["sub"]
    assert claims["iat"] <= time.time() < claims["exp"], claims
    assert 0 < claims["ttl"] <= claims["exp"] - claims["iat"], claims
    bits = claims["status_list"]["bits"]
    octets = zlib.decompress(decode(claims["status_list"]["lst"]))
    for index in map(int, indices):
        position = index * bits
        print(octets[position // 8] >> position % 8 & (1 << bits) - 1)


main(*sys.argv[1:])
