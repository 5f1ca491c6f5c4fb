// Judges ../../../svid.json with Go's standard library: certificates by crypto/x509, the token by
// crypto/ecdsa. Exits 1 if anything differs.
//
//	go run . [path of svid.json]
package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"os"
	"strings"
	"time"
)

type vectors struct {
	VerifyAt       int64  `json:"verify_at"`
	TrustDomain    string `json:"trust_domain"`
	SpiffeID       string `json:"spiffe_id"`
	Task           string
	Root           string
	Log            string
	Generation     int
	Bucket         int64
	Index          int64
	TaskBindingOID string `json:"task_binding_oid"`
	HeadSigningOID string `json:"head_signing_oid"`
	CA             struct {
		DER   []byte
		KeyID string `json:"key_id"`
	}
	Leaf struct {
		DER       []byte
		Serial    string
		SPKI      []byte
		DNSNames  []string `json:"dns_names"`
		NotBefore int64    `json:"not_before"`
		NotAfter  int64    `json:"not_after"`
	}
	LogKey struct{ DER, SPKI []byte } `json:"log_key"`
	CRL    struct {
		DER             []byte
		Number          string
		ThisUpdate      int64 `json:"this_update"`
		NextUpdate      int64 `json:"next_update"`
		RevokedAt       int64 `json:"revoked_at"`
		Held, Withdrawn string
	}
	JWT struct {
		Token     string
		JWK       struct{ Kty, Crv, X, Y, Kid, Use string }
		Aud, Jti  string
		Iat, Exp  int64
		StatusURI string `json:"status_uri"`
	}
}

// The extension, as P13 writes it in ASN.1.
type taskBinding struct {
	Version               int
	LogID, TaskID, RootID []byte
	Bucket, Index         int64
}

var checks, failures int

func check(what string, expected, found any) {
	checks++
	if e, f := fmt.Sprint(expected), fmt.Sprint(found); e != f {
		failures++
		fmt.Fprintf(os.Stderr, "%s\n  expected %s\n  found    %s\n", what, e, f)
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, "judge:", err)
		os.Exit(1)
	}
	return value
}

func uuid(text string) []byte {
	return must(hex.DecodeString(strings.ReplaceAll(text, "-", "")))
}

func judgeCA(v vectors, ca *x509.Certificate) {
	check("ca signs itself", nil, ca.CheckSignatureFrom(ca))
	check("ca is one", true, ca.IsCA && ca.BasicConstraintsValid)
	check("ca path length", "0 true", fmt.Sprint(ca.MaxPathLen, ca.MaxPathLenZero))
	check("ca usages", x509.KeyUsageCertSign|x509.KeyUsageCRLSign, ca.KeyUsage)
	check("ca extended usages", 0, len(ca.ExtKeyUsage)+len(ca.UnknownExtKeyUsage))
	check("ca id", "[spiffe://"+v.TrustDomain+"]", ca.URIs)
	check("ca key id", v.CA.KeyID, hex.EncodeToString(ca.SubjectKeyId))
}

func judgeLeaf(v vectors, ca, leaf *x509.Certificate) {
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	at := func(second int64) error {
		_, err := leaf.Verify(x509.VerifyOptions{
			Roots:       roots,
			CurrentTime: time.Unix(second, 0),
			KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		})
		return err
	}
	check("leaf verifies", nil, at(v.VerifyAt))
	check("leaf in its last second", nil, at(v.Leaf.NotAfter))
	check("leaf after it", true, at(v.Leaf.NotAfter+1) != nil)
	check("leaf before its first", true, at(v.Leaf.NotBefore-1) != nil)
	check("leaf is no ca", "true false", fmt.Sprint(leaf.BasicConstraintsValid, leaf.IsCA))
	check("leaf usage", x509.KeyUsageDigitalSignature, leaf.KeyUsage)
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	check("leaf extended usages", both, leaf.ExtKeyUsage)
	check("leaf uris", "["+v.SpiffeID+"]", leaf.URIs)
	check("leaf dns names", v.Leaf.DNSNames, leaf.DNSNames)
	check("leaf subject", "", leaf.Subject.String())
	check("leaf leaves nothing critical unread", 0, len(leaf.UnhandledCriticalExtensions))
	check("leaf key", true, bytes.Equal(v.Leaf.SPKI, leaf.RawSubjectPublicKeyInfo))
	serial := must(hex.DecodeString(v.Leaf.Serial))
	check("leaf serial", new(big.Int).SetBytes(serial), leaf.SerialNumber)
	judgeSerial(v, serial)
	judgeExtension(v, leaf)
}

func judgeSerial(v vectors, serial []byte) {
	number := func(from, to int) int64 { return new(big.Int).SetBytes(serial[from:to]).Int64() }
	check("serial length", 20, len(serial))
	check("serial version and generation", fmt.Sprint(1, v.Generation), fmt.Sprint(serial[0], serial[1]))
	check("serial place", fmt.Sprint(v.Bucket, v.Index), fmt.Sprint(number(2, 6), number(6, 11)))
}

func judgeExtension(v vectors, leaf *x509.Certificate) {
	found := 0
	for _, extension := range leaf.Extensions {
		if extension.Id.String() != v.TaskBindingOID {
			continue
		}
		found++
		check("extension is not critical", false, extension.Critical)
		var binding taskBinding
		rest := must(asn1.Unmarshal(extension.Value, &binding))
		check("extension ends", 0, len(rest))
		expected := taskBinding{1, must(hex.DecodeString(v.Log)), uuid(v.Task), uuid(v.Root), v.Bucket, v.Index}
		check("extension", expected, binding)
	}
	check("extensions of ours", 1, found)
}

func judgeLogKey(v vectors, ca, key *x509.Certificate) {
	check("log key is signed by the ca", nil, key.CheckSignatureFrom(ca))
	check("log key has no names", 0, len(key.URIs)+len(key.DNSNames)+len(key.IPAddresses)+len(key.EmailAddresses))
	check("log key has no usage that tls knows", 0, len(key.ExtKeyUsage))
	check("log key has its own", "["+v.HeadSigningOID+"]", key.UnknownExtKeyUsage)
	check("log key is no ca", false, key.IsCA)
	check("log key", true, bytes.Equal(v.LogKey.SPKI, key.RawSubjectPublicKeyInfo))
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	_, err := key.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: time.Unix(v.VerifyAt, 0)})
	check("log key serves no tls", true, err != nil)
}

func judgeCRL(v vectors, ca *x509.Certificate) {
	list := must(x509.ParseRevocationList(v.CRL.DER))
	check("crl is signed by the ca", nil, list.CheckSignatureFrom(ca))
	check("crl issuer", true, bytes.Equal(ca.RawSubject, list.RawIssuer))
	number := must(hex.DecodeString(v.CRL.Number))
	check("crl number", new(big.Int).SetBytes(number), list.Number)
	check("crl key id", v.CA.KeyID, hex.EncodeToString(list.AuthorityKeyId))
	check("crl times", fmt.Sprint(v.CRL.ThisUpdate, v.CRL.NextUpdate), fmt.Sprint(list.ThisUpdate.Unix(), list.NextUpdate.Unix()))
	check("crl extensions", 2, len(list.Extensions))
	check("crl entries", 2, len(list.RevokedCertificateEntries))
	expected := []string{v.CRL.Held + " 6", v.CRL.Withdrawn + " 9"}
	for i, entry := range list.RevokedCertificateEntries {
		check("crl entry", expected[i], fmt.Sprintf("%040x %d", entry.SerialNumber, entry.ReasonCode))
		check("crl entry since", v.CRL.RevokedAt, entry.RevocationTime.Unix())
	}
}

func judgeToken(v vectors) {
	parts := strings.Split(v.JWT.Token, ".")
	check("token parts", 3, len(parts))
	raw := base64.RawURLEncoding
	number := func(text string) *big.Int { return new(big.Int).SetBytes(must(raw.DecodeString(text))) }
	check("jwk", "EC P-256 jwt-svid", fmt.Sprint(v.JWT.JWK.Kty, " ", v.JWT.JWK.Crv, " ", v.JWT.JWK.Use))
	key := ecdsa.PublicKey{Curve: elliptic.P256(), X: number(v.JWT.JWK.X), Y: number(v.JWT.JWK.Y)}
	signature := must(raw.DecodeString(parts[2]))
	check("token signature length", 64, len(signature))
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
	check("token verifies", true, ecdsa.Verify(&key, digest[:], r, s))

	var header, claims map[string]any
	_ = must(0, json.Unmarshal(must(raw.DecodeString(parts[0])), &header))
	_ = must(0, json.Unmarshal(must(raw.DecodeString(parts[1])), &claims))
	check("token header", map[string]any{"alg": "ES256", "kid": v.JWT.JWK.Kid, "typ": "JWT"}, header)
	thumb := sha256.Sum256([]byte(fmt.Sprintf(`{"crv":"P-256","kty":"EC","x":"%s","y":"%s"}`, v.JWT.JWK.X, v.JWT.JWK.Y)))
	check("kid is the thumbprint", raw.EncodeToString(thumb[:]), v.JWT.JWK.Kid)
	expected := map[string]any{
		"sub": v.SpiffeID, "aud": v.JWT.Aud, "jti": v.JWT.Jti,
		"iat": float64(v.JWT.Iat), "exp": float64(v.JWT.Exp),
		"status": map[string]any{
			"status_list": map[string]any{"idx": float64(v.Index), "uri": v.JWT.StatusURI},
		},
		"https://taskmint.dev/task": map[string]any{
			"v": 1.0, "task": v.Task, "root": v.Root, "bucket": float64(v.Bucket), "index": float64(v.Index),
			"log": raw.EncodeToString(must(hex.DecodeString(v.Log))),
		},
	}
	check("token claims", expected, claims)
}

func main() {
	path := "../../../svid.json"
	if len(os.Args) > 1 {
		path = os.Args[1]
	}
	var v vectors
	_ = must(0, json.Unmarshal(must(os.ReadFile(path)), &v))
	ca := must(x509.ParseCertificate(v.CA.DER))
	judgeCA(v, ca)
	judgeLeaf(v, ca, must(x509.ParseCertificate(v.Leaf.DER)))
	judgeLogKey(v, ca, must(x509.ParseCertificate(v.LogKey.DER)))
	judgeCRL(v, ca)
	judgeToken(v)
	fmt.Printf("svid vectors, go: %d checked, %d differ\n", checks, failures)
	if failures > 0 {
		os.Exit(1)
	}
}
