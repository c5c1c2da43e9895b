//! Lists and reads of machines.

use reqwest::Method;
use serde_json::json;

use crate::harness::{Answer, Lab, encode, machine_path, on_every_host};

on_every_host! {
    /// All machines, in order, without a limit.
    async fn the_list_is_complete_and_sorted(lab: &Lab) {
        let list = lab.get("/v1/machines").await.expect(200);
        let names = list.items("name");
        assert_eq!(names.len(), lab.machines.count);
        let keys: Vec<(String, &str)> =
            names.iter().map(|name| name.to_lowercase()).zip(list.items("id")).collect();
        assert!(keys.is_sorted(), "{keys:?}");
        assert!(list.json["next"].is_null());
        assert_eq!(list.str("version"), list.header("otter-version").unwrap());
    }

    async fn pages_neither_skip_nor_repeat_machines(lab: &Lab) {
        let whole = lab.get("/v1/machines").await.expect(200);
        let mut seen: Vec<String> = Vec::new();
        let mut path = "/v1/machines?limit=3".to_owned();
        loop {
            let page = lab.get(&path).await.expect(200);
            assert!(page.items("id").len() <= 3);
            seen.extend(page.items("id").into_iter().map(str::to_owned));
            let Some(next) = page.json["next"].as_str() else { break };
            path = format!("/v1/machines?limit=3&cursor={next}");
        }
        assert_eq!(seen, whole.items("id"));
    }

    async fn a_page_that_ends_with_the_list_has_no_next(lab: &Lab) {
        let page = lab.get(&format!("/v1/machines?limit={}", lab.machines.count)).await.expect(200);
        assert_eq!(page.items("id").len(), lab.machines.count);
        assert!(page.json["next"].is_null());
    }

    async fn a_part_of_a_name_matches_in_any_case(lab: &Lab) {
        let all = lab.get("/v1/machines").await.expect(200);
        let part = lab.machines.name_part.to_lowercase();
        let expected: Vec<&str> =
            all.items("name").into_iter().filter(|name| name.to_lowercase().contains(&part)).collect();
        let list = lab.get(&format!("/v1/machines?name={}", lab.machines.name_part)).await.expect(200);
        assert!(expected.len() > 2);
        assert_eq!(list.items("name"), expected);
    }

    async fn a_machine_must_match_all_filters(lab: &Lab) {
        let running = lab.get("/v1/machines?power_state=on").await.expect(200);
        assert!(running.items("name").contains(&lab.machines.running));
        assert!(running.json["items"].as_array().unwrap().iter().all(|machine| machine["power_state"] == "on"));
        let mac = lab.get(&format!("/v1/machines?mac={}", lab.machines.running_mac)).await.expect(200);
        assert_eq!(mac.items("name"), [lab.machines.running]);
        let none = lab.get(&format!("/v1/machines?mac={}&power_state=off", lab.machines.running_mac)).await;
        assert!(none.expect(200).items("name").is_empty());
        let free = lab.get("/v1/machines?free=true&power_state=on").await.expect(200);
        assert!(free.items("name").is_empty(), "what runs is not free");
        let pool = lab.get("/v1/machines?pool=none-such").await;
        pool.problem(400, "invalid-request").points_at("pool", "not-one-of");
    }

    async fn a_machine_is_free_if_it_has_no_obstacle(lab: &Lab) {
        let all = lab.get("/v1/machines").await.expect(200);
        for machine in all.json["items"].as_array().unwrap() {
            let reasons = machine["not_free_because"].as_array().unwrap();
            assert_eq!(machine["free"], reasons.is_empty(), "{machine}");
        }
        lab.power_and_wait(lab.machines.running, "off").await;
        let free = lab.get("/v1/machines?free=true").await.expect(200);
        assert!(free.items("name").contains(&lab.machines.running));
        let taken = lab.get("/v1/machines?free=false").await.expect(200);
        assert_eq!(free.items("id").len() + taken.items("id").len(), lab.machines.count);
    }

    async fn a_machine_is_read_by_id_name_uuid_and_mac(lab: &Lab) {
        let expected = lab.machine(lab.machines.running).await;
        let text = |field: &str| expected[field].as_str().unwrap().to_owned();
        for reference in [
            text("id"),
            format!("uuid:{}", text("uuid")),
            format!("uuid:{}", text("uuid").to_uppercase()),
            format!("uuid:{}", text("bios_uuid")),
            format!("mac:{}", lab.machines.running_mac),
            format!("mac:{}", lab.machines.running_mac.replace(':', "-").to_uppercase()),
        ] {
            let plain = lab.get(&format!("/v1/machines/{reference}")).await.expect(200);
            assert_eq!(plain.json["id"], expected["id"], "{reference}");
            let encoded = lab.get(&format!("/v1/machines/{}", encode(&reference))).await.expect(200);
            assert_eq!(encoded.json["id"], expected["id"], "{reference}");
        }
    }

    async fn exact_names_are_case_sensitive(lab: &Lab) {
        let name = lab.machines.running;
        let swapped = if name.to_uppercase() == name { name.to_lowercase() } else { name.to_uppercase() };
        lab.get(&machine_path(&swapped, "")).await.problem(404, "not-found");
        lab.get(&machine_path(&name[..name.len() - 1], "")).await.problem(404, "not-found");
        if lab.machine(name).await["id"] == name {
            // In the in-memory host, ids are names.
            return;
        }
        let plain = lab.get(&format!("/v1/machines/{}", encode(name))).await.problem(404, "not-found");
        let hint = format!("one is called so: write \"name:{name}\".");
        assert!(plain.json["detail"].as_str().unwrap().ends_with(&hint), "{}", plain.json);
    }

    async fn raw_properties_are_read_from_the_host(lab: &Lab) {
        let path = machine_path(lab.machines.running, "/properties?path=runtime.powerState&path=config.version");
        let properties = lab.get(&path).await.expect(200);
        assert_eq!(properties.json["runtime.powerState"], "poweredOn");
        assert!(properties.json["config.version"].is_string());
        let path = machine_path(lab.machines.running, "/properties?path=config.nonsense");
        lab.get(&path).await.problem(400, "invalid-request").points_at("path", "unknown-property");
        let path = machine_path(lab.machines.running, "/properties");
        lab.get(&path).await.problem(400, "invalid-request").points_at("path", "empty");
    }
}

/// Only on otter's simulator: all UUIDs of govmomi's machines are different.
#[tokio::test]
async fn a_uuid_is_matched_with_instance_uuids_first() {
    let lab = Lab::start().await;
    let one = lab.machine("qubes-4.2-sdw-staging").await;
    let (id, uuid) = (one["id"].clone(), one["uuid"].as_str().unwrap().to_owned());
    // The BIOS UUID of one machine is the instance UUID of another: the instance UUID wins.
    lab.control().mutate(|world| world.machine_mut("32").unwrap().bios_uuid.clone_from(&uuid));
    lab.wait_for_field("32", "bios_uuid", json!(uuid)).await;
    assert_eq!(lab.get(&format!("/v1/machines/uuid:{uuid}")).await.expect(200).json["id"], id);
}

/// Only on otter's simulator: govmomi's machines have unique names.
#[tokio::test]
async fn a_name_of_several_machines_is_ambiguous() {
    let lab = Lab::start().await;
    let problem = lab.get("/v1/machines/name:qubes-scratch").await.problem(409, "ambiguous-name");
    assert_eq!(
        problem.json["candidates"],
        json!([{"id": "21", "name": "qubes-scratch"}, {"id": "22", "name": "qubes-scratch"}])
    );
    assert_eq!(lab.get("/v1/machines/21").await.expect(200).str("name"), "qubes-scratch");
}

/// Only on otter's simulator: govmomi's names have no characters that need escapes.
#[tokio::test]
async fn a_machine_is_found_by_each_form_of_its_name() {
    let lab = Lab::start().await;
    lab.control().mutate(|world| {
        "lab%2fone".clone_into(&mut world.machine_mut("21").unwrap().name);
        "Lab/two".clone_into(&mut world.machine_mut("22").unwrap().name);
    });
    lab.wait_for_field("21", "name", json!("lab%2fone")).await;
    lab.wait_for_field("22", "name", json!("Lab/two")).await;
    for name in ["lab/one", "lab%2fone", "lab%252fone"] {
        let found = lab.get(&machine_path(name, "")).await.expect(200);
        assert_eq!(found.str("id"), "21", "{name}");
        let found = lab.get(&format!("/v1/machines/find?name={}", encode(name))).await.expect(200);
        assert_eq!(found.str("id"), "21", "{name}");
        let body = json!({"name": name});
        let killed = lab.post("/v1/machines/kill?wait=30s", body).await.expect(200);
        assert_eq!(killed.str("machine"), "21", "{name}");
        let lease = json!({"select": {"machine": format!("name:{name}")}, "ttl": "5m"});
        let lease = lab.post("/v1/leases", lease).await.expect(201);
        assert_eq!(lease.str("machine"), "21", "{name}");
        let shown = format!("{}.{}", lease.str("id"), lease.str("secret"));
        let path = format!("/v1/leases/{}?wait=30s", lease.str("id"));
        let end = lab.request(Method::DELETE, &path).header("otter-lease", shown);
        Answer::from_request(end).await.expect(200);
    }
    let loose = lab.get(&format!("/v1/machines?name={}", encode("lab/"))).await.expect(200);
    assert_eq!(loose.items("id"), ["21", "22"]);
    lab.control().mutate(|world| "lab/one".clone_into(&mut world.machine_mut("22").unwrap().name));
    lab.wait_for_field("22", "name", json!("lab/one")).await;
    let candidates = json!([{"id": "21", "name": "lab%2fone"}, {"id": "22", "name": "lab/one"}]);
    let several = [
        lab.get(&machine_path("lab/one", "")).await,
        lab.post("/v1/machines/kill", json!({"name": "lab/one"})).await,
        lab.post("/v1/leases", json!({"select": {"machine": "name:lab/one"}, "ttl": "5m"})).await,
    ];
    for answer in several {
        assert_eq!(answer.problem(409, "ambiguous-name").json["candidates"], candidates);
    }
}

/// Only on otter's simulator: govmomi's names have no characters that need escapes.
#[tokio::test]
async fn names_and_ids_can_have_any_characters_percent_encoded() {
    let lab = Lab::start().await;
    let golden = lab.get("/v1/machines/name:golden%2Fqubes-4.2").await.expect(200);
    assert_eq!((golden.str("id"), golden.str("name")), ("41", "golden/qubes-4.2"));
    let mut unusual = lab.control().look(|world| world.machine("32").unwrap().clone());
    unusual.id = "host/9:vm 1%?#ü".to_owned();
    unusual.name = "50 % off? ünï🦦/\\".to_owned();
    unusual.instance_uuid = "6ba7b810-9dad-11d1-80b4-00c04fd430c8".to_owned();
    let (id, name) = (unusual.id.clone(), unusual.name.clone());
    lab.control().mutate(|world| world.add_machine(unusual));
    lab.wait_for_field(&id, "name", json!(name)).await;
    assert_eq!(lab.get(&machine_path(&name, "")).await.expect(200).str("id"), id);
    let job = lab
        .post(&format!("/v1/machines/{}/power?wait=30s", encode(&id)), json!({"action": "on"}))
        .await;
    let job = job.expect(200);
    assert_eq!(job.str("machine"), id);
    let link = job.json["links"]["machine"].as_str().unwrap();
    assert!(!link.to_lowercase().contains("%2f"), "some proxies refuse an escaped slash: {link}");
    assert_eq!(lab.get(link).await.expect(200).str("power_state"), "on");
    let jobs = lab.get(&format!("/v1/jobs?machine={}", encode(&id))).await.expect(200);
    assert_eq!(jobs.items("id"), [job.str("id")]);
}

/// Only on otter's simulator: all machines of govmomi are connected.
#[tokio::test]
async fn machines_of_every_state_are_listed() {
    let lab = Lab::start().await;
    let because = async |name: &str| lab.machine(name).await["not_free_because"].clone();
    assert_eq!(because("qubes-4.2-sdw-prod").await, json!(["powered_on"]));
    assert_eq!(because("ci-runner-3").await, json!(["suspended"]));
    assert_eq!(because("golden-debian-12").await, json!(["protected"]));
    assert_eq!(because("template-windows-10").await, json!(["template"]));
    assert_eq!(because("qubes-copied").await, json!(["question"]));
    let lost = lab.machine("qubes-lost").await;
    assert_eq!(lost["connection_state"], "inaccessible");
    assert_eq!(lost["free"], false);
    for unknown in [
        "path",
        "guest_os",
        "uuid",
        "bios_uuid",
        "annotation",
        "cpu_count",
        "memory_bytes",
        "ip_address",
    ] {
        assert!(lost[unknown].is_null(), "{unknown}: {lost}");
    }
    let copied = lab.machine("qubes-copied").await;
    let question = &copied["question"];
    assert_eq!(
        (&question["id"], &question["message_id"]),
        (&json!("19"), &json!("msg.uuid.altered"))
    );
    let keys: Vec<&str> = question["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|choice| choice["key"].as_str().unwrap())
        .collect();
    assert_eq!(keys, ["0", "1", "4"]);
    assert_eq!(question["choices"][2]["default"], true);
    let template = lab.get("/v1/machines?template=true").await.expect(200);
    assert_eq!(template.items("id"), ["43"]);
    let suspended = lab.get("/v1/machines?power_state=suspended").await.expect(200);
    assert_eq!(suspended.items("id"), ["33"]);
}

/// Only on otter's simulator: govmomi's machines have one network card and no serial port.
#[tokio::test]
async fn a_machine_has_all_fields() {
    let lab = Lab::start().await;
    let staging = lab.machine("qubes-4.2-sdw-staging").await;
    assert_eq!(staging["memory_bytes"], 32_768_u64 << 20);
    assert_eq!(staging["cpu_count"], 8);
    assert_eq!(staging["nested_virtualization"], true);
    assert_eq!(staging["guest_os"], "Other Linux (64-bit)");
    assert_eq!(staging["path"], "[datastore1] qubes-4.2-sdw-staging/qubes-4.2-sdw-staging.vmx");
    assert_eq!(staging["network_cards"][0]["type"], "e1000e");
    assert_eq!(staging["network_cards"][0]["mac_address"], "00:0c:29:4a:10:16");
    let ports = staging["serial_ports"].as_array().unwrap();
    assert_eq!(
        (&ports[0]["type"], &ports[0]["direction"], &ports[0]["linux_device"]),
        (&json!("network"), &json!("server"), &json!("ttyS0"))
    );
    // The scenario lets the host choose the port.
    let chosen = ports[0]["service_uri"].as_str().unwrap().strip_prefix("telnet://:").unwrap();
    assert_ne!(chosen.parse::<u16>().unwrap(), 0);
    assert_eq!(
        (
            &ports[1]["type"],
            &ports[1]["pipe_name"],
            &ports[1]["endpoint"],
            &ports[1]["linux_device"]
        ),
        (&json!("pipe"), &json!("/tmp/qubes-staging-dom0"), &json!("server"), &json!("ttyS1"))
    );
    assert_eq!(staging["snapshot_count"], 5);
    assert!(staging["current_snapshot"].is_string());
    let runner = lab.machine("ci-runner-1").await;
    assert_eq!(runner["ip_address"], "10.0.0.31");
    // Neither the link-local address nor that of the bridge in the guest counts.
    assert_eq!(runner["ip_addresses"], json!(["10.0.0.31"]));
    assert_eq!(runner["tools_status"], "running");
}

#[tokio::test]
async fn added_removed_and_renamed_machines_are_visible() {
    let lab = Lab::start().await;
    lab.control().mutate(|world| world.machine_mut("31").unwrap().name = "AAA".to_owned());
    lab.wait_for_field("31", "name", json!("AAA")).await;
    assert_eq!(lab.get("/v1/machines?limit=1").await.expect(200).items("name"), ["AAA"]);
    lab.control().mutate(|world| world.remove_machine("31"));
    lab.wait_until_gone("31").await;
    assert!(!lab.get("/v1/machines").await.expect(200).items("id").contains(&"31"));
}

#[tokio::test]
async fn paging_continues_while_machines_are_added_and_removed() {
    let lab = Lab::start().await;
    let first = lab.get("/v1/machines?limit=5").await.expect(200);
    let last = (*first.items("id").last().unwrap()).to_owned();
    lab.control().mutate(|world| world.remove_machine(&last));
    lab.wait_until_gone(&last).await;
    let rest = lab.get(&format!("/v1/machines?cursor={}", first.str("next"))).await.expect(200);
    assert_eq!(
        rest.items("id").len(),
        13 - 5,
        "the cursor's own machine is gone, and nothing else is lost"
    );
}
