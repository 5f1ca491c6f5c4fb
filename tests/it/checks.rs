//! The check endpoint, and how the public listener stops.

use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::harness::World;
use crate::public::{Workload, ask, exchange, get, world};

async fn check(world: &World, workload: &Workload) -> u16 {
    get(world, &format!("/check/{}", workload.hex()))
        .await
        .status
}

#[tokio::test]
async fn the_check_endpoint_hears_of_an_end_before_whoever_asked_for_it() {
    let (mut world, mut node) = world("").await;
    let workload = Workload::begin(&mut node, 1).await;
    assert_eq!(check(&world, &workload).await, 200);
    let by_header = async |serial: &str| {
        let head = format!("POST /check HTTP/1.1\r\nX-SSL-Client-Serial: {serial}");
        ask(&world, &head, "").await
    };
    assert_eq!(by_header(&workload.hex()).await.status, 200);
    // Some leave zeroes out in front, some write small letters, some colons.
    let hex = workload.hex();
    assert_eq!(by_header(&hex[1..].to_lowercase()).await.status, 200);
    let octets: Vec<_> = hex
        .as_bytes()
        .chunks(2)
        .map(String::from_utf8_lossy)
        .collect();
    assert_eq!(by_header(&octets.join(":")).await.status, 200);
    assert_eq!(by_header("").await.status, 403);
    workload.suspend(&mut world).await;
    assert_eq!(check(&world, &workload).await, 403);
    workload.resume(&mut world).await;
    assert_eq!(check(&world, &workload).await, 200);
    workload.complete(&mut node).await;
    let refused = get(&world, &format!("/t/check/{hex}")).await;
    assert_eq!(refused.status, 403);
    assert_eq!(refused.headers["content-type"], "application/problem+json");
    assert_eq!(refused.headers["cache-control"], "no-store");
    assert_eq!(refused.json()["reason"], "NOT_VALID");
}

#[tokio::test]
async fn a_stop_lets_an_idle_connection_go() {
    let (world, node) = world("").await;
    let mut stream = TcpStream::connect(world.server.public_address.unwrap())
        .await
        .unwrap();
    let answer = exchange(&mut stream, "GET /openapi.json HTTP/1.1", "").await;
    assert_eq!(answer.json()["openapi"], "3.1.0");
    drop(node);
    let stopped = tokio::time::timeout(Duration::from_secs(8), world.stop());
    stopped.await.expect("before the grace is over");
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
}
