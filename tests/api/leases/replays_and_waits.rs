//! Repeated requests with an idempotency key, and waits that cannot succeed.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};

use axum::body::Body;
use reqwest::Method;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::harness::{Answer, Lab};

/// A Qubes machine of the lab that is off.
const MACHINE: &str = "16";

async fn keyed(lab: &Lab, key: &str, body: &Value) -> Answer {
    Answer::from_request(
        lab.request(Method::POST, "/v1/leases").header("idempotency-key", key).json(body),
    )
    .await
}

#[tokio::test]
async fn a_repeat_is_marked_and_has_the_headers_of_the_first_response() {
    let lab = Lab::start().await;
    let body = json!({"select": {"machine": MACHINE}, "ttl": "10m", "queue_for": "10m"});
    let first = keyed(&lab, "a", &body).await.expect(201);
    assert_eq!(first.header("idempotent-replayed"), None);
    let again = keyed(&lab, "a", &body).await.expect(201);
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(again.header("location"), first.header("location"));
    assert!(first.header("location").is_some());
    for field in ["id", "secret", "machine", "fence"] {
        assert_eq!(again.json[field], first.json[field], "{field}");
    }

    let waits = keyed(&lab, "b", &body).await.expect(202);
    let again = keyed(&lab, "b", &body).await.expect(202);
    assert_eq!((again.header("retry-after"), waits.header("retry-after")), (Some("1"), Some("1")));
    assert_eq!(again.header("location"), waits.header("location"));
}

/// Simultaneous requests with one key make one lease, and all but one are marked as repeats.
#[tokio::test(flavor = "multi_thread")]
async fn of_simultaneous_requests_with_one_key_all_but_one_are_repeats() {
    let lab = Lab::start().await;
    let body = json!({"select": {"name": "qubes"}, "ttl": "10m"});
    let calls = (0..20).map(|_| keyed(&lab, "same", &body));
    let answers = futures_util::future::join_all(calls).await;
    let repeats = answers
        .iter()
        .filter(|answer| answer.header("idempotent-replayed") == Some("true"))
        .count();
    assert_eq!(repeats, answers.len() - 1);
    assert!(
        answers
            .iter()
            .all(|answer| answer.status == 201 && answer.json["id"] == answers[0].json["id"])
    );
}

/// Counts how often a task is woken.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_wait_is_not_woken_by_other_leases() {
    let lab = Lab::start().await;
    let take = json!({"select": {"machine": MACHINE}, "ttl": "10m", "queue_for": "10m"});
    let path = |lease: &Answer| format!("/v1/leases/{}", lease.str("id"));
    let give_back = async |lease: &Answer| {
        Answer::from_request(lab.request(Method::DELETE, &path(lease))).await.expect(200);
    };
    let held = keyed(&lab, "held", &take).await.expect(201);
    let earlier = keyed(&lab, "earlier", &take).await.expect(202);
    let waits = keyed(&lab, "waits", &take).await.expect(202);
    let request = http::Request::get(format!("{}/wait", path(&waits))).header("host", "localhost");
    let call = lab.service.clone().oneshot(request.body(Body::empty()).unwrap());
    let (mut call, wakes) = (Box::pin(call), Arc::new(Wakes::default()));
    let counter = Waker::from(Arc::clone(&wakes));
    assert!(call.as_mut().poll(&mut Context::from_waker(&counter)).is_pending());
    give_back(&earlier).await;
    for number in 0..20 {
        let other = keyed(&lab, &format!("other {number}"), &take).await.expect(202);
        give_back(&other).await;
    }
    assert_eq!(wakes.0.load(Ordering::Relaxed), 0, "another lease woke the wait");
    give_back(&held).await;
    assert_eq!(call.await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_wait_for_a_lease_in_release_fails_at_once() {
    let lab = Lab::stepped().await;
    let body = json!({"select": {"machine": MACHINE}, "ttl": "10m", "prepare": {"power": "on"}});
    let lease = keyed(&lab, "a", &body).await.expect(201);
    let path = format!("/v1/leases/{}", lease.str("id"));
    let wait = format!("{path}/wait?wait=60s");
    let waiting = lab.get(&wait);
    let giving_back = async {
        lab.wait_for_machine_task(MACHINE).await;
        Answer::from_request(lab.request(Method::DELETE, &path)).await.expect(200);
    };
    // The release waits for the task on the host, which runs until the test steps it.
    let (waited, ()) = futures_util::future::join(waiting, giving_back).await;
    let failed = waited.problem(409, "lease-failed");
    assert!(failed.str("detail").contains("releasing"), "{}", failed.text);
    assert_eq!(lab.get(&path).await.expect(200).json["state"], "releasing");
    lab.get(&wait).await.problem(409, "lease-failed");
}
