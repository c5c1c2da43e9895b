//! Control characters: otter refuses them in texts of callers, and escapes names of the host in
//! details of problems.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Host, HostKind, Lab, encode, machine_path};

/// A character of C0, DEL, one of C1, a line separator, and marks that change the direction of
/// text.
const HOSTILE: [&str; 7] =
    ["\u{1b}[2J", "\n", "\u{7f}", "\u{9b}31m", "\u{2028}", "\u{202e}", "\u{2066}"];

/// Asserts that a response refuses this part of the request.
fn refused(answer: Answer, pointer: &Value, parameter: &Value) {
    let problem = answer.problem(400, "invalid-request");
    let error = &problem.json["errors"][0];
    let expected = (pointer, parameter, &json!("control-character"));
    assert_eq!(
        (&error["pointer"], &error["parameter"], &error["code"]),
        expected,
        "{}",
        problem.text
    );
    assert!(problem.str("detail").contains("U+"), "{}", problem.text);
}

#[tokio::test]
async fn holders_and_reasons_with_control_characters_are_refused() {
    let lab = Lab::start().await;
    let asked = json!({"select": {"machine": "16"}, "ttl": "30m"});
    let lease = lab.post("/v1/leases", asked.clone()).await.expect(201).json;
    let lease = format!("/v1/leases/{}", lease["id"].as_str().unwrap());
    let aside = machine_path("ci-runner-2", "/quarantine");
    for hostile in HOSTILE {
        let text = format!("my {hostile}reason");
        let mut body = asked.clone();
        body["holder"] = json!(text);
        refused(lab.post("/v1/leases", body).await, &json!("/holder"), &Value::Null);
        let reason = lab.request(Method::PUT, &aside).json(&json!({"reason": text}));
        refused(Answer::from_request(reason).await, &json!("/reason"), &Value::Null);
        let revoke = lab.request(Method::DELETE, &format!("{lease}?reason={}", encode(&text)));
        refused(Answer::from_request(revoke).await, &Value::Null, &json!("reason"));
    }
    assert_eq!(lab.get(&lease).await.json["state"], "active", "the request had no effect");
    assert_eq!(lab.machine("ci-runner-2").await["quarantine"], Value::Null);
    let plain = json!({"select": {"machine": "32"}, "ttl": "30m", "holder": "nächtlich 7 🦦"});
    assert_eq!(lab.post("/v1/leases", plain).await.expect(201).json["holder"], "nächtlich 7 🦦");
}

/// HTTP allows these characters in a header, but otter does not.
#[tokio::test]
async fn references_and_overrides_with_control_characters_are_refused() {
    let lab = Lab::start().await;
    let power = machine_path("ci-runner-2", "/power");
    for hostile in ["\t", "\u{9b}31m", "\u{2028}", "\u{202e}", "\u{2066}"] {
        let value = format!("my {hostile}reason").into_bytes();
        for header in ["otter-reference", "otter-override"] {
            let request = lab.request(Method::POST, &power).header(header, value.clone());
            let answer = Answer::from_request(request.json(&json!({"action": "on"}))).await;
            refused(answer, &Value::Null, &json!(header));
        }
        let body = json!({"select": {"machine": "16"}, "ttl": "30m"});
        let request = lab.request(Method::POST, "/v1/leases").header("otter-reference", value);
        refused(
            Answer::from_request(request.json(&body)).await,
            &Value::Null,
            &json!("otter-reference"),
        );
    }
    assert_eq!(lab.get("/v1/jobs").await.json["items"], json!([]));
    assert_eq!(lab.get("/v1/leases").await.json["items"], json!([]));
}

#[tokio::test]
async fn names_of_the_host_are_escaped_in_details_and_unchanged_in_data() {
    // The simulated ESX uses XML, which cannot represent ESC.
    let lab = Lab::on_host(HostKind::InProcess).await;
    let name = "evil\u{1b}[2J\u{202e}\nname";
    let id = lab.machine(lab.machines.with_snapshots).await["id"].as_str().unwrap().to_owned();
    let Host::InProcess(host) = &lab.host else { panic!("a host in this process") };
    host.mutate(|world| name.clone_into(&mut world.machine_mut(&id).unwrap().name));
    lab.wait_for_field(&id, "name", json!(name)).await;
    let asked = json!({"select": {"machine": id}, "ttl": "30m"});
    lab.post("/v1/leases", asked).await.expect(201);
    let (path, power) = (format!("/v1/machines/{}", encode(&id)), json!({"action": "on"}));
    for answer in [
        lab.get(&format!("{path}/snapshots/none")).await.problem(404, "not-found"),
        lab.post(&format!("{path}/power"), power).await.problem(423, "machine-leased"),
    ] {
        let detail = answer.str("detail");
        assert!(detail.contains("evil\\u{1b}[2J\\u{202e}\\nname"), "{detail}");
        assert!(!detail.contains(['\u{1b}', '\n', '\u{202e}']), "{detail:?}");
        assert_eq!(answer.json["machine_name"], name);
    }
}
