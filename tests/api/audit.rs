//! `GET /v1/audit`: the entries of jobs, leases, quarantines, overrides, tokens and refused calls,
//! who may read them, and the filters.

use std::time::Duration;

use otter::app::Settings;
use otter::clock::Clock;
use otter::domain::access::{Role, TokenLimits};
use otter::domain::scope::Scope;
use otter::simulator::{Fault, Pace};
use reqwest::Method;
use serde_json::{Value, json};

use super::tokens::Guarded;
use crate::harness::{Answer, Lab, LabOptions, eventually, machine_path, pause};

const MACHINE: &str = "qubes-4.2-sdw-staging";

const FIELDS: [&str; 17] = [
    "id",
    "at",
    "actor",
    "address",
    "request_id",
    "action",
    "machine",
    "machine_name",
    "lease",
    "job",
    "reference",
    "outcome",
    "code",
    "duration_ms",
    "detail",
    "count",
    // An entry has no other fields.
    "",
];

/// The entries that a query finds, oldest first.
async fn audit(lab: &Lab, query: &str) -> Vec<Value> {
    facts(lab.get(&format!("/v1/audit?{query}")).await)
}

fn facts(answer: Answer) -> Vec<Value> {
    let mut items = answer.expect(200).json["items"].as_array().unwrap().clone();
    for item in &items {
        let fields = item.as_object().unwrap();
        assert!(fields.keys().all(|field| FIELDS.contains(&field.as_str())), "{item}");
        assert_eq!(fields.len(), FIELDS.len() - 1, "every field is present: {item}");
    }
    items.reverse();
    items
}

fn column<'a>(facts: &'a [Value], field: &str) -> Vec<&'a str> {
    facts.iter().map(|fact| fact[field].as_str().unwrap_or("null")).collect()
}

#[tokio::test]
async fn a_job_is_audited_from_its_acceptance_to_its_end() {
    let lab = Lab::start().await;
    let path = machine_path(MACHINE, "/power?wait=15s");
    let reference = [("otter-reference", "https://ci.example/runs/7")];
    let done = lab.post_with(&path, json!({"action": "on"}), &reference).await.expect(200);
    let id = done.str("id");
    let found = audit(&lab, &format!("job={id}")).await;
    assert_eq!(column(&found, "action"), ["job.accepted", "job.started", "job.ended"]);
    assert_eq!(column(&found, "outcome"), ["queued", "running", "succeeded"]);
    for fact in &found {
        assert_eq!(fact["actor"], "anonymous");
        assert_eq!(fact["address"], "127.0.0.1");
        assert_eq!(fact["request_id"].as_str(), done.header("x-request-id"));
        assert_eq!(
            (&fact["machine"], &fact["machine_name"]),
            (&done.json["machine"], &json!(MACHINE))
        );
        assert_eq!(fact["reference"], "https://ci.example/runs/7");
        assert_eq!(fact["detail"], "machine.power_on");
        assert_eq!(
            (&fact["lease"], &fact["code"], &fact["count"]),
            (&Value::Null, &Value::Null, &json!(1))
        );
    }
    assert!(found[0]["duration_ms"].is_null() && found[2]["duration_ms"].is_u64(), "{found:?}");
    assert_eq!(found[2]["at"], done.json["finished_at"]);
}

#[tokio::test]
async fn a_job_that_fails_is_audited_with_its_code() {
    let lab = Lab::start().await;
    lab.control().fail_next_task("PowerOnVM_Task", Fault::new("NoDiskSpace", "Full."));
    let path = machine_path(MACHINE, "/power?wait=15s");
    let failed = lab.post(&path, json!({"action": "on"})).await.problem(422, "host-rejected");
    let found = audit(&lab, "action=job.ended&outcome=failed").await;
    assert_eq!(column(&found, "code"), ["host-rejected"]);
    assert!(column(&found, "detail")[0].starts_with("machine.power_on: "), "{found:?}");
    assert_eq!(found[0]["job"], failed.json["job"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_names_who_cancelled_a_job_and_who_killed_it() {
    let guarded = Guarded::with(LabOptions { pace: Pace::Stepped, ..LabOptions::default() }).await;
    let post = async |role: &str, path: &str, body: Value| {
        Answer::from_request(guarded.request(role, Method::POST, path).json(&body)).await
    };
    let ended = async |job: &Answer| {
        let path = format!("/v1/jobs/{}?wait=10s", job.str("id"));
        let ended =
            Answer::from_request(guarded.request("viewer", Method::GET, &path)).await.expect(200);
        assert_eq!(ended.json["state"], "cancelled", "{}", ended.text);
    };
    let power = machine_path("ci-runner-2", "/power");
    let cancel = |job: &Answer| format!("/v1/jobs/{}/cancel", job.str("id"));
    let running = post("operator", &power, json!({"action": "on"})).await.expect(202);
    let queued = post("operator", &power, json!({"action": "off"})).await.expect(202);
    guarded.lab.wait_for_machine_task("32").await;
    let of_queued = post("admin", &cancel(&queued), json!({})).await.expect(202);
    let of_running = post("admin", &cancel(&running), json!({})).await.expect(202);
    ended(&running).await;
    // A job that has ended or is being cancelled is not cancelled again.
    post("operator", &cancel(&running), json!({})).await.expect(200);

    let restarting = post("operator", &power, json!({"action": "on"})).await.expect(202);
    guarded.lab.wait_for_machine_task("32").await;
    let killed =
        post("admin", "/v1/machines/kill", json!({"name": "ci-runner-2"})).await.expect(202);
    ended(&restarting).await;
    let read = guarded.request("admin", Method::GET, "/v1/audit?action=job.cancel_requested");
    let found = facts(Answer::from_request(read).await);
    assert_eq!(column(&found, "job"), [queued.str("id"), running.str("id"), restarting.str("id")]);
    let requests =
        [&of_queued, &of_running, &killed].map(|answer| answer.header("x-request-id").unwrap());
    assert_eq!(column(&found, "request_id"), requests);
    for fact in &found {
        assert_eq!((&fact["actor"], &fact["outcome"]), (&json!("admin"), &json!("done")), "{fact}");
        assert_eq!(
            (&fact["address"], &fact["machine"]),
            (&json!("127.0.0.1"), &json!("32")),
            "{fact}"
        );
        assert_eq!(fact["machine_name"], "ci-runner-2");
    }
    assert_eq!(
        column(&found, "detail"),
        ["machine.power_off", "machine.power_on", "machine.power_on"]
    );
    let path = format!("/v1/audit?job={}", queued.str("id"));
    let of_job = facts(Answer::from_request(guarded.request("admin", Method::GET, &path)).await);
    assert_eq!(column(&of_job, "action"), ["job.accepted", "job.cancel_requested", "job.ended"]);
    assert_eq!(column(&of_job, "actor"), ["operator", "admin", "operator"]);
}

#[tokio::test]
async fn the_end_of_a_lease_cancels_its_jobs_as_otter() {
    let lab = Lab::stepped().await;
    let body = json!({"select": {"name": "ci-runner-2"}, "ttl": "30m"});
    let lease = lab.post("/v1/leases", body).await.expect(201);
    let shown = format!("{}.{}", lease.str("id"), lease.str("secret"));
    let power = machine_path("ci-runner-2", "/power");
    let job = lab
        .post_with(&power, json!({"action": "on"}), &[("otter-lease", &shown)])
        .await
        .expect(202);
    lab.wait_for_machine_task("32").await;
    let path = format!("/v1/leases/{}", lease.str("id"));
    Answer::from_request(lab.request(Method::DELETE, &path).header("otter-lease", &shown))
        .await
        .expect(200);
    assert_eq!(lab.wait_for_end(&job.json).await["state"], "cancelled");
    let found =
        audit(&lab, &format!("lease={}&action=job.cancel_requested", lease.str("id"))).await;
    assert_eq!(column(&found, "job"), [job.str("id")]);
    assert_eq!((&found[0]["actor"], &found[0]["request_id"]), (&json!("otter"), &Value::Null));
}

#[tokio::test]
async fn each_transition_of_a_lease_is_audited() {
    let lab = Lab::start().await;
    let body = json!({"select": {"name": MACHINE}, "ttl": "30m", "holder": "nightly",
        "prepare": {"power": "on"}});
    let reference = [("otter-reference", "run-7")];
    let asked = lab.post_with("/v1/leases", body, &reference).await.expect(201);
    let lease = asked.str("id");
    let shown = format!("{lease}.{}", asked.str("secret"));
    lab.get(&format!("/v1/leases/{lease}/wait?wait=15s")).await.expect(200);
    let call = async |method: Method, rest: &str| {
        let path = format!("/v1/leases/{lease}{rest}");
        Answer::from_request(lab.request(method, &path).header("otter-lease", &shown))
            .await
            .expect(200)
    };
    call(Method::POST, "/renew").await;
    let ended = call(Method::DELETE, "?wait=15s").await;
    assert_eq!(ended.json["state"], "released");

    let found = audit(&lab, &format!("lease={lease}")).await;
    let of_lease: Vec<Value> = found.iter().filter(|fact| fact["job"].is_null()).cloned().collect();
    assert_eq!(
        column(&of_lease, "action"),
        [
            "lease.queued",
            "lease.granted",
            "lease.active",
            "lease.renewed",
            "lease.releasing",
            "lease.ended"
        ]
    );
    assert_eq!(
        column(&of_lease, "outcome"),
        ["queued", "preparing", "active", "active", "releasing", "released"]
    );
    assert!(
        of_lease.iter().all(|fact| fact["reference"] == "run-7" && fact["actor"] == "anonymous")
    );
    assert_eq!(of_lease[0]["machine"], Value::Null, "the lease is queued");
    assert!(of_lease[1..].iter().all(|fact| fact["machine_name"] == MACHINE), "{of_lease:?}");
    assert_eq!(of_lease[1]["detail"], "fence 1");
    for asker in &of_lease[..3] {
        assert_eq!(asker["request_id"].as_str(), asked.header("x-request-id"));
    }
    assert!(
        of_lease[3]["request_id"].is_string()
            && of_lease[3]["request_id"] != of_lease[0]["request_id"]
    );
    assert!(of_lease[2]["duration_ms"].is_u64() && of_lease[5]["duration_ms"].is_u64());
    // otter requests the jobs of the lease, and they are among the entries of the lease.
    let jobs: Vec<Value> = found.iter().filter(|fact| fact["job"].is_string()).cloned().collect();
    assert_eq!(jobs.iter().filter(|fact| fact["action"] == "job.ended").count(), 2, "{jobs:?}");
    assert!(jobs.iter().all(|fact| fact["actor"] == "otter" && fact["reference"] == "run-7"));
}

#[tokio::test]
async fn a_lease_whose_time_is_over_is_audited_as_ended_by_otter() {
    let clock = Clock::stepped("2026-03-01T12:00:00Z".parse().unwrap());
    let lab = Lab::with_options(LabOptions { clock: clock.clone(), ..LabOptions::default() }).await;
    let body = json!({"select": {"name": MACHINE}, "ttl": "10m"});
    let lease = lab.post("/v1/leases", body).await.expect(201);
    let path = format!("/v1/leases/{}", lease.str("id"));
    clock.advance(Duration::from_mins(11));
    eventually("it to end", async || {
        // The release of the machine takes simulated time.
        clock.advance(Duration::from_millis(100));
        lab.get(&path).await.expect(200).json["state"] == "expired"
    })
    .await;
    let query = format!("lease={}&action=lease.releasing,lease.ended", lease.str("id"));
    let found = audit(&lab, &query).await;
    assert_eq!(column(&found, "outcome"), ["releasing", "expired"]);
    assert_eq!(column(&found, "detail"), ["expired", "expired"]);
    assert!(found.iter().all(|fact| fact["actor"] == "otter" && fact["request_id"].is_null()));
    assert!(found[0]["duration_ms"].as_u64().unwrap() >= 600_000, "{}", found[0]);
}

#[tokio::test]
async fn quarantines_and_a_failed_preparation_are_audited() {
    let lab = Lab::start().await;
    let path = machine_path(MACHINE, "/quarantine");
    let set =
        Answer::from_request(lab.request(Method::PUT, &path).json(&json!({"reason": "its disk"})))
            .await
            .expect(200);
    Answer::from_request(lab.request(Method::PUT, &path).json(&json!({"reason": "its disk"})))
        .await
        .expect(200);
    let cleared = Answer::from_request(lab.request(Method::DELETE, &path)).await.expect(200);
    let found = audit(&lab, "action=machine.quarantined,machine.quarantine_cleared").await;
    assert_eq!(
        column(&found, "action"),
        ["machine.quarantined", "machine.quarantined", "machine.quarantine_cleared"]
    );
    assert_eq!(found[0]["detail"], "its disk");
    assert_eq!(found[0]["request_id"].as_str(), set.header("x-request-id"));
    assert_eq!(found[2]["request_id"].as_str(), cleared.header("x-request-id"));
    assert!(
        found.iter().all(|fact| fact["machine_name"] == MACHINE && fact["machine"].is_string())
    );
    assert!(found.iter().all(|fact| fact["actor"] == "anonymous" && fact["outcome"] == "done"));

    lab.control().fail_next_task("PowerOnVM_Task", Fault::new("FileLocked", "Locked."));
    let body = json!({"select": {"name": MACHINE}, "ttl": "10m", "prepare": {"power": "on"}});
    let lease = lab.post("/v1/leases", body).await.expect(201);
    let lease = lease.str("id");
    lab.wait_until(&format!("/v1/leases/{lease}"), |lease| lease["state"] == "failed").await;
    let found = audit(&lab, &format!("lease={lease}&action=machine.quarantined,lease.ended")).await;
    let aside = found.iter().find(|fact| fact["action"] == "machine.quarantined").unwrap();
    assert_eq!((&aside["actor"], &aside["machine_name"]), (&json!("otter"), &json!(MACHINE)));
    assert!(aside["job"].is_string(), "the job that failed: {aside}");
    let ended = found.iter().find(|fact| fact["action"] == "lease.ended").unwrap();
    assert_eq!((&ended["outcome"], &ended["code"]), (&json!("failed"), &json!("host-rejected")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_override_is_audited_with_the_job_that_it_allowed() {
    let guarded = Guarded::start().await;
    let body = json!({"select": {"name": MACHINE}, "ttl": "10m"});
    let lease =
        Answer::from_request(guarded.request("runner", Method::POST, "/v1/leases").json(&body))
            .await
            .expect(201);
    let on = guarded.request("operator", Method::POST, &machine_path(MACHINE, "/power?wait=15s"));
    let on = on.header("otter-override", "the holder is ill").json(&json!({"action": "on"}));
    let job = Answer::from_request(on).await.expect(200);
    let read =
        guarded.request("admin", Method::GET, "/v1/audit?actor=operator&action=machine.overridden");
    let found = facts(Answer::from_request(read).await);
    assert_eq!(column(&found, "detail"), ["machine.power_on: the holder is ill"]);
    assert_eq!((&found[0]["job"], &found[0]["machine_name"]), (&job.json["id"], &json!(MACHINE)));
    assert_eq!(found[0]["lease"], lease.json["id"], "the lease that was overridden");
    let ended = format!("/v1/leases/{}?reason=the+night+is+over", lease.str("id"));
    let released = guarded.request("operator", Method::DELETE, &ended);
    Answer::from_request(released).await.expect(200);
    let read = guarded.request("admin", Method::GET, "/v1/audit?action=lease.releasing");
    let found = facts(Answer::from_request(read).await);
    assert_eq!(column(&found, "actor"), ["operator"]);
    assert_eq!(column(&found, "detail"), ["revoked: the night is over"]);
}

#[tokio::test]
async fn an_override_that_was_not_needed_is_not_audited() {
    let settings =
        |settings: &mut Settings| settings.snapshots.protected = vec!["precious".to_owned()];
    let lab = Lab::with_options(LabOptions { settings, ..LabOptions::default() }).await;
    let over = ("otter-override", "perhaps");
    let power = machine_path(MACHINE, "/power?wait=15s");
    // No lease holds the machine, so the override is not necessary.
    lab.post_with(&power, json!({"action": "off"}), &[over]).await.expect(200);
    let body = json!({"select": {"name": MACHINE}, "ttl": "10m"});
    let lease = lab.post("/v1/leases", body).await.expect(201);
    let shown = format!("{}.{}", lease.str("id"), lease.str("secret"));
    // The caller sends the lease.
    let with_lease = [over, ("otter-lease", &shown)];
    lab.post_with(&power, json!({"action": "on"}), &with_lease).await.expect(200);
    assert!(audit(&lab, "action=machine.overridden").await.is_empty());
    // The lease does not allow this change of a protected snapshot, but the override does.
    let snapshots = machine_path(MACHINE, "/snapshots?wait=15s");
    let made =
        lab.post_with(&snapshots, json!({"name": "precious"}), &with_lease).await.expect(200);
    assert!(audit(&lab, "action=machine.overridden").await.is_empty(), "an operator may make one");
    let path = format!("{}?wait=15s", machine_path(MACHINE, "/snapshots/precious"));
    let removed = lab.request(Method::DELETE, &path).header("otter-override", "the disk is full");
    let removed = Answer::from_request(removed.header("otter-lease", &shown)).await.expect(200);
    let found = audit(&lab, "action=machine.overridden").await;
    assert_eq!(column(&found, "job"), [removed.str("id")], "{}", made.text);
    assert_eq!(column(&found, "detail"), ["snapshot.remove: the disk is full"]);
    assert_eq!(found[0]["lease"], lease.json["id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_over_the_limit_of_its_token_is_audited_with_the_token() {
    let clock = Clock::stepped("2026-03-01T12:00:00Z".parse().unwrap());
    let guarded = Guarded::with(LabOptions { clock: clock.clone(), ..LabOptions::default() }).await;
    let limits = TokenLimits { requests_per_second: Some(1), ..TokenLimits::default() };
    let ticks = async {
        loop {
            clock.advance(Duration::from_millis(100));
            pause().await;
        }
    };
    let token = tokio::select! {
        token = guarded.restricted("busy", Role::Viewer, Scope::All, limits) => token,
        never = ticks => never,
    };
    let ask = || guarded.lab.request(Method::GET, "/v1/jobs").bearer_auth(&token);
    // If the first call is not over the limit, the second call at the same time is.
    Answer::from_request(ask()).await;
    let refused = Answer::from_request(ask()).await.problem(429, "too-many-requests");
    assert!(refused.header("www-authenticate").is_none(), "its token is valid");
    clock.advance(Duration::from_mins(1));
    let path = "/v1/audit?action=request.refused";
    let read =
        async || facts(Answer::from_request(guarded.request("admin", Method::GET, path)).await);
    let mut found = Vec::new();
    eventually("the refusal to be written", async || {
        found =
            read().await.into_iter().filter(|fact| fact["code"] == "too-many-requests").collect();
        !found.is_empty()
    })
    .await;
    assert_eq!(
        (column(&found, "actor"), column(&found, "address")),
        (vec!["busy"], vec!["127.0.0.1"])
    );
    assert!(
        column(&found, "detail")[0].starts_with("GET /v1/jobs: The token busy may"),
        "{found:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_calls_are_counted_and_written_when_their_minute_ends() {
    let clock = Clock::stepped("2026-03-01T12:00:00Z".parse().unwrap());
    let guarded = Guarded::with(LabOptions { clock: clock.clone(), ..LabOptions::default() }).await;
    let read = async |query: &str| {
        let path = format!("/v1/audit?action=request.refused{query}");
        facts(Answer::from_request(guarded.request("admin", Method::GET, &path)).await)
    };
    let first = Answer::from_request(guarded.lab.request(Method::GET, "/v1/jobs"))
        .await
        .problem(401, "unauthenticated");
    for _ in 0..4 {
        Answer::from_request(guarded.lab.request(Method::GET, "/v1/machines"))
            .await
            .problem(401, "unauthenticated");
    }
    let power = machine_path(MACHINE, "/power");
    let on = || json!({"action": "on"});
    let refused =
        guarded.request("viewer", Method::POST, &power).header("otter-reference", "run-7");
    Answer::from_request(refused.json(&on())).await.problem(403, "forbidden");
    let lease = json!({"select": {"name": MACHINE}, "ttl": "10m"});
    Answer::from_request(guarded.request("operator", Method::POST, "/v1/leases").json(&lease))
        .await
        .expect(201);
    Answer::from_request(guarded.request("runner", Method::POST, &power).json(&on()))
        .await
        .problem(423, "machine-leased");
    assert!(read("").await.is_empty(), "the minute is not over");

    clock.advance(Duration::from_mins(1));
    eventually("the minute to be written", async || !read("").await.is_empty()).await;
    let found = read("&until=2026-03-01T12:30:00Z&since=2026-03-01T12:00:00Z").await;
    assert_eq!(found.len(), 3, "{found:?}");
    let of = |code: &str| {
        found.iter().find(|fact| fact["code"] == code).unwrap_or_else(|| panic!("{code}"))
    };
    let unknown = of("unauthenticated");
    assert_eq!((&unknown["count"], &unknown["actor"]), (&json!(5), &Value::Null));
    assert_eq!(unknown["address"], "127.0.0.1");
    assert_eq!(unknown["request_id"], first.json["request_id"], "that of the first call");
    assert!(unknown["detail"].as_str().unwrap().starts_with("GET /v1/jobs"), "{unknown}");
    let role = of("forbidden");
    assert_eq!((&role["count"], &role["actor"]), (&json!(1), &json!("viewer")));
    assert_eq!(role["reference"], "run-7");
    let leased = of("machine-leased");
    assert_eq!((&leased["actor"], &leased["machine_name"]), (&json!("runner"), &json!(MACHINE)));
    assert!(leased["lease"].is_string(), "{leased}");
    assert!(found.iter().all(|fact| fact["outcome"] == "refused"));

    // A new minute begins a new entry, and the shutdown writes the pending entries.
    Answer::from_request(guarded.lab.request(Method::GET, "/v1/jobs"))
        .await
        .problem(401, "unauthenticated");
    clock.advance(Duration::from_mins(1));
    eventually("the next minute to be written", async || read("").await.len() == 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_trusted_proxy_a_fact_has_the_address_that_the_proxy_saw() {
    let settings = |settings: &mut Settings| {
        settings.http.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    };
    let clock = Clock::stepped("2026-03-01T12:00:00Z".parse().unwrap());
    let guarded =
        Guarded::with(LabOptions { settings, clock: clock.clone(), ..LabOptions::default() }).await;
    // The client sent the first address itself.
    let forwarded = |request: reqwest::RequestBuilder| {
        Answer::from_request(request.header("x-forwarded-for", "10.9.9.9, 203.0.113.9"))
    };
    let path = machine_path(MACHINE, "/quarantine");
    let set = guarded.request("operator", Method::PUT, &path).json(&json!({"reason": "its disk"}));
    forwarded(set).await.expect(200);
    forwarded(guarded.lab.request(Method::GET, "/v1/jobs")).await.problem(401, "unauthenticated");
    clock.advance(Duration::from_mins(1));
    let query = "/v1/audit?action=machine.quarantined,request.refused";
    let mut found = Vec::new();
    eventually("both facts", async || {
        found = facts(Answer::from_request(guarded.request("admin", Method::GET, query)).await);
        found.len() == 2
    })
    .await;
    assert_eq!(column(&found, "address"), ["203.0.113.9"; 2]);
    assert_eq!(column(&found, "actor"), ["operator", "null"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_admin_reads_the_audit() {
    let guarded = Guarded::start().await;
    for (role, said) in
        [("viewer", "a viewer"), ("runner", "a runner"), ("operator", "an operator")]
    {
        let read = guarded.request(role, Method::GET, "/v1/audit");
        let refused = Answer::from_request(read).await.problem(403, "forbidden");
        let expected = format!("{role} is {said}, and this operation requires an admin:");
        assert!(refused.str("detail").starts_with(&expected), "{}", refused.text);
    }
    let tokens =
        guarded.request("admin", Method::GET, "/v1/audit?action=token.created,token.revoked");
    let found = facts(Answer::from_request(tokens).await);
    assert_eq!(column(&found, "actor"), ["otter token"; 6]);
    assert_eq!(
        column(&found, "detail"),
        [
            "viewer, viewer",
            "runner, runner",
            "operator, operator",
            "admin, admin",
            "revoked, admin",
            "revoked, admin"
        ]
    );
}

#[tokio::test]
async fn the_audit_is_filtered_and_paged() {
    let lab = Lab::start().await;
    for (name, reference) in [(MACHINE, "a"), ("qubes-4.3-nightly", "b"), (MACHINE, "c")] {
        let reference = [("otter-reference", reference)];
        let path = machine_path(name, "/power?wait=15s");
        lab.post_with(&path, json!({"action": "on"}), &reference).await.expect(200);
    }
    let id = lab.machine(MACHINE).await["id"].as_str().unwrap().to_owned();
    let references = async |query: &str| {
        let found = audit(&lab, query).await;
        column(&found, "reference").into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(references("action=job.ended").await, ["a", "b", "c"]);
    assert_eq!(references(&format!("action=job.ended&machine={id}")).await, ["a", "c"]);
    assert_eq!(references(&format!("action=job.ended&machine=name:{MACHINE}")).await, ["a", "c"]);
    assert_eq!(references("reference=b").await, ["b", "b", "b"]);
    assert_eq!(references("outcome=queued,running&reference=c").await, ["c", "c"]);
    assert_eq!(references("actor=anonymous").await.len(), 9);
    for nothing in
        ["actor=ci", "since=2100-01-01T00:00:00Z", "until=2020-01-01T00:00:00Z", "outcome=unknown"]
    {
        assert!(audit(&lab, nothing).await.is_empty(), "{nothing}");
    }
    let whole = lab.get("/v1/audit").await.expect(200);
    assert_eq!((whole.items("id").len(), &whole.json["next"]), (9, &Value::Null));
    assert!(whole.json["version"].is_string());
    let times = whole.json["items"].as_array().unwrap();
    let second = times[6]["at"].as_str().unwrap();
    assert!(audit(&lab, &format!("since={}", second.replace('+', "%2B"))).await.len() >= 7);

    let mut seen: Vec<String> = Vec::new();
    let mut path = "/v1/audit?limit=4".to_owned();
    loop {
        let page = lab.get(&path).await.expect(200);
        seen.extend(page.items("id").into_iter().map(str::to_owned));
        let Some(next) = page.json["next"].as_str() else { break };
        // New entries do not shift the pages.
        lab.power_and_wait("ci-runner-1", "reset").await;
        path = format!("/v1/audit?limit=4&cursor={next}");
    }
    assert_eq!(seen, whole.items("id"));
}

#[tokio::test]
async fn a_cursor_belongs_to_the_filters_that_it_was_made_for() {
    let lab = Lab::start().await;
    lab.power_and_wait(MACHINE, "on").await;
    let first = lab.get("/v1/audit?action=job.accepted,job.ended&limit=1").await.expect(200);
    let next = first.str("next");
    // The size of the page, the order of the filters and their encoding do not matter.
    for same in ["action=job.accepted,job.ended", "limit=5&action=job.accepted%2Cjob.ended"] {
        let page = lab.get(&format!("/v1/audit?{same}&cursor={next}")).await.expect(200);
        assert_eq!(page.items("action"), ["job.accepted"]);
    }
    for other in ["", "action=job.accepted", "action=job.accepted,job.ended&actor=anonymous"] {
        let refused = lab.get(&format!("/v1/audit?{other}&cursor={next}")).await;
        let refused = refused.problem(400, "invalid-cursor").points_at("cursor", "invalid-cursor");
        assert!(refused.str("detail").contains("filters"), "{}", refused.text);
    }
}

#[tokio::test]
async fn invalid_filters_are_refused() {
    let lab = Lab::start().await;
    for (query, place, code) in [
        ("action=job.deleted", "action", "not-one-of"),
        ("outcome=good", "outcome", "not-one-of"),
        ("since=yesterday", "since", "not-a-time"),
        ("until=2026-03-01", "until", "not-a-time"),
        ("job=7", "job", "not-an-id"),
        ("lease=x", "lease", "not-an-id"),
        ("actor=", "actor", "empty"),
        ("machine=", "machine", "empty"),
        ("reference=", "reference", "empty"),
        ("limit=0", "limit", "out-of-range"),
    ] {
        let answer = lab.get(&format!("/v1/audit?{query}")).await;
        answer.problem(400, "invalid-request").points_at(place, code);
    }
    for cursor in ["", "x", "7", "audit_", "audit_+7", "audit_07"] {
        lab.get(&format!("/v1/audit?cursor={cursor}")).await.problem(400, "invalid-cursor");
    }
    lab.get("/v1/audit?user=ci").await.problem(400, "unknown-parameter");
    for machine in ["missing", "name:missing"] {
        lab.get(&format!("/v1/audit?machine={machine}")).await.problem(404, "not-found");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn old_entries_and_too_many_bytes_are_deleted() {
    let clock = Clock::stepped("2026-03-01T12:00:00Z".parse().unwrap());
    let settings = |settings: &mut Settings| settings.retention.audit.max_bytes = 20_000;
    let lab =
        Lab::with_options(LabOptions { clock: clock.clone(), settings, ..LabOptions::default() })
            .await;
    let path = machine_path(MACHINE, "/quarantine");
    let set = async |number: usize| {
        let body = json!({"reason": format!("{number} {}", "x".repeat(500))});
        Answer::from_request(lab.request(Method::PUT, &path).json(&body)).await.expect(200);
    };
    for number in 0..40 {
        set(number).await;
    }
    let kept = async || audit(&lab, "action=machine.quarantined").await;
    assert_eq!(kept().await.len(), 40);
    clock.advance(Duration::from_mins(1));
    eventually("the oldest to go", async || kept().await.len() < 40).await;
    let left = kept().await;
    assert!((10..25).contains(&left.len()), "{}", left.len());
    assert!(
        left.last().unwrap()["detail"].as_str().unwrap().starts_with("39 "),
        "the newest entries stay"
    );
    clock.advance(Duration::from_hours(24 * 366));
    eventually("the old ones to go", async || kept().await.len() <= 1).await;
    assert_eq!(audit(&lab, "").await.len(), 1, "the newest entry stays, so that ids continue");
}
