//! Token status lists, as a stranger reads them.

use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use taskmint_model::{Clock as _, SystemClock};
use taskmint_status::Serial;

use crate::harness::World;
use crate::public::{Workload, ask, ca, get, pem_file, world};

#[tokio::test]
async fn a_status_list_says_to_a_stranger_what_the_log_says() {
    let (mut world, mut node) = world("status_list.ttl = \"1s\"").await;
    let live = Workload::begin(&mut node, 1).await;
    let over = Workload::begin(&mut node, 2).await;
    let held = Workload::begin(&mut node, 3).await;
    let token = live.token(&mut node, "a").await;
    let claims = token.split('.').nth(1).unwrap();
    let claims = BASE64_URL_SAFE_NO_PAD.decode(claims).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
    let status = &claims["status"]["status_list"];
    let uri = status["uri"].as_str().unwrap().to_owned();
    let index = |workload: &Workload| Serial::decode(&workload.serial()).unwrap().slot.index();
    assert_eq!(status["idx"], index(&live));
    let path = uri
        .strip_prefix("https://x.example.org")
        .unwrap()
        .to_owned();
    over.complete(&mut node).await;
    held.suspend(&mut world).await;
    let (_, anchor) = ca(&world.server.issuer).await;
    let anchor = pem_file(world.folder.path(), "ca.pem", "CERTIFICATE", &anchor);
    let read = async |world: &World| {
        let answer = get(world, &path).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.headers["content-type"], "application/statuslist+jwt");
        let file = world.folder.path().join("list.jwt");
        std::fs::write(&file, &answer.body).unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/it/status_list.py");
        let mut command = Command::new("python3");
        command.arg(script).args([&file, &anchor]).arg(&uri);
        let indices = [&live, &over, &held].map(|workload| index(workload).to_string());
        let output = command.args(indices).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(read(&world).await, "0\n1\n2\n");
    // A list that is made anew in between is another one: asked again until three answers are of one.
    let same = async {
        loop {
            let answer = get(&world, &path).await;
            let etag = &answer.headers["etag"];
            let head = format!("GET {path} HTTP/1.1\r\nif-none-match: W/{etag}");
            let unchanged = ask(&world, &head, "").await.status == 304;
            let head = format!("GET {path} HTTP/1.1\r\naccept-encoding: br, gzip;q=0.5");
            let zipped = ask(&world, &head, "").await;
            assert_eq!(zipped.headers["content-encoding"], "gzip");
            assert_ne!(&zipped.headers["etag"], etag);
            let file = world.folder.path().join("list.gz");
            std::fs::write(&file, &zipped.body).unwrap();
            let unzipped = Command::new("gzip").arg("-dc").arg(&file).output().unwrap();
            if unchanged && unzipped.stdout == answer.body {
                return;
            }
        }
    };
    let same = tokio::time::timeout(Duration::from_secs(20), same).await;
    same.expect("an unchanged list, and the same one zipped");
    held.resume(&mut world).await;
    // A tenth of a second at most, and then it is made anew.
    let newer = tokio::time::timeout(Duration::from_secs(20), async {
        while read(&world).await != "0\n1\n0\n" {}
    });
    newer.await.unwrap();
    let bucket = Serial::decode(&live.serial()).unwrap().slot.bucket();
    let (base, _) = path.rsplit_once('/').unwrap();
    let over = SystemClock.now().hour() - 2;
    let gone = get(&world, &format!("{base}/{over}")).await;
    assert_eq!(
        (gone.status, gone.json()["reason"].as_str()),
        (410, Some("LIST_GONE"))
    );
    assert_eq!(
        get(&world, &format!("{base}/{}", bucket + 48)).await.status,
        404
    );
}
