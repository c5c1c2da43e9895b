//! Tokens that are restricted to some machines: other machines are invisible to them.

use otter::app::Settings;
use otter::domain::access::{Role, TokenLimits};
use otter::domain::pool::{Pool, Pools};
use otter::domain::scope::Scope;
use reqwest::Method;
use serde_json::{Value, json};

use super::problem_codes::call::Operation;
use super::tokens::Guarded;
use crate::harness::{Answer, EventStream, Lab, LabOptions, encode, eventually, machine_path};

const STAGING: &str = "qubes-4.2-sdw-staging";
const RUNNER: &str = "ci-runner-2";

async fn guarded() -> Guarded {
    let settings = |settings: &mut Settings| {
        let pool =
            |pattern: &str| Pool { machines: vec![pattern.parse().unwrap()], ..Pool::default() };
        settings.pools = Pools(
            [("qubes".to_owned(), pool("qubes-*")), ("runners".to_owned(), pool("ci-runner-*"))]
                .into(),
        );
    };
    Guarded::with(LabOptions { settings, ..LabOptions::default() }).await
}

fn machines(pattern: &str) -> Scope {
    Scope::new(vec![pattern.to_owned()], vec![])
}

fn pool(name: &str) -> Scope {
    Scope::new(vec![], vec![name.to_owned()])
}

/// A restricted caller.
struct Restricted<'a> {
    lab: &'a Lab,
    token: String,
}

impl<'a> Restricted<'a> {
    async fn new(guarded: &'a Guarded, name: &str, role: Role, scope: Scope) -> Self {
        let token = guarded.restricted(name, role, scope, TokenLimits::default()).await;
        Self { lab: &guarded.lab, token }
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> Answer {
        let request = self.lab.request(method, path).bearer_auth(&self.token);
        Answer::from_request(if body.is_null() { request } else { request.json(&body) }).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, Value::Null).await
    }

    async fn stream(&self, query: &str) -> EventStream {
        EventStream::open_with(
            self.lab,
            query,
            &[("authorization", &format!("Bearer {}", self.token))],
        )
        .await
    }
}

/// An answer without the parts that differ by request: the request's id and the names that the
/// caller wrote.
fn without(answer: &Answer, named: &str) -> (u16, String) {
    let mut problem = answer.json.clone();
    if let Some(problem) = problem.as_object_mut() {
        problem.remove("request_id");
    }
    (answer.status, problem.to_string().replace(named, "…"))
}

async fn job_on(guarded: &Guarded, name: &str) -> String {
    let request = guarded.request("operator", Method::POST, &machine_path(name, "/power?wait=20s"));
    let job = Answer::from_request(request.json(&json!({"action": "off"}))).await.expect(200);
    job.str("id").to_owned()
}

async fn lease_on(guarded: &Guarded, name: &str) -> String {
    let request = guarded.request("operator", Method::POST, "/v1/leases");
    let lease =
        Answer::from_request(request.json(&json!({"select": {"name": name}, "ttl": "30m"})))
            .await
            .expect(201);
    lease.str("id").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_treats_a_machine_out_of_scope_like_an_unknown_one() {
    let guarded = guarded().await;
    let document = guarded.lab.get("/openapi.json").await.expect(200).json;
    let jobs = [job_on(&guarded, STAGING).await, job_on(&guarded, RUNNER).await];
    let leases = [lease_on(&guarded, STAGING).await, lease_on(&guarded, RUNNER).await];
    let nothing = "01936f5e-8c00-7000-8000-000000000002".to_owned();
    let qubes = Restricted::new(&guarded, "qubes", Role::Operator, machines("qubes-*")).await;
    let runners = Restricted::new(&guarded, "runners", Role::Operator, pool("runners")).await;
    let mut held = 0;
    for (operation, _) in Operation::all(&document) {
        let path = operation.path();
        let by_name = [
            "kill_machine",
            "create_lease",
            "find_machine",
            "list_artifacts",
            "list_jobs",
            "list_leases",
            "stream_events",
        ];
        // Objects in the scope of each caller, objects outside of it, and objects that do not
        // exist.
        let subjects = if path.contains("{job}") {
            [jobs[0].clone(), jobs[1].clone(), nothing.clone()]
        } else if path.contains("{lease}") {
            [leases[0].clone(), leases[1].clone(), nothing.clone()]
        } else if path.contains("{machine}") || by_name.contains(&operation.id.as_str()) {
            [STAGING.to_owned(), RUNNER.to_owned(), "xi-runner-2".to_owned()]
        } else {
            continue;
        };
        let [own, other, missing] = &subjects;
        for (caller, own, other) in [(&qubes, own, other), (&runners, other, own)] {
            let ask = async |subject: &str| {
                let call = operation
                    .call(subject)
                    .header("authorization", format!("Bearer {}", caller.token));
                let call = if path.ends_with("/wait") { call.parameter("wait=0s") } else { call };
                let call =
                    if operation.id == "stream_events" { call.parameter("wait=0s") } else { call };
                call.send(caller.lab).await
            };
            let (refused, unknown) = (ask(other).await, ask(missing).await);
            assert_eq!(
                without(&refused, other),
                without(&unknown, missing),
                "{} of {other}",
                operation.id
            );
            assert!(matches!(refused.status, 404 | 409), "{}: {}", operation.id, refused.text);
            if operation.id != "stream_events" {
                let shown = ask(own).await;
                assert_ne!(
                    without(&shown, own),
                    without(&unknown, missing),
                    "{} of {own}",
                    operation.id
                );
            }
            held += 1;
        }
    }
    assert!(held > 40, "{held} pairs of operation and caller");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_reference_reveals_a_machine_out_of_scope() {
    let guarded = guarded().await;
    let qubes = Restricted::new(&guarded, "qubes", Role::Viewer, machines("qubes-*")).await;
    for (other, missing) in [
        ("32", "92"),
        ("name:ci-runner-2", "name:ci-runner-9"),
        // The name is written like an id. otter would propose a visible machine of this name.
        ("ci-runner-2", "ci-runner-9"),
        ("mac:00:50:56:3f:00:32", "mac:00:50:56:3f:00:92"),
    ] {
        for rest in ["", "/snapshots", "/snapshots/kickstart"] {
            let refused = qubes.get(&format!("/v1/machines/{other}{rest}")).await;
            let unknown =
                qubes.get(&format!("/v1/machines/{missing}{rest}")).await.problem(404, "not-found");
            assert_eq!(without(&refused, other), without(&unknown, missing));
        }
    }
    // Both machines of a name are in one scope, and only candidates of the scope are shown.
    let one = Scope::new(vec!["qubes-scratch".to_owned()], vec![]);
    let scratch = Restricted::new(&guarded, "scratch", Role::Viewer, one).await;
    let found = scratch
        .get("/v1/machines/find?name=qubes&unique=true")
        .await
        .problem(409, "ambiguous-name");
    assert_eq!(found.json["candidates"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_counts_and_finds_show_only_the_scope() {
    let guarded = guarded().await;
    for name in [STAGING, RUNNER] {
        job_on(&guarded, name).await;
        lease_on(&guarded, name).await;
    }
    let runners = Restricted::new(&guarded, "runners", Role::Runner, machines("ci-runner-*")).await;
    let names = runners.get("/v1/machines").await.expect(200).items("name").join(" ");
    assert_eq!(names, "ci-runner-1 ci-runner-2 ci-runner-3");
    let found = runners.get("/v1/machines/find?name=-").await.expect(200);
    assert_eq!((found.str("name"), found.header("otter-matches")), ("ci-runner-1", Some("3")));
    for list in ["/v1/jobs", "/v1/leases", "/v1/jobs?limit=1", "/v1/leases?limit=1"] {
        let page = runners.get(list).await.expect(200);
        assert_eq!(
            (page.items("machine_name"), &page.json["next"]),
            (vec![RUNNER], &Value::Null),
            "{list}"
        );
    }
    let pools = runners.get("/v1/pools").await.expect(200);
    assert_eq!(pools.items("name"), ["runners"]);
    assert_eq!(
        (&pools.json["items"][0]["machine_count"], &pools.json["items"][0]["held_count"]),
        (&json!(3), &json!(1))
    );
    let about = runners.get("/v1/about").await.expect(200).json;
    assert_eq!(
        (&about["inventory"]["machine_count"], &about["self_machine"]),
        (&json!(3), &Value::Null)
    );
    let count = |answer: &Answer| -> u64 {
        let items = answer.json["items"].as_array().unwrap();
        items.iter().map(|datastore| datastore["machine_count"].as_u64().unwrap()).sum()
    };
    let all = Answer::from_request(guarded.request("viewer", Method::GET, "/v1/datastores"))
        .await
        .expect(200);
    let visible = runners.get("/v1/datastores").await.expect(200);
    assert!(
        0 < count(&visible) && count(&visible) < count(&all),
        "{} of {}",
        count(&visible),
        count(&all)
    );
    let metrics = runners.lab.request(Method::GET, "/metrics").bearer_auth(&runners.token);
    let refused = metrics.send().await.unwrap();
    assert_eq!(refused.status().as_u16(), 403);
    // A cursor behind a lease out of scope is like one behind a lease that is forgotten.
    lease_on(&guarded, "qubes-4.3-nightly").await;
    let page = Answer::from_request(guarded.request("viewer", Method::GET, "/v1/leases?limit=1"))
        .await
        .expect(200);
    assert_eq!(page.items("machine_name"), ["qubes-4.3-nightly"]);
    let page = runners.get(&format!("/v1/leases?cursor={}", page.str("next"))).await.expect(200);
    assert_eq!(page.json["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_gets_no_machine_out_of_its_scope_and_waits_for_one_in_it() {
    let guarded = guarded().await;
    let one = Restricted::new(&guarded, "one", Role::Runner, machines(STAGING)).await;
    let ask = |body: Value| one.call(Method::POST, "/v1/leases", body);
    let any = json!({"select": {"name": "-"}, "ttl": "30m"});
    let first = ask(any.clone()).await.expect(201).json;
    assert_eq!(first["machine_name"], STAGING);
    ask(any.clone()).await.problem(409, "no-free-machine");
    for (part, other, missing) in [
        ("machine", "32", "92"),
        ("pool", "runners", "walkers"),
        ("name", "ci-runner", "ci-walker"),
    ] {
        let body = |text: &str| json!({"select": {(part): text}, "ttl": "30m", "queue_for": "10m"});
        let (refused, unknown) = (ask(body(other)).await, ask(body(missing)).await);
        let refused = refused.problem(409, "no-free-machine");
        assert_eq!(without(&refused, other), without(&unknown, missing), "{part}");
    }
    let queued = json!({"select": {"name": "-"}, "ttl": "30m", "queue_for": "10m"});
    // Another caller's lease is queued first, but the position counts only leases that the caller
    // sees.
    let held = json!({"select": {"name": STAGING}, "ttl": "30m", "queue_for": "10m"});
    let before =
        Answer::from_request(guarded.request("operator", Method::POST, "/v1/leases").json(&held))
            .await;
    let before = before.expect(202).json;
    let waiting = ask(queued).await.expect(202).json;
    assert_eq!((&before["position"], &waiting["position"]), (&json!(0), &json!(0)));
    assert_eq!(
        one.get("/v1/leases?state=queued").await.expect(200).items("id"),
        [waiting["id"].as_str().unwrap()]
    );
    let unseen = format!("/v1/leases/{}", before["id"].as_str().unwrap());
    one.get(&unseen).await.problem(404, "not-found");
    Answer::from_request(guarded.request("operator", Method::DELETE, &unseen)).await.expect(200);
    let path = format!("/v1/leases/{}", waiting["id"].as_str().unwrap());
    assert_eq!(
        one.get(&path).await.expect(200).json["state"],
        "queued",
        "although other machines are free"
    );
    let shown = format!("{}.{}", first["id"].as_str().unwrap(), first["secret"].as_str().unwrap());
    let end = one
        .lab
        .request(Method::DELETE, &format!("/v1/leases/{}?wait=20s", first["id"].as_str().unwrap()));
    Answer::from_request(end.bearer_auth(&one.token).header("otter-lease", shown))
        .await
        .expect(200);
    let granted = one.get(&format!("{path}/wait?wait=20s")).await.expect(200).json;
    assert_eq!(granted["machine_name"], STAGING);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_report_machines_that_leave_and_enter_the_scope() {
    let guarded = guarded().await;
    let runners = Restricted::new(&guarded, "runners", Role::Viewer, machines("ci-runner-*")).await;
    let rename = |id: &str, name: &str| {
        guarded
            .lab
            .control()
            .mutate(|world| name.clone_into(&mut world.machine_mut(id).unwrap().name));
    };
    let mut first = runners.stream("?initial=true").await;
    let events = first.until(|event| event.kind() == "synced").await;
    let machines: Vec<&Value> = events
        .iter()
        .filter(|event| event.kind() == "machine.changed")
        .map(|event| &event.json["id"])
        .collect();
    assert_eq!(machines, ["31", "32", "33"]);
    assert!(
        !events
            .iter()
            .any(|event| event.kind() == "snapshot.changed"
                && event.json["object"]["machine"] == "16")
    );
    let since = events.last().unwrap().version().to_owned();

    rename("16", "qubes-renamed");
    rename("32", "hidden");
    let events = first.until(|event| event.is_about("machine.removed", "32")).await;
    assert!(events.iter().any(|event| event.kind() == "snapshot.removed"), "{events:#?}");
    rename("16", "ci-runner-16");
    let later_events = first.until(|event| event.kind() == "snapshot.changed").await;
    assert!(
        later_events.iter().any(|event| event.is_about("machine.changed", "16")),
        "{later_events:#?}"
    );
    assert!(!events.iter().any(|event| event.json["id"] == "16"), "{events:#?}");
    runners.get("/v1/machines/32").await.problem(404, "not-found");
    runners.get("/v1/machines/16").await.expect(200);

    // A client that reconnects gets the same events.
    let mut again = runners.stream(&format!("?since={since}")).await;
    again.until(|event| event.is_about("machine.removed", "32")).await;

    // A client also gets the removal of a machine that the host removes.
    guarded.lab.control().mutate(|world| world.remove_machine("16"));
    first.until(|event| event.is_about("machine.removed", "16")).await;
    // An unrestricted client gets only changes.
    let unrestricted = ("authorization", format!("Bearer {}", guarded.token("viewer")));
    let mut all = EventStream::open_with(
        &guarded.lab,
        &format!("?since={since}&wait=0s"),
        &[(unrestricted.0, &unrestricted.1)],
    )
    .await;
    let events = all.until(|event| event.kind() == "bye").await;
    assert!(!events.iter().any(|event| event.is_about("machine.removed", "32")), "{events:#?}");
    assert!(events.iter().any(|event| event.is_about("machine.removed", "16")), "{events:#?}");
}

/// The changes of datastores in a stream, up to a change of this machine, which is made now.
async fn datastores_until(lab: &Lab, stream: &mut EventStream, machine: &str) -> Vec<Value> {
    lab.annotate(machine, &format!("marked {}", stream.version));
    let events = stream.until(|event| event.is_about("machine.changed", machine)).await;
    events.last().unwrap().version().clone_into(&mut stream.version);
    let changed = events.iter().filter(|event| event.kind() == "datastore.changed");
    changed.map(|event| event.json["object"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_reports_a_datastore_only_if_the_caller_sees_it_changed() {
    let guarded = guarded().await;
    let lab = &guarded.lab;
    let runners = Restricted::new(&guarded, "runners", Role::Viewer, machines("ci-runner-*")).await;
    let bearer = format!("Bearer {}", guarded.token("viewer"));
    let mut all = EventStream::open_with(lab, "", &[("authorization", &bearer)]).await;
    let mut own = runners.stream("").await;
    let datastore = lab.control().mutate(|world| world.machine("32").unwrap().datastore.clone());
    let shown = async || {
        let path = format!("/v1/datastores/{}", encode(&datastore));
        runners.get(&path).await.expect(200).json["machine_count"].as_u64().unwrap()
    };
    let count = |datastores: &[Value]| {
        datastores.last().map(|datastore| datastore["machine_count"].as_u64().unwrap())
    };
    let before = shown().await;

    // A machine out of the scope is added and removed.
    let mut guest = lab.control().mutate(|world| world.machine("16").unwrap().clone());
    "90".clone_into(&mut guest.id);
    "qubes-guest".clone_into(&mut guest.name);
    lab.control().mutate(|world| world.add_machine(guest));
    all.until(|event| event.kind() == "datastore.changed").await;
    lab.control().mutate(|world| world.remove_machine("90"));
    all.until(|event| event.kind() == "datastore.changed").await;
    assert_eq!(datastores_until(lab, &mut own, "31").await, Vec::<Value>::new());
    // All callers see the properties of a datastore.
    lab.control().mutate(|world| world.datastore_mut(&datastore).unwrap().free_bytes = 7);
    let events = own.until(|event| event.kind() == "datastore.changed").await;
    assert_eq!(events.last().unwrap().json["object"]["free_bytes"], 7);

    // A machine leaves the scope and comes back, is removed, and is added.
    let rename = |name: &str| {
        lab.control().mutate(|world| name.clone_into(&mut world.machine_mut("32").unwrap().name));
    };
    rename("hidden");
    own.until(|event| event.is_about("machine.removed", "32")).await;
    assert_eq!(count(&datastores_until(lab, &mut own, "31").await), Some(before - 1));
    rename("ci-runner-2");
    own.until(|event| event.is_about("machine.changed", "32")).await;
    assert_eq!(count(&datastores_until(lab, &mut own, "31").await), Some(before));
    let removed = lab.control().mutate(|world| world.remove_machine("32")).unwrap();
    own.until(|event| event.is_about("machine.removed", "32")).await;
    assert_eq!(count(&datastores_until(lab, &mut own, "31").await), Some(before - 1));
    lab.control().mutate(|world| world.add_machine(removed));
    own.until(|event| event.is_about("machine.changed", "32")).await;
    assert_eq!(count(&datastores_until(lab, &mut own, "31").await), Some(before));
    assert_eq!(shown().await, before);
    // A stream of one machine reports no datastore.
    let mut one = runners.stream("?machine=32").await;
    rename("hidden");
    let events = one.until(|event| event.is_about("machine.removed", "32")).await;
    assert!(!events.iter().any(|event| event.kind() == "datastore.changed"), "{events:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_shows_no_job_of_a_machine_that_left_the_scope() {
    let guarded = guarded().await;
    let runners =
        Restricted::new(&guarded, "runners", Role::Operator, machines("ci-runner-*")).await;
    let ask = |path: &'static str| {
        let request = runners.lab.request(Method::POST, path).bearer_auth(&runners.token);
        Answer::from_request(request.header("idempotency-key", "k").json(&json!({"action": "off"})))
    };
    let job = ask("/v1/machines/32/power?wait=20s").await.expect(200).json;
    let path = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
    runners.get(&path).await.expect(200);
    guarded
        .lab
        .control()
        .mutate(|world| "hidden".clone_into(&mut world.machine_mut("32").unwrap().name));
    eventually("the machine to leave the scope", async || {
        runners.get("/v1/machines/32").await.status == 404
    })
    .await;
    ask("/v1/machines/32/power?wait=20s").await.problem(404, "not-found");
    for rest in ["", "/wait?wait=0s"] {
        runners.get(&format!("{path}{rest}")).await.problem(404, "not-found");
    }
    runners
        .call(Method::POST, &format!("{path}/cancel"), json!({}))
        .await
        .problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_has_no_more_leases_jobs_and_streams_than_its_limits_allow() {
    let guarded = guarded().await;
    let limits = TokenLimits { leases: Some(2), streams: Some(1), ..TokenLimits::default() };
    let token = guarded.restricted("few", Role::Operator, Scope::All, limits).await;
    let few = Restricted { lab: &guarded.lab, token };
    let ask = |name: &str| {
        let body = json!({"select": {"name": name}, "ttl": "30m", "queue_for": "10m"});
        few.call(Method::POST, "/v1/leases", body)
    };
    ask(STAGING).await.expect(201);
    ask(STAGING).await.expect(202);
    let refused = ask(STAGING).await.problem(429, "too-many-requests");
    assert!(
        refused.header("retry-after").is_some() && refused.str("detail").contains("2 open leases")
    );
    // The limit does not apply to another token.
    let body = json!({"select": {"name": STAGING}, "ttl": "30m", "queue_for": "10m"});
    let other = guarded.request("operator", Method::POST, "/v1/leases").json(&body);
    Answer::from_request(other).await.expect(202);

    let first = few.stream("").await;
    let second = few.lab.request(Method::GET, "/v1/events").bearer_auth(&few.token);
    let refused = Answer::from_request(second).await.problem(429, "too-many-requests");
    assert!(refused.header("retry-after").is_some());
    drop(first);
    eventually("the stream to be counted no more", async || {
        let again = few.lab.request(Method::GET, "/v1/events?wait=0s").bearer_auth(&few.token);
        again.send().await.unwrap().status().as_u16() == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_over_the_limit_of_requests_gets_retry_after() {
    let guarded = Guarded::start().await;
    let limits = TokenLimits { requests_per_second: Some(2), ..TokenLimits::default() };
    let token = guarded.restricted("few", Role::Viewer, Scope::All, limits).await;
    let few = Restricted { lab: &guarded.lab, token };
    let mut refused = None;
    eventually("a call over the limit", async || {
        refused = Some(few.get("/v1/about").await).filter(|answer| answer.status != 200);
        refused.is_some()
    })
    .await;
    let refused = refused.unwrap().problem(429, "too-many-requests");
    assert_eq!(refused.header("retry-after"), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_has_no_more_queued_leases_and_jobs_than_its_limits_allow() {
    let stepped = LabOptions { pace: otter::simulator::Pace::Stepped, ..LabOptions::default() };
    let guarded = Guarded::with(stepped).await;
    let limits =
        TokenLimits { queued_leases: Some(1), queued_jobs: Some(1), ..TokenLimits::default() };
    let token = guarded.restricted("few", Role::Operator, Scope::All, limits).await;
    let few = Restricted { lab: &guarded.lab, token };
    let on = |name: &str| {
        let path = machine_path(name, "/power");
        let few = &few;
        async move { few.call(Method::POST, &path, json!({"action": "on"})).await }
    };
    on(STAGING).await.expect(202);
    on(RUNNER).await.expect(202);
    on(STAGING).await.expect(202);
    let refused = on(RUNNER).await.problem(429, "queue-full");
    assert!(refused.str("detail").contains("1 queued jobs"), "{}", refused.text);
    // A job that waits for no other is not queued.
    on("qubes-4.3-nightly").await.expect(202);

    let body = json!({"select": {"machine": "21"}, "ttl": "30m", "queue_for": "10m"});
    let ask = || few.call(Method::POST, "/v1/leases", body.clone());
    ask().await.expect(201);
    ask().await.expect(202);
    let refused = ask().await.problem(429, "queue-full");
    assert!(
        refused.header("retry-after").is_some()
            && refused.str("detail").contains("1 queued leases")
    );
}
