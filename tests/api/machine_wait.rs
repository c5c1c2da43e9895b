//! `GET /v1/machines/{machine}/wait`

use serde_json::json;

use crate::harness::{Answer, Lab, machine_path, on_every_host};

on_every_host! {
    async fn a_wait_ends_at_the_power_state(lab: &Lab) {
        let here = machine_path(lab.machines.running, "/wait?until=power_state:on&wait=0");
        assert_eq!(lab.get(&here).await.expect(200).str("power_state"), "on");
        let there = machine_path(lab.machines.running, "/wait?until=power_state:off&wait=20s");
        let (waited, _) = tokio::join!(lab.get(&there), lab.start_power(lab.machines.running, "off"));
        let waited = waited.expect(200);
        assert_eq!((waited.str("power_state"), waited.header("otter-wait")), ("off", Some("20s")));
    }

    async fn a_condition_that_stays_false_times_out(lab: &Lab) {
        let path = machine_path(lab.machines.running, "/wait?until=power_state:off&wait=0");
        let problem = lab.get(&path).await.problem(504, "wait-timeout");
        assert_eq!((problem.str("machine_name"), problem.header("otter-wait")), (lab.machines.running, Some("0s")));
    }

    async fn a_machine_becomes_free_when_its_job_ends(lab: &Lab) {
        let job = lab.start_power(lab.machines.running, "off").await;
        let free = lab.get(&machine_path(lab.machines.running, "/wait?until=free&wait=20s")).await.expect(200);
        assert_eq!((&free.json["free"], &free.json["active_job"]), (&json!(true), &json!(null)));
        assert_eq!(lab.wait_for_end(&job).await["state"], "succeeded");
        lab.get(&machine_path(lab.machines.running, "/wait?until=no_job&wait=0")).await.expect(200);
        lab.get(&machine_path(lab.machines.running, "/wait?until=no_question&wait=0")).await.expect(200);
    }

    async fn a_machine_that_is_off_cannot_get_an_address(lab: &Lab) {
        lab.power_and_wait(lab.machines.running, "off").await;
        let problem = lab.get(&machine_path(lab.machines.running, "/wait?until=ip&wait=20s")).await;
        problem.problem(409, "invalid-power-state");
    }

    async fn unknown_conditions_are_refused(lab: &Lab) {
        for (query, place, code) in [
            ("", "until", "missing"),
            ("?until=", "until", "not-one-of"),
            ("?until=power_state", "until", "not-one-of"),
            ("?until=power_state:ON", "until", "not-one-of"),
            ("?until=ip&cidr=ten", "cidr", "not-a-network"),
            ("?until=ip&cidr=10.0.0.0/33", "cidr", "not-a-network"),
            ("?until=tools&cidr=10.0.0.0/8", "cidr", "not-with-this"),
            ("?until=free&wait=-1", "wait", "not-a-duration"),
            ("?until=free&wait=soon", "wait", "not-a-duration"),
        ] {
            let problem = lab.get(&machine_path(lab.machines.running, &format!("/wait{query}"))).await;
            problem.problem(400, "invalid-request").points_at(place, code);
        }
        lab.get(&machine_path("none-such", "/wait?until=free")).await.problem(404, "not-found");
    }
}

/// The following tests are only for otter's simulator, which has VMware Tools, questions and
/// removals of machines.
#[tokio::test]
async fn an_address_appears_after_a_start_and_cidr_selects_it() {
    let lab = Lab::start().await;
    let job = lab.start_power("ci-runner-2", "on").await;
    let path = "/v1/machines/32/wait?until=ip&cidr=10.0.0.0/8&wait=15s";
    let machine = lab.get(path).await.expect(200);
    assert_eq!(machine.str("ip_address"), "10.0.0.32");
    lab.get("/v1/machines/32/wait?until=tools&wait=15s").await.expect(200);
    // The machine has a link-local address, which does not count.
    for other in ["192.168.0.0/16", "fe80::/10"] {
        let path = format!("/v1/machines/32/wait?until=ip&cidr={other}&wait=0");
        let late = lab.get(&path).await.problem(504, "wait-timeout");
        assert!(late.str("detail").contains(&format!("ip in {other} ")), "{}", late.text);
    }
    lab.wait_for_end(&job).await;
    lab.power_and_wait("ci-runner-2", "off").await;
    let off = lab.machine("ci-runner-2").await;
    assert_eq!((&off["ip_address"], &off["ip_addresses"]), (&json!(null), &json!([])));
}

#[tokio::test]
async fn a_wait_for_an_address_ends_at_one_that_counts() {
    let lab = Lab::stepped().await;
    // The tools report `preferred` as their preferred address, and `others` on the network card.
    // 172.17.0.1 is the address of a bridge in the guest.
    let report = |preferred: &str, others: &[&str]| {
        lab.control().mutate(|world| {
            let machine = world.machine_mut("31").unwrap();
            machine.guest.reported_address = Some(preferred.to_owned());
            machine.guest.more_addresses =
                others.iter().map(|address| (*address).to_owned()).collect();
            preferred.clone_into(&mut machine.annotation);
        });
    };
    for (preferred, others) in [
        ("169.254.7.9", &["fe80::250:56ff:fe3f:31"][..]),
        ("fe80::250:56ff:fe3f:31", &[]),
        ("2002:a00:1f::1", &["169.254.7.9"]),
        ("2001:0:53aa:64c::1", &[]),
        ("127.0.0.1", &["::1", "ff02::1", "0.0.0.0"]),
        ("172.17.0.1", &["fe80::250:56ff:fe3f:31"]),
    ] {
        report(preferred, others);
        lab.wait_for_field("31", "annotation", json!(preferred)).await;
        let machine = lab.machine("ci-runner-1").await;
        assert_eq!(machine["ip_address"], json!(null), "{preferred}");
        assert_eq!(machine["ip_addresses"], json!([]), "{preferred}");
        let path = "/v1/machines/31/wait?until=ip&wait=0";
        lab.get(path).await.problem(504, "wait-timeout");
        let path = "/v1/machines/31/wait?until=ip&cidr=172.16.0.0/12&wait=0";
        lab.get(path).await.problem(504, "wait-timeout");
    }
    let (waited, ()) = tokio::join!(lab.get("/v1/machines/31/wait?until=ip&wait=15s"), async {
        report("172.17.0.1", &["169.254.7.9", "10.0.0.31", "fd00::31"]);
    });
    let waited = waited.expect(200);
    assert_eq!(waited.str("ip_address"), "10.0.0.31");
    assert_eq!(waited.json["ip_addresses"], json!(["10.0.0.31", "fd00::31"]));
    report("fd00::31", &["10.0.0.31"]);
    lab.wait_for_field("31", "ip_addresses", json!(["fd00::31", "10.0.0.31"])).await;
}

#[tokio::test]
async fn a_wait_ends_at_a_question_and_at_its_answer() {
    let lab = Lab::start().await;
    let asked = lab.get("/v1/machines/51/wait?until=question&wait=0").await.expect(200);
    assert_eq!(asked.json["question"]["id"], "19");
    let (gone, answered) =
        tokio::join!(lab.get("/v1/machines/51/wait?until=no_question&wait=10s"), async {
            lab.control().mutate(|world| world.answer("51", "19", "0"))
        });
    answered.unwrap();
    assert_eq!(gone.expect(200).json["question"], json!(null));
}

#[tokio::test]
async fn the_removal_of_the_machine_ends_the_wait() {
    let lab = Lab::stepped().await;
    // The call must be waiting before the machine is removed.
    let path = "/v1/machines/31/wait?until=power_state:suspended&wait=20s";
    let waiting = tokio::spawn(Answer::from_request(lab.request(reqwest::Method::GET, path)));
    let probe = lab.get("/v1/machines/31/wait?until=power_state:suspended&wait=1s").await;
    probe.problem(504, "wait-timeout");
    lab.control().mutate(|world| world.remove_machine("31"));
    let problem = waiting.await.unwrap().problem(409, "machine-gone");
    assert_eq!((problem.str("machine"), problem.str("machine_name")), ("31", "ci-runner-1"));
}

#[tokio::test]
async fn a_wait_follows_the_machine_and_not_its_name() {
    let lab = Lab::start().await;
    let path = "/v1/machines/name:ci-runner-1/wait?until=power_state:off&wait=20s";
    let waiting = tokio::spawn(Answer::from_request(lab.request(reqwest::Method::GET, path)));
    let probe = lab.get("/v1/machines/31/wait?until=power_state:off&wait=1s").await;
    probe.problem(504, "wait-timeout");
    lab.control().mutate(|world| world.machine_mut("31").unwrap().name = "renamed".to_owned());
    lab.wait_for_field("31", "name", json!("renamed")).await;
    lab.power_and_wait("renamed", "off").await;
    assert_eq!(waiting.await.unwrap().expect(200).str("name"), "renamed");
}
