//! The memory that a read allocates: a constant, whatever the number of machines. A change that
//! allocates less lowers these numbers; one that allocates more must say why.

use crate::harness::{Allocations, Lab, LabOptions, count_allocations};
use otter::simulator::{Pace, Scenario};

/// The most allocations of a GET of one machine.
const ONE_MACHINE: u64 = 75;

/// The most bytes of the future of a call, without its handler.
const A_CALL: u64 = 6_500;

async fn many(machines: usize) -> Lab {
    let pace = Pace::Auto { scale: 0.0 };
    let scenario = Scenario::generated(machines);
    Lab::with_options(LabOptions { scenario, pace, ..LabOptions::default() }).await
}

#[tokio::test]
async fn a_read_of_one_machine_allocates_the_same_with_ten_and_a_thousand_machines() {
    for machines in [10, 1_000] {
        let lab = many(machines).await;
        let (status, Allocations { count, .. }) = lab.count_get("/v1/machines/7", &[]).await;
        assert_eq!(status, 200);
        assert!(count <= ONE_MACHINE, "{machines} machines: {count} allocations");
    }
}

/// What a call keeps while it waits, before its handler: 10,000 calls may wait.
#[tokio::test]
async fn a_call_keeps_few_bytes() {
    let lab = many(1).await;
    let mut service = lab.service.clone();
    let path = "/v1/machines/1/wait?until=question";
    let request = http::Request::get(path).body(axum::body::Body::empty()).unwrap();
    let (answer, made) = count_allocations(|| tower::Service::call(&mut service, request));
    assert!(made.bytes < A_CALL, "{made:?}");
    drop(answer);
}

#[test]
fn the_counts_are_exact() {
    let (kept, made) = count_allocations(|| {
        let mut text = String::with_capacity(10);
        text.reserve_exact(20);
        (text, Box::new(7_u32))
    });
    assert_eq!(made, Allocations { count: 3, bytes: 10 + 20 + 4 });
    assert_eq!(count_allocations(|| drop(kept)).1, Allocations::default());
}
