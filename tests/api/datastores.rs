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

/// Only on otter's simulator: govmomi has one datastore.
#[tokio::test]
async fn a_datastore_is_found_by_name_and_url_and_without_an_escaped_slash() {
    let lab = Lab::start().await;
    let isos = lab.get("/v1/datastores/10.0.0.5%3A%2Fexport%2Fisos").await.expect(200).json;
    let url = isos["url"].as_str().unwrap();
    let directory = url.trim_start_matches("ds:///vmfs/volumes/").trim_end_matches('/');
    for reference in [
        "name:isos".to_owned(),
        "10.0.0.5:%252Fexport%252Fisos".to_owned(),
        "10.0.0.5:%252fexport%252fisos".to_owned(),
        format!("url:{}", encode(url)),
        format!("url:{}", encode(url.trim_end_matches('/'))),
        format!("url:{}", encode(directory)),
        format!("url:{}", url.replace('/', "%252F")),
    ] {
        let found = lab.get(&format!("/v1/datastores/{reference}")).await.expect(200);
        assert_eq!(found.json, isos, "{reference}");
    }
    let problem = lab.get("/v1/datastores/isos").await.problem(404, "not-found");
    assert!(problem.str("detail").ends_with("write \"name:isos\"."), "{}", problem.text);
    for missing in ["name:Isos", "name:iso", "url:ds:%2F%2F%2Fvmfs%2Fvolumes", "uuid:isos"] {
        lab.get(&format!("/v1/datastores/{missing}")).await.problem(404, "not-found");
    }
    for empty in ["name:", "url:"] {
        let problem = lab.get(&format!("/v1/datastores/{empty}")).await;
        problem.problem(400, "invalid-request").points_at("datastore", "empty");
    }
}

/// Only on otter's simulator: govmomi has one datastore.
#[tokio::test]
async fn a_name_or_url_of_several_datastores_is_ambiguous() {
    let lab = Lab::start().await;
    let (isos, scratch) = ("10.0.0.5:/export/isos", "61aa04c2-98d1f3e0-2b14-0050569c0002");
    lab.control().mutate(|world| {
        let url = world.datastore_mut(isos).unwrap().url.clone();
        let twin = world.datastore_mut(scratch).unwrap();
        "isos".clone_into(&mut twin.name);
        twin.url = url;
    });
    lab.wait_until(&format!("/v1/datastores/{scratch}"), |twin| twin["name"] == "isos").await;
    let url = lab.get(&format!("/v1/datastores/{scratch}")).await.expect(200);
    for reference in ["name:isos".to_owned(), format!("url:{}", encode(url.str("url")))] {
        let problem = lab.get(&format!("/v1/datastores/{reference}")).await;
        let problem = problem.problem(409, "ambiguous-name");
        let candidates = json!([{"id": isos, "name": "isos"}, {"id": scratch, "name": "isos"}]);
        assert_eq!(problem.json["candidates"], candidates, "{reference}");
    }
}

/// Only on otter's simulator: govmomi's names have no characters that need escapes.
#[tokio::test]
async fn a_datastore_is_found_by_each_form_of_its_name() {
    let lab = Lab::start().await;
    let scratch = "61aa04c2-98d1f3e0-2b14-0050569c0002";
    lab.control().mutate(|world| {
        "lab%2fscratch".clone_into(&mut world.datastore_mut(scratch).unwrap().name);
    });
    let path = format!("/v1/datastores/{scratch}");
    lab.wait_until(&path, |datastore| datastore["name"] == "lab%2fscratch").await;
    for name in ["lab/scratch", "lab%2fscratch", "lab%252fscratch"] {
        let found = lab.get(&format!("/v1/datastores/name:{}", encode(name))).await.expect(200);
        assert_eq!(found.str("id"), scratch, "{name}");
    }
}
