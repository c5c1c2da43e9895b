//! Lists of folders: what they show, their pages, and how often the host is asked for them.

use otter::simulator::FilesChange;
use reqwest::Method;
use serde_json::json;

use super::{ISOS, list, on_host, place, put};
use crate::harness::{Answer, Lab};

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_listed_by_name_in_pages() {
    let lab = Lab::start().await;
    place(&lab, "iso/b.iso", b"seven..");
    place(&lab, "iso/a.txt", b"");
    lab.control().change_files(FilesChange::MakeFolder { path: "[isos] iso/linux".to_owned() });
    let whole = lab.get(&list("iso")).await.expect(200);
    assert_eq!(whole.json["path"], "iso");
    assert_eq!(whole.items("name"), ["a.txt", "b.iso", "linux"]);
    assert_eq!(whole.items("type"), ["file", "iso", "folder"]);
    let bytes: Vec<_> = whole.json["items"].as_array().unwrap().iter().collect();
    assert_eq!(
        bytes.iter().map(|item| item["bytes"].clone()).collect::<Vec<_>>(),
        [json!(0), json!(7), json!(null)]
    );
    assert!(bytes[1]["modified_at"].is_string(), "{}", whole.text);
    assert_eq!(whole.json["next"], json!(null));

    let first = lab.get(&format!("{}&limit=2", list("iso"))).await.expect(200);
    assert_eq!(first.items("name"), ["a.txt", "b.iso"]);
    let next = format!("{}&limit=2&cursor={}", list("iso"), first.str("next"));
    assert_eq!(lab.get(&next).await.expect(200).items("name"), ["linux"]);
    let other = format!("{}&cursor={}", list("iso/linux"), first.str("next"));
    lab.get(&other).await.problem(400, "invalid-cursor");

    // A slash at the end changes nothing, and the top folder has no name.
    assert_eq!(lab.get(&list("iso/")).await.expect(200).json["path"], "iso");
    for top in [list(""), format!("{ISOS}/files")] {
        let top = lab.get(&top).await.expect(200);
        assert_eq!(top.json["path"], "");
        assert!(top.items("name").contains(&"iso"), "{}", top.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_listed_is_a_clear_problem() {
    let lab = Lab::start().await;
    lab.get(&list("iso/none")).await.problem(404, "not-found");
    place(&lab, "iso/a.iso", b"a");
    lab.get(&list("iso/a.iso")).await.problem(404, "not-found");
    lab.get("/v1/datastores/name:none/files").await.problem(404, "not-found");
    let (name, accessible) = ("isos".to_owned(), Some(false));
    let gone = FilesChange::Datastore { name, free_bytes: None, accessible };
    lab.control().change_files(gone);
    lab.wait_until(ISOS, |datastore| datastore["accessible"] == false).await;
    let before = on_host(&lab);
    lab.get(&list("iso")).await.problem(422, "host-rejected");
    put(&lab, "iso/b.iso", "b").await.problem(422, "host-rejected");
    assert_eq!(on_host(&lab), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_listing_serves_many_and_changes_of_otter_are_seen_at_once() {
    let lab = Lab::start().await;
    for _ in 0..5 {
        lab.get(&list("iso")).await.expect(200);
    }
    assert_eq!(lab.control().calls("SearchDatastore_Task"), 1);
    put(&lab, "iso/new.iso", "new").await.expect(200);
    assert_eq!(lab.get(&list("iso")).await.expect(200).items("name"), ["new.iso"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_free_space_is_measured_on_demand() {
    let lab = Lab::start().await;
    let before = lab.get(ISOS).await.expect(200).json;
    lab.control().mutate(|world| {
        let isos = world.datastores().find(|datastore| datastore.name == "isos").unwrap();
        let id = isos.id.clone();
        world.datastore_mut(&id).unwrap().unreported_bytes = 7 << 20;
    });
    assert_eq!(lab.get(ISOS).await.expect(200).json["free_bytes"], before["free_bytes"]);
    let refresh = lab.request(Method::POST, &format!("{ISOS}/refresh"));
    let after = Answer::from_request(refresh).await.expect(200).json;
    let free = |datastore: &serde_json::Value| datastore["free_bytes"].as_i64().unwrap();
    assert_eq!(free(&before) - free(&after), 7 << 20);
    assert!(after["free_bytes_at"].is_string(), "{after}");
    assert_eq!(lab.get(ISOS).await.expect(200).json, after);
    let unknown = lab.request(Method::POST, "/v1/datastores/name:none/refresh");
    Answer::from_request(unknown).await.problem(404, "not-found");
}
