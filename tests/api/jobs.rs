//! Power and revert as jobs.

use serde_json::json;

use crate::harness::Lab;

#[tokio::test]
async fn a_machine_is_powered_on_and_the_next_read_shows_it() {
    let lab = Lab::start().await;
    let list = lab.get("/v1/machines").await.expect(200);
    for machine in list.json["items"].as_array().unwrap() {
        println!(
            "{} {} {} {}",
            machine["id"], machine["name"], machine["power_state"], machine["not_free_because"]
        );
    }
    let about = lab.get("/v1/about").await.expect(200);
    println!("{}", serde_json::to_string_pretty(&about.json).unwrap());
    let free = lab.get("/v1/machines/find?free=true").await.expect(200);
    let id = free.json["id"].as_str().unwrap();
    let done =
        lab.post(&format!("/v1/machines/{id}/power?wait=20s"), json!({"action": "on"})).await.expect(200);
    println!("{}", serde_json::to_string_pretty(&done.json).unwrap());
    let machine = lab.get(&format!("/v1/machines/{id}")).await.expect(200);
    assert_eq!(machine.json["power_state"], "on");
    assert_eq!(lab.stop().await.exit_code(), 0);
}
