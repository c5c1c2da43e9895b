//! `GET /v1/datastores`

use serde_json::json;

use crate::harness::{Lab, encode, on_every_host};

on_every_host! {
    async fn datastores_are_listed_in_order_and_read_by_id(lab: &Lab) {
        let list = lab.get("/v1/datastores").await.expect(200);
        let names: Vec<String> = list.items("name").into_iter().map(str::to_lowercase).collect();
        assert!(!names.is_empty() && names.is_sorted(), "{names:?}");
        for item in list.json["items"].as_array().unwrap() {
            let id = encode(item["id"].as_str().unwrap());
            assert_eq!(lab.get(&format!("/v1/datastores/{id}")).await.expect(200).json, *item);
            assert!(item["accessible"].as_bool().unwrap());
            assert!(item["capacity_bytes"].as_u64().unwrap() >= item["free_bytes"].as_u64().unwrap());
        }
        let machines: u64 =
            list.json["items"].as_array().unwrap().iter().map(|item| item["machine_count"].as_u64().unwrap()).sum();
        assert!(machines > 0);
    }

    async fn an_unknown_datastore_is_not_found(lab: &Lab) {
        lab.get("/v1/datastores/none-such").await.problem(404, "not-found");
    }
}

/// Only on otter's simulator: govmomi has one datastore.
#[tokio::test]
async fn pages_and_ids_with_slashes_work() {
    let lab = Lab::start().await;
    let first = lab.get("/v1/datastores?limit=2").await.expect(200);
    assert_eq!(first.items("name"), ["datastore1", "isos"]);
    let rest =
        lab.get(&format!("/v1/datastores?limit=2&cursor={}", first.str("next"))).await.expect(200);
    assert_eq!(rest.items("name"), ["scratch"]);
    assert!(rest.json["next"].is_null());
    let isos = lab.get("/v1/datastores/10.0.0.5%3A%2Fexport%2Fisos").await.expect(200);
    assert_eq!((isos.str("name"), isos.str("type")), ("isos", "NFS"));
    assert_eq!(isos.json["capacity_bytes"], 900_u64 << 30);
    let machines = lab.get(&format!("/v1/machines?cursor={}", first.str("next"))).await;
    machines.problem(400, "invalid-cursor");
}

#[tokio::test]
async fn a_change_of_a_datastore_is_visible() {
    let lab = Lab::start().await;
    let id = "61aa04c2-98d1f3e0-2b14-0050569c0002";
    lab.control().mutate(|world| world.datastore_mut(id).unwrap().free_bytes = 7);
    lab.wait_until(&format!("/v1/datastores/{id}"), |datastore| {
        datastore["free_bytes"] == json!(7)
    })
    .await;
}
