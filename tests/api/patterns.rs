//! Patterns of the configuration that match no machine: `/v1/about` and a metric report the present
//! ones.

use otter::app::Settings;
use otter::domain::pool::{Pool, Pools};
use reqwest::Method;
use serde_json::json;

use crate::harness::{Lab, eventually};

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
        let texts =
            |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        settings.protection.protected = texts(&["golden-*", "golden-debain-*", "16"]);
        let pool = Pool { machines: texts(&["ci-runner-1", "99"]), ..Pool::default() };
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
