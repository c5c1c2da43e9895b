//! Properties of all responses: entity tags, versions, staleness and compression.

use reqwest::Method;
use serde_json::json;

use crate::harness::{Answer, Lab, eventually, machine_path, on_every_host};
use otter::simulator::{DownMode, HostdRestart};

on_every_host! {
    async fn an_unchanged_response_is_not_sent_again(lab: &Lab) {
        for (path, weak) in [("/v1/machines".to_owned(), true), (machine_path(lab.machines.running, ""), false)] {
            let first = lab.get(&path).await.expect(200);
            let tag = first.header("etag").unwrap();
            assert_eq!(tag.starts_with("W/"), weak, "{path} {tag}");
            for known in [tag.to_owned(), "*".to_owned(), format!("\"other\", {tag}"), format!("W/{}", tag.trim_start_matches("W/"))] {
                let again = lab.get_with(&path, &[("if-none-match", &known)]).await.expect(304);
                assert!(again.bytes.is_empty());
                assert_eq!(again.header("etag"), Some(tag));
                assert!(again.header("otter-version").is_some());
            }
            lab.get_with(&path, &[("if-none-match", "\"other\"")]).await.expect(200);
        }
    }

    async fn a_change_changes_tag_and_version(lab: &Lab) {
        let path = machine_path(lab.machines.running, "");
        let before = lab.get(&path).await.expect(200);
        lab.power_and_wait(lab.machines.running, "off").await;
        let after = lab.get_with(&path, &[("if-none-match", before.header("etag").unwrap())]).await.expect(200);
        assert_ne!(after.header("otter-version"), before.header("otter-version"));
    }

    async fn a_head_is_a_get_without_the_body(lab: &Lab) {
        for path in ["/v1/machines", "/healthz", "/docs", "/v1/machines/find"] {
            let get = lab.get(path).await.expect(200);
            let head = Answer::from_request(lab.request(Method::HEAD, path)).await.expect(200);
            assert!(head.bytes.is_empty());
            for name in ["content-type", "etag", "otter-version", "content-length"] {
                assert_eq!(head.header(name), get.header(name), "{name} of {path}");
            }
        }
        Answer::from_request(lab.request(Method::HEAD, "/v1/machines/none-such")).await.expect(404);
    }

    async fn accept_is_ignored(lab: &Lab) {
        let html = lab.get_with("/v1/machines", &[("accept", "text/html")]).await.expect(200);
        assert_eq!(html.header("content-type"), Some("application/json"));
    }
}

#[tokio::test]
async fn a_compressed_response_has_a_weak_tag() {
    let lab = Lab::start().await;
    let path = "/v1/machines/16";
    let plain = lab.get(path).await.expect(200);
    let strong = plain.header("etag").unwrap();
    assert!(plain.header("vary").unwrap().to_lowercase().contains("accept-encoding"));
    for (encoding, magic) in [("gzip", &[0x1f, 0x8b][..]), ("zstd", &[0x28, 0xb5, 0x2f, 0xfd][..])]
    {
        let packed = lab.get_with(path, &[("accept-encoding", encoding)]).await.expect(200);
        assert_eq!(packed.header("content-encoding"), Some(encoding));
        assert_eq!(packed.header("etag"), Some(format!("W/{strong}").as_str()));
        assert!(packed.bytes.starts_with(magic));
        assert!(packed.bytes.len() < plain.bytes.len());
        assert!(packed.header("vary").unwrap().to_lowercase().contains("accept-encoding"));
        let headers = [("accept-encoding", encoding), ("if-none-match", strong)];
        let known = lab.get_with(path, &headers).await.expect(304);
        assert!(known.bytes.is_empty());
    }
    let unpacking = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = Answer::from_request(unpacking.get(lab.url(path))).await.expect(200);
    assert_eq!(answer.json, plain.json);
}

#[tokio::test]
async fn responses_are_stale_only_while_the_host_is_away() {
    let lab = Lab::start().await;
    assert_eq!(lab.get("/v1/machines").await.expect(200).header("otter-stale"), None);
    lab.get("/readyz?host=true").await.expect(200);
    lab.control()
        .restart_hostd(HostdRestart { down: Some(DownMode::Refuse), ..HostdRestart::default() });
    eventually("the host to be away", async || lab.get("/readyz?host=true").await.status == 503)
        .await;
    let problem = lab.get("/readyz?host=true").await.problem(503, "host-unreachable");
    assert!(!problem.str("detail").is_empty());
    lab.get("/readyz").await.expect(200);
    for path in [
        "/v1/machines",
        "/v1/machines/16",
        "/v1/datastores",
        "/v1/jobs",
        "/v1/machines/16/snapshots",
    ] {
        let answer = lab.get(path).await.expect(200);
        answer.header("otter-stale").unwrap().parse::<u64>().unwrap();
    }
    let about = lab.get("/v1/about").await.expect(200);
    assert_eq!(about.json["session"]["state"], "away");
    assert!(about.json["session"]["reason"].is_string());
    lab.get("/v1/machines/16/properties?path=name").await.problem(503, "host-unreachable");
    lab.control().resume();
    eventually("the host to be back", async || lab.get("/readyz?host=true").await.status == 200)
        .await;
    assert_eq!(lab.get("/v1/machines").await.expect(200).header("otter-stale"), None);
}

#[tokio::test]
async fn every_response_has_its_own_request_id() {
    let lab = Lab::start().await;
    let mut ids = Vec::new();
    for path in ["/healthz", "/none", "/v1/machines", "/v1/machines"] {
        ids.push(lab.get(path).await.header("x-request-id").unwrap().to_owned());
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4);
}

#[tokio::test]
async fn reads_are_refused_until_the_inventory_is_loaded() {
    let plan = crate::harness::LabOptions::default();
    let lab = Lab::start_without_waiting(crate::harness::LabOptions {
        settings: |settings| settings.esx.password = "wrong".to_owned().into(),
        ..plan
    })
    .await;
    for path in
        ["/v1/machines", "/v1/machines/16", "/v1/machines/find", "/v1/datastores", "/readyz"]
    {
        lab.get(path).await.problem(503, "inventory-loading").header("retry-after").unwrap();
    }
    eventually("the login to be refused", async || {
        lab.get("/readyz?host=true").await.json["code"] == "host-login-refused"
    })
    .await;
    lab.get("/healthz").await.expect(200);
    assert_eq!(lab.get("/v1/about").await.expect(200).json["inventory"]["loaded"], json!(false));
}
