//! Introspection of tokens, by a secret or by an identity.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use taskmint_verifier::tls::Identity;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::harness::World;
use crate::node::Key;
use crate::public::{LINES, Workload, ask, exchange, joined};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn secret_file(folder: &Path) -> PathBuf {
    let path = folder.join("secret");
    std::fs::write(&path, format!("{SECRET}\n")).unwrap();
    path
}

#[tokio::test]
async fn a_token_is_active_while_its_task_is_and_tells_who_and_for_what() {
    let folder = Arc::new(tempfile::TempDir::new().unwrap());
    let secret = secret_file(folder.path());
    let lines = format!(
        "{LINES}public.introspect_secret_files = [\"{}\"]",
        secret.display()
    );
    let mut world = World::in_folder(folder, &lines).await;
    let mut node = joined(&mut world).await;
    let workload = Workload::begin(&mut node, 1).await;
    let token = workload.token(&mut node, "reports").await;
    let head = format!(
        "POST /introspect HTTP/1.1\r\nauthorization: Bearer {SECRET}\r\n\
         content-type: application/x-www-form-urlencoded"
    );
    let introspect = async |world: &World| {
        let body = format!("token={token}&token_type_hint=access_token");
        ask(world, &head, &body).await
    };
    let answer = introspect(&world).await;
    assert_eq!(answer.headers["cache-control"], "no-store");
    let claims = answer.json();
    assert_eq!(claims["active"], true);
    assert_eq!(claims["sub"], "spiffe://example.org/w");
    assert_eq!(claims["client_id"], claims["sub"]);
    assert_eq!(claims["aud"], "reports");
    assert!(claims["exp"].as_u64() > claims["iat"].as_u64());
    assert_eq!(claims["jti"].as_str().map(str::len), Some(32));
    assert_eq!(claims["scope"], "*");
    let task = serde_json::json!({ "id": workload.id, "root": workload.id, "owner": "alice" });
    assert_eq!(claims["task"], task);
    workload.suspend(&mut world).await;
    assert_eq!(introspect(&world).await.body, b"{\"active\":false}");
    workload.resume(&mut world).await;
    assert_eq!(introspect(&world).await.json(), claims);
    workload.complete(&mut node).await;
    assert_eq!(introspect(&world).await.body, b"{\"active\":false}");
    let other = Workload::begin(&mut node, 2).await;
    let other = other.token(&mut node, "b").await;
    let batch = format!("{{\"tokens\":[\"{token}\",\"{other}\",\"x\"]}}");
    let head = format!(
        "POST /introspect/batch HTTP/1.1\r\nauthorization: Bearer {SECRET}\r\n\
         content-type: application/json"
    );
    let results = ask(&world, &head, &batch).await.json()["results"].clone();
    let active: Vec<_> = results
        .as_array()
        .unwrap()
        .iter()
        .map(|r| &r["active"])
        .collect();
    assert_eq!(active, [false, true, false]);
}

/// A certificate that the world knows, as far as this test's world goes.
fn public_certificate(folder: &Path) -> [PathBuf; 2] {
    let [cert, key] = ["public.pem", "public.key"].map(|name| folder.join(name));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ])
        .args([
            "-days",
            "2",
            "-subj",
            "/CN=x",
            "-addext",
            "subjectAltName=DNS:x.example.org",
        ])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    [cert, key]
}

#[tokio::test]
async fn introspection_is_for_identities_on_the_list_whose_task_lives() {
    let folder = Arc::new(tempfile::TempDir::new().unwrap());
    let [cert, key] = public_certificate(folder.path());
    let lines = format!(
        "store.kind = \"memory\"\nkeys.kind = \"memory\"\npublic_listen = \"127.0.0.1:0\"\n\
         public_url = \"https://x.example.org\"\npublic.cert_file = \"{}\"\n\
         public.key_file = \"{}\"\npublic.introspect_ids = [\"spiffe://example.org/w\"]",
        cert.display(),
        key.display()
    );
    let mut world = World::in_folder(folder, &lines).await;
    let mut node = joined(&mut world).await;
    world.entry("other", &["unix:uid:7"], false).await;
    let service = Workload::begin(&mut node, 1).await;
    let subject = Workload::begin(&mut node, 2).await;
    let token = subject.token(&mut node, "a").await;
    let begin = node.begin(&["unix:uid:7"], 3, Key::new().spki());
    let stranger = node.client.begin_task(begin).await;
    let own_key = Key::new();
    let begin = node.begin(&["unix:uid:7"], 4, own_key.spki());
    drop(stranger);
    let began = node.client.begin_task(begin).await.unwrap().into_inner();
    let stranger = Workload {
        id: began.task.unwrap().id,
        pid: 4,
        certificate: began.certificate,
        key: own_key,
    };

    let mut roots = rustls::RootCertStore::empty();
    let anchor = std::fs::read(&cert).unwrap();
    let anchor = <CertificateDer as rustls_pki_types::pem::PemObject>::from_pem_slice(&anchor);
    roots.add(anchor.unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let connect = async |who: Option<&Workload>| {
        let config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots.clone());
        let config = match who {
            Some(who) => {
                let identity = Identity::new();
                let chain = vec![CertificateDer::from(who.certificate.clone())];
                identity.set(chain, &who.key.pkcs8()).unwrap();
                config.with_client_cert_resolver(Arc::new(identity))
            }
            None => config.with_no_client_auth(),
        };
        let address = world.server.public_address.unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let name = "x.example.org".try_into().unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(name, stream).await.unwrap()
    };
    let head = "POST /introspect HTTP/1.1\r\ncontent-type: application/x-www-form-urlencoded";
    let body = format!("token={token}");
    let mut anonymous = connect(None).await;
    let refused = exchange(&mut anonymous, head, &body).await;
    assert_eq!(refused.status, 401);
    assert_eq!(refused.headers["www-authenticate"], "Bearer");
    let mut other = connect(Some(&stranger)).await;
    let refused = exchange(&mut other, head, &body).await;
    assert_eq!(refused.json()["reason"], "MAY_NOT_INTROSPECT");
    let mut own = connect(Some(&service)).await;
    let answer = exchange(&mut own, head, &body).await;
    assert_eq!(answer.json()["active"], true);
    // The connection outlives the task; what may be asked on it does not.
    service.complete(&mut node).await;
    let refused = exchange(&mut own, head, &body).await;
    assert_eq!(refused.json()["reason"], "MAY_NOT_INTROSPECT");
}
