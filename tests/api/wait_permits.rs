//! A call that waits takes one of the permits of `http.max_waits`, whatever it waits for, and gives
//! it back.

use serde_json::{Value, json};

use crate::harness::Lab;

#[tokio::test(flavor = "multi_thread")]
async fn each_call_that_waits_takes_one_permit_only() {
    // A second permit of one call, and a permit that is not given back, would be a 503.
    let lab = Lab::with_settings(|settings| settings.http.max_waits = 1).await;
    let login = json!({"any": [{"text": "Log In"}]});
    let until = json!({"any": [{"text": "Log In"}], "wait": "10s"});
    let ready = json!({"any": [{"text": "dom0 login: "}], "wait": "10s"});
    let machine = "/v1/machines/17";
    for (path, body) in [
        ("wait?until=power_state:on&wait=10s", Value::Null),
        ("wait?until=screen:Log%20In&wait=12s", Value::Null),
        ("screen/wait?wait=12s", login.clone()),
        ("screen/wait", login),
        ("screen/input", json!({"events": [{"until": until}, {"keys": ["left"]}]})),
        ("screen.png", Value::Null),
        ("screen/text", Value::Null),
        ("serial/ttyS1/input", json!({"text": "\r", "wait_for": ready})),
        ("serial/ttyS1/wait?wait=10s", json!({"any": [{"text": "login"}], "since": 0})),
        ("serial/ttyS1/log?since=0&wait=10s", Value::Null),
        ("wait?until=serial@ttyS1:never&wait=0s", Value::Null),
        ("power?wait=30s", json!({"action": "on"})),
    ] {
        let path = format!("{machine}/{path}");
        let answer =
            if body.is_null() { lab.get(&path).await } else { lab.post(&path, body).await };
        let expected = if path.contains("never") { 504 } else { 200 };
        assert_eq!(answer.status, expected, "{path}: {}", answer.text);
    }
}
