//! `/v1/about`, the health checks, the OpenAPI documents, and the HTML pages.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Lab, on_every_host};

on_every_host! {
    async fn about_describes_otter_and_its_host(lab: &Lab) {
        let about = lab.get("/v1/about").await.expect(200);
        assert_eq!(about.str("version"), env!("CARGO_PKG_VERSION"));
        assert_eq!(about.json["session"]["state"], "connected");
        assert_eq!(about.json["session"]["logins"], 1);
        assert_eq!(about.json["inventory"]["machine_count"], lab.machines.count);
        assert_eq!(about.json["inventory"]["loaded"], true);
        assert_eq!(about.json["inventory"]["version"], about.header("otter-version").unwrap());
        assert_eq!(about.json["tls_verified"], false);
        assert_eq!(about.str("authentication"), "none");
        assert_eq!(about.json["caller"], json!({"name": "anonymous", "role": "admin"}));
        assert!(about.json["host"]["api_version"].is_string());
        assert!(!about.json["warnings"].as_array().unwrap().is_empty(), "TLS is not verified");
    }

    async fn health_and_readiness_are_ok(lab: &Lab) {
        for path in ["/healthz", "/readyz", "/readyz?host=true", "/readyz?host=false"] {
            assert_eq!(lab.get(path).await.expect(200).json, json!({"status": "ok"}));
        }
        lab.get("/readyz?host=maybe").await.problem(400, "invalid-request").points_at("host", "not-a-boolean");
    }
}

#[tokio::test]
async fn each_part_of_the_document_is_a_feature() {
    let lab = Lab::start().await;
    let about = lab.get("/v1/about").await.expect(200).json;
    let features = about["features"].as_array().unwrap();
    let document = lab.get("/openapi.json").await.expect(200).json;
    for tag in document["tags"].as_array().unwrap().iter().filter(|tag| tag["name"] != "about") {
        assert!(features.contains(&tag["name"]), "{} is not among {features:?}", tag["name"]);
    }
}

#[tokio::test]
async fn about_names_the_machine_that_otter_runs_in() {
    let lab = Lab::with_settings(|settings| {
        settings.protection.own_name = Some("ci-runner-1".to_owned());
    })
    .await;
    assert_eq!(lab.get("/v1/about").await.expect(200).str("self_machine"), "31");
    let own = lab.machine("ci-runner-1").await;
    assert_eq!(own["not_free_because"], json!(["powered_on", "self", "protected"]));
    let problem = lab.post("/v1/machines/31/power", json!({"action": "off"})).await;
    problem.problem(409, "self-protection");
}

/// Only on otter's simulator: the lab renames a machine without a task.
#[tokio::test]
async fn the_machine_of_otter_stays_protected_if_it_is_renamed() {
    let lab = Lab::with_settings(|settings| {
        settings.protection.own_name = Some("ci-runner-1".to_owned());
        settings.protection.own_addresses = vec!["00:50:56:3f:00:31".parse().unwrap()];
    })
    .await;
    lab.control().mutate(|world| world.machine_mut("31").unwrap().name = "renamed".to_owned());
    lab.wait_for_field("31", "name", json!("renamed")).await;
    assert_eq!(lab.get("/v1/about").await.expect(200).str("self_machine"), "31");
    let problem = lab.post("/v1/machines/31/power", json!({"action": "off"})).await;
    problem.problem(409, "self-protection");
}

#[tokio::test]
async fn otter_finds_its_own_machine_by_mac_address() {
    let lab = Lab::with_settings(|settings| {
        settings.protection.own_addresses = vec!["00:50:56:3f:00:31".parse().unwrap()];
    })
    .await;
    assert_eq!(lab.get("/v1/about").await.expect(200).str("self_machine"), "31");
}

/// If otter runs in a container with its own network, otter's address is not one of its machine.
#[tokio::test]
async fn otter_finds_its_own_machine_by_bios_uuid() {
    let settings = |settings: &mut otter::app::Settings| {
        settings.protection.own_addresses = vec!["02:42:ac:11:00:02".parse().unwrap()];
        settings.protection.own_uuids =
            vec![Uuid::from_u128(0x6ba7_b810_9dad_11d1_80b4_00c0_4fd4_30c8)];
        settings.protection.runs_in_vmware = true;
    };
    let lab = Lab::with_settings(settings).await;
    let warning = |about: &Value| {
        about["warnings"].to_string().contains("otter runs in a VMware machine and does not find")
    };
    let about = lab.get("/v1/about").await.expect(200).json;
    assert!(about["self_machine"].is_null() && warning(&about), "{about}");
    lab.control().mutate(|world| {
        for id in ["22", "31"] {
            "6BA7B810-9DAD-11D1-80B4-00C04FD430C8"
                .clone_into(&mut world.machine_mut(id).unwrap().bios_uuid);
        }
    });
    lab.wait_until("/v1/about", |about| about["self_machine"] == "31").await;
    assert!(!warning(&lab.get("/v1/about").await.expect(200).json));
    for id in ["22", "31"] {
        let problem = lab.post(&format!("/v1/machines/{id}/power"), json!({"action": "off"})).await;
        problem.problem(409, "self-protection");
    }
    // Copies have the same UUID. The address tells which of them is otter's machine.
    lab.control().mutate(|world| {
        let card = &mut world.machine_mut("22").unwrap().network_cards[0];
        "02:42:ac:11:00:02".clone_into(&mut card.mac_address);
    });
    lab.wait_until("/v1/about", |about| about["self_machine"] == "22").await;
}

#[tokio::test]
async fn both_openapi_documents_are_served() {
    let lab = Lab::start().await;
    let new = lab.get("/openapi.json").await.expect(200);
    assert!(new.str("openapi").starts_with("3.1"));
    assert_eq!(new.json, otter::api::openapi());
    let old = lab.get("/openapi-3.0.json").await.expect(200);
    assert!(old.str("openapi").starts_with("3.0"));
    let paths = |document: &serde_json::Value| {
        document["paths"].as_object().unwrap().keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(paths(&new.json), paths(&old.json));
    for document in [&new, &old] {
        assert_eq!(document.header("content-type"), Some("application/json"));
    }
}

#[tokio::test]
async fn html_pages_load_nothing() {
    let lab = Lab::start().await;
    for path in ["/docs", "/problems", "/problems/not-found"] {
        let page = lab.get(path).await.expect(200);
        assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
        let policy = page.header("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'none'"), "{policy}");
        assert!(
            page.text.starts_with("<!DOCTYPE html>") || page.text.starts_with("<!doctype html>")
        );
    }
    lab.get("/problems/none-such").await.problem(404, "not-found");
}

#[tokio::test]
async fn every_problem_has_a_page() {
    let lab = Lab::start().await;
    let catalogue = lab.get("/problems").await.expect(200).text;
    for kind in otter::domain::failure::FailureKind::ALL {
        let code = kind.code();
        let page = lab.get(&format!("/problems/{code}")).await.expect(200);
        assert!(page.text.contains(code), "{code}");
        assert!(catalogue.contains(&format!("problems/{code}")), "{code} is not in the catalogue");
    }
}
