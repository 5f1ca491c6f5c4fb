// Judges ../../svid.json with `jose`: the token as a verifier would read it, the key of the leaf.
//
//   node jose.mjs FOLDER    the folder whose node_modules has the package

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { isDeepStrictEqual } from "node:util";

const from = createRequire(join(process.argv[2], "package.json"));
const jose = await import(pathToFileURL(from.resolve("jose")).href);
const folder = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
const vectors = JSON.parse(readFileSync(join(folder, "svid.json"), "utf8"));
const { jwk, token, aud, iat, exp, jti, status_uri } = vectors.jwt;

let checks = 0;
const failures = [];

function check(what, expected, found) {
  checks += 1;
  if (!isDeepStrictEqual(found, expected)) {
    failures.push(`${what}\n  expected ${JSON.stringify(expected)}\n  found    ${JSON.stringify(found)}`);
  }
}

async function refused(what, code, call) {
  checks += 1;
  try {
    await call();
    failures.push(`${what}: accepted`);
  } catch (error) {
    if (error.code !== code) failures.push(`${what}: ${error.code}, not ${code}`);
  }
}

const good = { algorithms: ["ES256"], audience: aud, subject: vectors.spiffe_id, typ: "JWT" };
const at = (seconds) => new Date(seconds * 1000);
const key = await jose.importJWK(jwk, "ES256");
const verify = (text, more = {}, by = key) =>
  jose.jwtVerify(text, by, { ...good, currentDate: at(vectors.verify_at), ...more });

const { payload, protectedHeader } = await verify(token);
check("token header", { alg: "ES256", kid: jwk.kid, typ: "JWT" }, protectedHeader);
const binding = {
  v: 1,
  log: Buffer.from(vectors.log, "hex").toString("base64url"),
  task: vectors.task,
  root: vectors.root,
  bucket: vectors.bucket,
  index: vectors.index,
};
check("token claims", {
  sub: vectors.spiffe_id,
  aud: payload.aud,
  iat,
  exp,
  jti,
  status: { status_list: { idx: vectors.index, uri: status_uri } },
  "https://taskmint.dev/task": binding,
}, payload);
check("token audience", [aud].flat(), [payload.aud].flat());
check("kid is the thumbprint", jwk.kid, await jose.calculateJwkThumbprint(jwk));
check("its claims, unverified", payload, jose.decodeJwt(token));

const [header, claims, signature] = token.split(".");
const changed = (part) => {
  const last = part.slice(0, -2);
  return last + (part.endsWith("AA") ? "BA" : "AA");
};
const invalid = "ERR_JWS_SIGNATURE_VERIFICATION_FAILED";
const named = "ERR_JWT_CLAIM_VALIDATION_FAILED";
await refused("token after its last second", "ERR_JWT_EXPIRED", () => verify(token, { currentDate: at(exp) }));
await refused("token for others", named, () => verify(token, { audience: "other" }));
await refused("token of somebody else", named, () => verify(token, { subject: "spiffe://example.org/other" }));
await refused("token by another algorithm", "ERR_JOSE_ALG_NOT_ALLOWED", () => verify(token, { algorithms: ["ES384"] }));
await refused("token with another signature", invalid, () => verify(`${header}.${claims}.${changed(signature)}`));
const other = Buffer.from(JSON.stringify({ ...payload, exp: exp + 1 })).toString("base64url");
await refused("token that lasts longer", invalid, () => verify(`${header}.${other}.${signature}`));
const { publicKey } = await jose.generateKeyPair("ES256");
await refused("token by another key", invalid, () => verify(token, {}, publicKey));

// The leaf's key is another than the token's, and signs no token.
const pem = readFileSync(join(folder, "svid.pem"), "utf8");
const leaf = await jose.importX509(pem, "ES256");
const spki = await jose.exportSPKI(leaf);
check("leaf key", vectors.leaf.spki, spki.replace(/-----[A-Z ]+-----|\s/g, ""));
await refused("token by the leaf's key", invalid, () => verify(token, {}, leaf));

for (const failure of failures) console.error(failure);
console.error(`svid vectors, jose: ${checks} checked, ${failures.length} differ`);
process.exit(failures.length > 0 || checks === 0 ? 1 : 0);
