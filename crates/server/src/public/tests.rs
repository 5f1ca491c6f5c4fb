//! Bad input over HTTP, each with its problem, and the document beside the routes.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode, header};
use serde_json::Value;
use taskmint_authority::{InProcess, Policy};
use taskmint_config::Overrides;
use taskmint_id::{SpiffeId, TrustDomain};
use taskmint_issuer::Settings;
use taskmint_model::{SystemClock, SystemEntropy};
use taskmint_status::LogId;
use taskmint_store::Memory;
use tower::ServiceExt as _;

use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const LOG: &str = "0707070707070707";

/// The routes over an issuer that has nothing yet; `lines` go into the configuration.
async fn routes(lines: &str) -> (Router, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
    let text = format!(
        "trust_domain = \"example.org\"\nstore.kind = \"memory\"\nkeys.kind = \"memory\"\n\
         public_listen = \"127.0.0.1:0\"\npublic.plain_http = true\n\
         public.introspect_secret_files = [\"{}\"]\n{lines}\n",
        secret.display()
    );
    let config = ServerConfig::parse(&text, "test", &Overrides::none()).unwrap();
    let trust_domain: TrustDomain = "example.org".parse().unwrap();
    let server = SpiffeId::server(&trust_domain, "s").unwrap();
    let mut settings = Settings::new(trust_domain.clone(), server);
    let url = config
        .public_url
        .as_ref()
        .map(|url| url.as_str().to_owned());
    settings.public_url.clone_from(&url);
    let mut policy = Policy::new(trust_domain);
    policy.public_url = url;
    let authority = InProcess::in_memory(policy, Arc::new(SystemClock), Arc::new(SystemEntropy));
    let issuer = Issuer::start(
        settings,
        Arc::new(Memory::new(LogId([7; 8]))),
        Arc::new(authority),
        Arc::new(SystemClock),
        Arc::new(SystemEntropy),
    );
    let issuer = issuer.await.unwrap();
    (Public::new(issuer, &config).unwrap().router(), folder)
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

fn post(path: &str, kind: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(path)
        .header(header::AUTHORIZATION, format!("Bearer {SECRET}"))
        .header(header::CONTENT_TYPE, kind)
        .body(body.into())
        .unwrap()
}

async fn ask(router: &Router, request: Request<Body>) -> (StatusCode, String, Vec<u8>) {
    let response = router.clone().oneshot(request).await.unwrap();
    let kind = response.headers().get(header::CONTENT_TYPE);
    let kind = kind.map_or("", |kind| kind.to_str().unwrap()).to_owned();
    let status = response.status();
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, kind, body.to_vec())
}

#[tokio::test]
async fn whatever_is_refused_is_refused_with_a_problem_and_says_no_more() {
    const FORM: &str = "application/x-www-form-urlencoded";
    const JSON: &str = "application/json";
    let (router, _folder) = routes("public_url = \"https://x.example.org\"").await;
    let now = SystemClock.now().hour();
    let unknown = "f".repeat(40);
    let many = format!("{{\"tokens\":[{}]}}", vec!["\"a\""; 101].join(","));
    let anonymous = Request::post("/introspect").body(Body::from("token=a"));
    let forged = Request::post("/introspect")
        .header(header::AUTHORIZATION, format!("Bearer {SECRET}x"))
        .header(header::CONTENT_TYPE, FORM)
        .body(Body::from("token=a"));
    let twice = Request::get("/check")
        .header("x-ssl-client-serial", "01")
        .header("x-ssl-client-serial", "02")
        .body(Body::empty());
    let html = Request::get(format!("/status/{LOG}/{now}"))
        .header(header::ACCEPT, "text/html, application/json;q=0.5")
        .body(Body::empty());
    let table = [
        (get("/"), 404, "NO_SUCH_PATH"),
        (get("/crl"), 404, "NO_SUCH_PATH"),
        (get("/introspect"), 405, "METHOD_NOT_ALLOWED"),
        (get("/crl/x"), 404, "NO_SUCH_LIST"),
        // The first list is not made yet: that is no reason to go without one.
        (get(&format!("/crl/{unknown}.crl")), 503, "LIST_NOT_READY"),
        (get("/status/xx/1"), 404, "NO_SUCH_LIST"),
        (
            get(&format!("/status/0808080808080808/{now}")),
            404,
            "NO_SUCH_LIST",
        ),
        (get(&format!("/status/{LOG}/0{now}")), 404, "NO_SUCH_LIST"),
        (get(&format!("/status/{LOG}/-1")), 404, "NO_SUCH_LIST"),
        (
            get(&format!("/status/{LOG}/99999999999")),
            404,
            "NO_SUCH_LIST",
        ),
        (
            get(&format!("/status/{LOG}/{}", now + 24 * 31)),
            404,
            "NO_SUCH_LIST",
        ),
        (html.unwrap(), 406, "NOT_ACCEPTABLE"),
        (get("/check"), 403, "NOT_VALID"),
        (twice.unwrap(), 400, "BAD_SERIAL"),
        (get("/check/zz"), 400, "BAD_SERIAL"),
        (get("/check/%00"), 400, "BAD_SERIAL"),
        (get("/check/:"), 400, "BAD_SERIAL"),
        (
            get(&format!("/check/{}", "0".repeat(65))),
            400,
            "BAD_SERIAL",
        ),
        (get("/check/00"), 403, "NOT_VALID"),
        // Another CA's, another version, another generation, a place that lies too far ahead.
        (
            get(&format!("/check/{}", "7f".repeat(20))),
            403,
            "NOT_VALID",
        ),
        (
            get(&format!("/check/0200{}", "00".repeat(18))),
            403,
            "NOT_VALID",
        ),
        (
            get(&format!("/check/0102{:08x}{}", now, "00".repeat(14))),
            403,
            "NOT_VALID",
        ),
        (
            get(&format!("/check/0101{}", "ff".repeat(18))),
            403,
            "NOT_VALID",
        ),
        (anonymous.unwrap(), 401, "NO_CREDENTIAL"),
        (forged.unwrap(), 401, "NO_CREDENTIAL"),
        (post("/introspect", JSON, "{}"), 415, "BAD_MEDIA_TYPE"),
        (post("/introspect", FORM, "tokens=a"), 400, "TOKEN_MISSING"),
        (
            post("/introspect", FORM, "token=a&token=b"),
            400,
            "BAD_BODY",
        ),
        (
            post("/introspect", FORM, vec![b'a'; (64 << 10) + 1]),
            413,
            "TOO_LONG",
        ),
        (
            post("/introspect/batch", FORM, "token=a"),
            415,
            "BAD_MEDIA_TYPE",
        ),
        (post("/introspect/batch", JSON, "[]"), 400, "BAD_BODY"),
        (
            post("/introspect/batch", JSON, "{\"tokens\":[1]}"),
            400,
            "BAD_BODY",
        ),
        (
            post("/introspect/batch", JSON, "{\"tokens\":[]}"),
            400,
            "BAD_COUNT",
        ),
        (post("/introspect/batch", JSON, many), 400, "BAD_COUNT"),
    ];
    for (request, status, reason) in table {
        let shown = format!("{} {}", request.method(), request.uri());
        let (got, kind, body) = ask(&router, request).await;
        let text = String::from_utf8_lossy(&body).into_owned();
        assert_eq!(
            (got.as_u16(), kind.as_str()),
            (status, problem::PROBLEM_JSON),
            "{shown} {text}"
        );
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["reason"], reason, "{shown}");
        assert_eq!(body["status"], status, "{shown}");
        let names: BTreeSet<_> = body
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(
            names,
            ["detail", "reason", "status", "title", "type"].into(),
            "{shown}"
        );
    }
}

#[tokio::test]
async fn what_no_key_of_ours_signed_is_inactive_and_nothing_else() {
    let (router, _folder) = routes("").await;
    let forged = "eyJhbGciOiJFUzI1NiIsImtpZCI6IngifQ.eyJzdWIiOiJzcGlmZmU6Ly9leGFtcGxlLm9yZy9hIiwiYXVkIjoiYSIsImV4cCI6NDEwMjQ0NDgwMH0.AAAA";
    let long = "a".repeat(20_000);
    for token in ["x", "a.b.c", forged, &long] {
        let kind = "application/x-www-form-urlencoded; charset=utf-8";
        let (status, _, body) =
            ask(&router, post("/introspect", kind, format!("token={token}"))).await;
        assert_eq!(status, 200);
        assert_eq!(body, b"{\"active\":false}");
    }
    let body = format!("{{\"tokens\":[\"x\",\"{forged}\"]}}");
    let (_, _, body) = ask(&router, post("/introspect/batch", "application/json", body)).await;
    assert_eq!(
        body,
        b"{\"results\":[{\"active\":false},{\"active\":false}]}"
    );
}

#[tokio::test]
async fn without_a_public_address_there_are_no_status_lists() {
    let (router, _folder) = routes("").await;
    let path = format!("/status/{LOG}/{}", SystemClock.now().hour());
    assert_eq!(ask(&router, get(&path)).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn routes_are_found_at_the_root_and_below_the_public_path() {
    let (router, _folder) = routes("public_url = \"https://x.example.org/a/b\"").await;
    for path in ["/openapi.json", "/a/b/openapi.json"] {
        assert_eq!(ask(&router, get(path)).await.0, StatusCode::OK, "{path}");
    }
    assert_eq!(
        ask(&router, get("/a/openapi.json")).await.0,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn one_address_is_held_back_and_another_is_not() {
    let (router, _folder) = routes("public.per_client = { per_second = 1, burst = 2 }").await;
    let from = |last: u8| {
        let mut request = get("/openapi.json");
        let address = IpAddr::from([192, 0, 2, last]);
        request.extensions_mut().insert(Peer {
            address,
            svid: None,
        });
        request
    };
    for _ in 0..2 {
        assert_eq!(ask(&router, from(1)).await.0, StatusCode::OK);
    }
    let late = router.clone().oneshot(from(1)).await.unwrap();
    assert_eq!(late.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(late.headers()[header::RETRY_AFTER], "1");
    assert_eq!(ask(&router, from(2)).await.0, StatusCode::OK);
}

#[tokio::test]
async fn the_document_names_every_route_and_no_other() {
    let document: Value = serde_json::from_str(openapi::DOCUMENT).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let named: BTreeSet<_> = paths.keys().map(String::as_str).collect();
    assert_eq!(named, PATHS.into());
    let (router, _folder) = routes("").await;
    for (path, methods) in paths {
        let of = methods.as_object().unwrap();
        let path = path.replace(['{', '}'], "");
        for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE] {
            let request = Request::builder().method(&method).uri(&path);
            let request = request.body(Body::empty()).unwrap();
            let (status, ..) = ask(&router, request).await;
            let is_named = of.contains_key(&method.as_str().to_lowercase());
            let is_there = status != StatusCode::METHOD_NOT_ALLOWED;
            assert_eq!(is_there, is_named, "{method} {path}: {status}");
        }
    }
}

#[test]
fn the_yaml_in_the_docs_says_what_is_served() {
    let document: Value = serde_json::from_str(openapi::DOCUMENT).unwrap();
    let mut text =
        "# Served as /openapi.json; made from crates/server/src/public/openapi.json by the test\n\
                    # `the_yaml_in_the_docs_says_what_is_served`, with BLESS=1.\n"
            .to_owned();
    yaml(&document, 0, &mut text);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.yaml");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap();
    assert!(
        kept == text,
        "run this test with BLESS=1 to write docs/openapi.yaml anew"
    );
}

/// A value in YAML's block style; texts in the double quotes of JSON, which YAML reads alike.
fn yaml(value: &Value, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    let mut put = |head: String, value: &Value| {
        let is_block = match value {
            Value::Object(members) => !members.is_empty(),
            Value::Array(members) => !members.is_empty(),
            _ => false,
        };
        if is_block {
            text.push_str(&format!("{head}\n"));
            yaml(value, depth + 1, text);
        } else {
            text.push_str(&format!("{head} {value}\n"));
        }
    };
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric())
                    && !name.starts_with(|c: char| c.is_ascii_digit());
                let name = if is_plain {
                    name.clone()
                } else {
                    format!("\"{name}\"")
                };
                put(format!("{indent}{name}:"), member);
            }
        }
        Value::Array(members) => members.iter().for_each(|m| put(format!("{indent}-"), m)),
        other => text.push_str(&format!("{indent}{other}\n")),
    }
}
