#!/usr/bin/env python3
"""Judges ../../svid.json with `cryptography` and PyJWT.

Exits 1 if anything differs, and 3 if one of the two is not installed.
"""

import base64
import datetime
import hashlib
import json
import pathlib
import sys

missing = []
try:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509 import verification
    from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID
except ImportError as error:
    missing.append(f"cryptography ({error})")
try:
    import jwt
except ImportError as error:
    missing.append(f"PyJWT ({error})")
if missing:
    print("svid vectors, python: not installed: " + ", ".join(missing), file=sys.stderr)
    sys.exit(3)

checks = 0
failures = []


def check(what, expected, found):
    global checks
    checks += 1
    if expected != found:
        failures.append(f"{what}\n  expected {expected!r}\n  found    {found!r}")


def refused(what, error, call):
    global checks
    checks += 1
    try:
        call()
    except error:
        return
    failures.append(f"{what}: accepted")


def load(part):
    return x509.load_der_x509_certificate(base64.b64decode(part["der"]))


def spki(certificate):
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return certificate.public_key().public_bytes(serialization.Encoding.DER, form)


def extension(certificate, oid):
    found = certificate.extensions.get_extension_for_oid(oid)
    return found.critical, found.value


def usages(certificate):
    critical, usage = extension(certificate, ExtensionOID.KEY_USAGE)
    names = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
             "key_agreement", "key_cert_sign", "crl_sign"]
    return critical, [name for name in names if getattr(usage, name)]


def seconds(moment):
    return int(moment.timestamp())


def verifier(ca, at, dns_name=None):
    moment = datetime.datetime.fromtimestamp(at, datetime.timezone.utc)
    policy = verification.PolicyBuilder().store(verification.Store([ca])).time(moment)
    if dns_name is None:
        return policy.build_client_verifier()
    return policy.build_server_verifier(x509.DNSName(dns_name))


def judge_ca(vectors, ca):
    check("ca signs itself", None, ca.verify_directly_issued_by(ca))
    critical, constraints = extension(ca, ExtensionOID.BASIC_CONSTRAINTS)
    check("ca constraints", (True, True, 0), (critical, constraints.ca, constraints.path_length))
    check("ca usages", (True, ["key_cert_sign", "crl_sign"]), usages(ca))
    _, names = extension(ca, ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
    check("ca id", [f"spiffe://{vectors['trust_domain']}"], [name.value for name in names])
    _, key_id = extension(ca, ExtensionOID.SUBJECT_KEY_IDENTIFIER)
    point = serialization.PublicFormat.UncompressedPoint
    octets = ca.public_key().public_bytes(serialization.Encoding.X962, point)
    check("ca key id", hashlib.sha256(octets).digest()[:20], key_id.digest)
    check("ca key id in the document", vectors["ca"]["key_id"], key_id.digest.hex())


def judge_leaf(vectors, ca, leaf):
    expected = vectors["leaf"]
    at = vectors["verify_at"]
    check("leaf as client", 2, len(verifier(ca, at).verify(leaf, []).chain))
    check("leaf as server", 2, len(verifier(ca, at, expected["dns_names"][0]).verify(leaf, [])))
    late = verifier(ca, expected["not_after"] + 1)
    refused("leaf after its last second", verification.VerificationError, lambda: late.verify(leaf, []))
    check("leaf version", x509.Version.v3, leaf.version)
    check("leaf serial", int(expected["serial"], 16), leaf.serial_number)
    check("leaf first second", expected["not_before"], seconds(leaf.not_valid_before_utc))
    check("leaf last second", expected["not_after"], seconds(leaf.not_valid_after_utc))
    check("leaf subject", 0, len(leaf.subject))
    check("leaf key", expected["spki"], base64.b64encode(spki(leaf)).decode())
    critical, names = extension(leaf, ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    check("leaf names are critical", True, critical)
    check("leaf uris", [vectors["spiffe_id"]], uris)
    check("leaf dns names", expected["dns_names"], names.get_values_for_type(x509.DNSName))
    critical, constraints = extension(leaf, ExtensionOID.BASIC_CONSTRAINTS)
    check("leaf constraints", (True, False), (critical, constraints.ca))
    check("leaf usages", (True, ["digital_signature"]), usages(leaf))
    _, extended = extension(leaf, ExtensionOID.EXTENDED_KEY_USAGE)
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    check("leaf extended usages", both, list(extended))
    critical, ours = extension(leaf, x509.ObjectIdentifier(vectors["task_binding_oid"]))
    check("extension is not critical", False, critical)
    check("extension", task_binding(vectors).hex(), ours.value.hex())


def der(tag, content):
    assert len(content) < 128
    return bytes([tag, len(content)]) + content


def task_binding(vectors):
    def integer(value):
        return der(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))

    def octets(text):
        return der(4, bytes.fromhex(text.replace("-", "")))

    names = octets(vectors["log"]) + octets(vectors["task"]) + octets(vectors["root"])
    return der(0x30, integer(1) + names + integer(vectors["bucket"]) + integer(vectors["index"]))


def judge_log_key(vectors, ca, key):
    check("log key is signed by the ca", None, key.verify_directly_issued_by(ca))
    check("log key", vectors["log_key"]["spki"], base64.b64encode(spki(key)).decode())
    names = ExtensionOID.SUBJECT_ALTERNATIVE_NAME
    refused("log key with a name", x509.ExtensionNotFound, lambda: extension(key, names))
    _, extended = extension(key, ExtensionOID.EXTENDED_KEY_USAGE)
    check("log key usage", [vectors["head_signing_oid"]], [oid.dotted_string for oid in extended])
    check("log key usages", (True, ["digital_signature"]), usages(key))
    client = verifier(ca, vectors["verify_at"])
    refused("log key as client", verification.VerificationError, lambda: client.verify(key, []))


def judge_crl(vectors, ca):
    expected = vectors["crl"]
    crl = x509.load_der_x509_crl(base64.b64decode(expected["der"]))
    check("crl signature", True, crl.is_signature_valid(ca.public_key()))
    check("crl issuer", ca.subject, crl.issuer)
    check("crl first second", expected["this_update"], seconds(crl.last_update_utc))
    check("crl last second", expected["next_update"], seconds(crl.next_update_utc))
    _, number = extension(crl, ExtensionOID.CRL_NUMBER)
    check("crl number", int(expected["number"], 16), number.crl_number)
    _, key_id = extension(crl, ExtensionOID.AUTHORITY_KEY_IDENTIFIER)
    check("crl key id", vectors["ca"]["key_id"], key_id.key_identifier.hex())
    check("crl extensions", 2, len(crl.extensions))
    check("crl entries", 2, len(crl))
    reasons = {"held": x509.ReasonFlags.certificate_hold,
               "withdrawn": x509.ReasonFlags.privilege_withdrawn}
    for name, reason in reasons.items():
        entry = crl.get_revoked_certificate_by_serial_number(int(expected[name], 16))
        check(f"crl {name} since", expected["revoked_at"], seconds(entry.revocation_date_utc))
        _, found = extension(entry, x509.CRLReason.oid)
        check(f"crl {name} reason", reason, found.reason)


def judge_token(vectors):
    expected = vectors["jwt"]
    key = jwt.PyJWK.from_json(json.dumps(expected["jwk"])).key
    check("jwk is on p-256", True, isinstance(key.curve, ec.SECP256R1))
    # The times are held against the document's instant below, not against today.
    options = {"verify_exp": False, "verify_iat": False, "require": ["exp", "iat", "sub", "aud"]}

    def decode(audience, algorithms):
        return jwt.decode(
            expected["token"], key, algorithms=algorithms, audience=audience, options=options
        )

    claims = decode(expected["aud"], ["ES256"])
    refused("token for others", jwt.InvalidAudienceError, lambda: decode("other", ["ES256"]))
    refused("token by another algorithm", jwt.InvalidAlgorithmError,
            lambda: decode(expected["aud"], ["ES384"]))
    header = jwt.get_unverified_header(expected["token"])
    check("token header", {"alg": "ES256", "kid": expected["jwk"]["kid"], "typ": "JWT"}, header)
    check("token lives", True, claims["iat"] <= vectors["verify_at"] < claims["exp"])
    log = base64.urlsafe_b64encode(bytes.fromhex(vectors["log"])).decode().rstrip("=")
    task = {"v": 1, "log": log} | {name: vectors[name] for name in ("task", "root", "bucket", "index")}
    status = {"status_list": {"idx": vectors["index"], "uri": expected["status_uri"]}}
    same = {name: expected[name] for name in ("aud", "iat", "exp", "jti")}
    whole = same | {"sub": vectors["spiffe_id"], "status": status, "https://taskmint.dev/task": task}
    check("token claims", whole, claims)


def main():
    default = pathlib.Path(__file__).resolve().parent.parent.parent / "svid.json"
    path = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default
    vectors = json.loads(path.read_text())
    ca = load(vectors["ca"])
    judge_ca(vectors, ca)
    judge_leaf(vectors, ca, load(vectors["leaf"]))
    judge_log_key(vectors, ca, load(vectors["log_key"]))
    judge_crl(vectors, ca)
    judge_token(vectors)
    for failure in failures:
        print(failure, file=sys.stderr)
    print(f"svid vectors, python: {checks} checked, {len(failures)} differ")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
