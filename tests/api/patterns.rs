//! Patterns of the configuration that match no machine: `/v1/about` and a metric report the present
//! ones.

use otter::app::Settings;
use otter::domain::machine_pattern::MachinePattern;
use otter::domain::pool::{Pool, Pools};
use reqwest::Method;
use serde_json::json;

use crate::harness::{Lab, eventually};

fn patterns(texts: &[&str]) -> Vec<MachinePattern> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// The warnings of `/v1/about` about patterns.
async fn warned(lab: &Lab) -> Vec<String> {
    let about = lab.get("/v1/about").await.expect(200).json;
    let warnings =
        about["warnings"].as_array().unwrap().iter().map(|warning| warning.as_str().unwrap());
    warnings.filter(|warning| warning.contains("matches no machine")).map(str::to_owned).collect()
}

/// The metric of a setting.
async fn counted(lab: &Lab, setting: &str) -> String {
    let text = lab.request(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
    let name = format!("otter_unmatched_patterns{{setting=\"{setting}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(name.as_str())).unwrap_or(&text).to_owned()
}

#[tokio::test]
async fn a_pattern_is_reported_only_while_it_matches_no_machine() {
    let settings = |settings: &mut Settings| {
        settings.protection.protected = patterns(&["golden-*", "golden-debain-*", "16"]);
        let pool = Pool { machines: patterns(&["ci-runner-1", "99"]), ..Pool::default() };
        settings.pools = Pools([("runners".to_owned(), pool)].into());
    };
    let lab = Lab::with_settings(settings).await;
    let warnings = warned(&lab).await;
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].starts_with("machines.protected: \"golden-debain-*\" "), "{warnings:?}");
    assert!(warnings[1].starts_with("pools.runners.machines: \"99\" "), "{warnings:?}");
    assert_eq!(counted(&lab, "machines.protected").await, "1");
    assert_eq!(counted(&lab, "pools.runners.machines").await, "1");

    lab.control()
        .mutate(|world| "golden-debain-1".clone_into(&mut world.machine_mut("16").unwrap().name));
    lab.wait_for_field("16", "name", json!("golden-debain-1")).await;
    assert_eq!(warned(&lab).await, warnings[1..]);
    lab.control().mutate(|world| world.remove_machine("31"));
    lab.wait_until_gone("31").await;
    eventually("the pool to be empty", async || warned(&lab).await.len() == 2).await;
    assert_eq!(counted(&lab, "machines.protected").await, "0");
    assert_eq!(counted(&lab, "pools.runners.machines").await, "2");
}

/// A machine's UUID stays with it when it is renamed or registered again with another id.
#[tokio::test]
async fn a_machine_is_protected_and_in_a_pool_by_its_uuid_and_address() {
    let lab = Lab::with_settings(|settings: &mut Settings| {
        settings.protection.protected =
            patterns(&["uuid:6ba7b810-9dad-11d1-80b4-00c04fd430c8", "mac:00:50:56:3f:00:32"]);
        let pool = Pool {
            machines: patterns(&[
                "uuid:6BA7B810-9DAD-11D1-80B4-00C04FD430C9",
                "mac:0-c-29-4a-10-21",
            ]),
            ..Pool::default()
        };
        settings.pools = Pools([("own".to_owned(), pool)].into());
    })
    .await;
    let shown = async |id: &str| {
        let machine = lab.get(&format!("/v1/machines/{id}")).await.expect(200).json;
        (machine["protected"] == json!(true), machine["pools"].clone())
    };
    assert_eq!(warned(&lab).await.len(), 2, "no machine has one of the UUIDs yet");
    assert_eq!(shown("32").await, (true, json!([])), "by its address");
    assert_eq!(shown("21").await, (false, json!(["own"])), "by its address");
    assert_eq!(shown("16").await, (false, json!([])));
    lab.control().mutate(|world| {
        let machine = world.machine_mut("16").unwrap();
        "6ba7b810-9dad-11d1-80b4-00c04fd430c8".clone_into(&mut machine.instance_uuid);
        let machine = world.machine_mut("22").unwrap();
        "6ba7b810-9dad-11d1-80b4-00c04fd430c9".clone_into(&mut machine.bios_uuid);
    });
    eventually("the UUIDs", async || warned(&lab).await.is_empty()).await;
    assert_eq!(shown("16").await, (true, json!([])), "by its instance UUID");
    assert_eq!(shown("22").await, (false, json!(["own"])), "by its BIOS UUID");
    lab.control().mutate(|world| {
        let mut moved = world.machine_mut("16").unwrap().clone();
        world.remove_machine("16");
        (moved.id, moved.name) = ("160".to_owned(), "renamed".to_owned());
        let mut other = world.machine_mut("31").unwrap().clone();
        (other.id, other.name) = ("16".to_owned(), "other".to_owned());
        "6ba7b810-9dad-11d1-80b4-00c04fd430ca".clone_into(&mut other.instance_uuid);
        world.add_machine(moved);
        world.add_machine(other);
    });
    lab.wait_for_field("160", "name", json!("renamed")).await;
    lab.wait_for_field("16", "name", json!("other")).await;
    assert_eq!(shown("160").await, (true, json!([])), "the same machine");
    assert_eq!(shown("16").await, (false, json!([])), "another machine with the old id");
    lab.post("/v1/machines/160/power", json!({"action": "on"}))
        .await
        .problem(409, "self-protection");
}

#[tokio::test]
async fn a_protected_machine_that_is_named_by_its_id_is_reported() {
    let lab = Lab::with_settings(|settings: &mut Settings| {
        settings.protection.protected = patterns(&["16", "17", "qubes-4.2-sdw-prod"]);
    })
    .await;
    let uuid = lab.machine("qubes-4.2-sdw-staging").await["uuid"].as_str().unwrap().to_owned();
    let about = lab.get("/v1/about").await.expect(200).json;
    let warning = format!(
        "machines.protected: \"16\" is the id of qubes-4.2-sdw-staging. If qubes-4.2-sdw-staging \
         is unregistered, the host can give the id to another machine. Write \"uuid:{uuid}\"."
    );
    let warnings = about["warnings"].as_array().unwrap();
    assert!(warnings.contains(&json!(warning)), "{warnings:?}");
    assert_eq!(counted(&lab, "machines.protected").await, "0", "the ids match machines");
}

/// Only on otter's simulator, which can make a datastore inaccessible.
#[tokio::test]
async fn a_protected_machine_stays_protected_while_its_datastore_is_inaccessible() {
    let lab = Lab::with_settings(|settings: &mut Settings| {
        settings.protection.protected = patterns(&["mac:00:50:56:3f:00:32"]);
    })
    .await;
    lab.control().mutate(|world| {
        "inaccessible".clone_into(&mut world.machine_mut("32").unwrap().connection_state);
    });
    lab.wait_for_field("32", "connection_state", json!("inaccessible")).await;
    let machine = lab.get("/v1/machines/32").await.expect(200).json;
    assert_eq!(machine["protected"], json!(true), "{machine}");
    for action in ["off", "on"] {
        lab.post("/v1/machines/32/power", json!({"action": action}))
            .await
            .problem(409, "self-protection");
    }
}
