//! Deletions and folders: what is deleted, and what otter refuses to delete.

use otter::simulator::{Disruption, FilesChange};
use reqwest::Method;
use serde_json::json;

use super::{bytes_on_host, create_folder, delete, file, list, on_host, place, put, replace};
use crate::harness::{Answer, Lab};

#[tokio::test(flavor = "multi_thread")]
async fn a_file_and_an_empty_folder_are_deleted() {
    let lab = Lab::start().await;
    let before = on_host(&lab);
    let folder = create_folder(&lab, "iso/linux").await.expect(200);
    assert_eq!((folder.str("kind"), folder.str("state")), ("file.create_folder", "succeeded"));
    assert_eq!(folder.json["result"]["changed"], true);
    assert_eq!(create_folder(&lab, "iso/linux").await.expect(200).json["result"]["changed"], false);
    put(&lab, "iso/linux/a.iso", "a").await.expect(200);
    assert_eq!(lab.get(&list("iso/linux")).await.expect(200).items("name"), ["a.iso"]);

    delete(&lab, "iso/linux").await.problem(409, "folder-not-empty");
    assert_eq!(bytes_on_host(&lab, "iso/linux/a.iso").unwrap(), b"a");
    let deleted = delete(&lab, "iso/linux/a.iso").await.expect(200);
    assert_eq!((deleted.str("kind"), deleted.str("state")), ("file.delete", "succeeded"));
    delete(&lab, "iso/linux").await.expect(200);
    delete(&lab, "iso/linux").await.problem(404, "not-found");
    assert_eq!(on_host(&lab), before);
    assert_eq!(lab.get(&list("iso")).await.expect(200).items("name"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_needs_its_parent_and_a_free_name() {
    let lab = Lab::start().await;
    place(&lab, "iso/a.iso", b"a");
    create_folder(&lab, "iso/none/linux").await.problem(404, "not-found");
    create_folder(&lab, "iso/a.iso").await.problem(409, "file-exists");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_a_drive_stays() {
    let lab = Lab::start().await;
    put(&lab, "iso/a.iso", "first").await.expect(200);
    let insert = lab.request(Method::PUT, "/v1/machines/16/cdrom?wait=30s");
    let insert = insert.json(&json!({"iso": "[isos] iso/a.iso"}));
    Answer::from_request(insert).await.expect(200);
    lab.wait_until("/v1/machines/16", |machine| machine["cdroms"].to_string().contains("a.iso"))
        .await;
    for refused in [delete(&lab, "iso/a.iso").await, replace(&lab, "iso/a.iso", "other").await] {
        let refused = refused.problem(409, "file-in-use");
        assert!(refused.str("detail").contains("cdrom"), "{}", refused.text);
    }
    assert_eq!(bytes_on_host(&lab, "iso/a.iso").unwrap(), b"first");
    let eject = lab.request(Method::DELETE, "/v1/machines/16/cdrom?wait=30s");
    Answer::from_request(eject).await.expect(200);
    lab.wait_until("/v1/machines/16", |machine| !machine["cdroms"].to_string().contains("a.iso"))
        .await;
    delete(&lab, "iso/a.iso").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_machines_stay() {
    let lab = Lab::start().await;
    let names = ["a.vmdk", "a-flat.vmdk", "a.VMX", "a.vmsd", "a.vmsn", "a.nvram"];
    for name in names {
        place(&lab, &format!("iso/{name}"), b"disk");
    }
    let before = on_host(&lab);
    for name in names {
        let path = format!("iso/{name}");
        delete(&lab, &path).await.problem(403, "forbidden");
        replace(&lab, &path, "other").await.problem(403, "forbidden");
    }
    assert_eq!(on_host(&lab), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_folder_of_a_machine_stays() {
    let settings = |all: &mut otter::app::Settings| {
        all.files.roots = vec!["[datastore1]".parse().unwrap()];
    };
    let lab = Lab::with_settings(settings).await;
    let path = lab.get("/v1/machines/16").await.expect(200).str("path").to_owned();
    let path = path.strip_prefix("[datastore1] ").unwrap();
    let folder = path.rsplit_once('/').unwrap().0;
    let before = on_host(&lab);
    for path in [folder.to_owned(), format!("{folder}/a.iso"), format!("{folder}/vmware.log")] {
        let target = file(&path).replace("name:isos", "name:datastore1");
        for method in [Method::PUT, Method::DELETE] {
            let call = lab.request(method, &target).body("");
            Answer::from_request(call).await.problem(403, "forbidden");
        }
    }
    let folders = json!({"path": format!("{folder}/new")});
    lab.post("/v1/datastores/name:datastore1/folders", folders).await.problem(403, "forbidden");
    assert_eq!(on_host(&lab), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_a_deletion_is_judged_by_the_file() {
    let lab = Lab::start().await;
    for lost in [Disruption::CloseAfterRunning, Disruption::CloseBeforeRunning] {
        place(&lab, "iso/a.iso", b"a");
        lab.control().disrupt_next("DeleteDatastoreFile_Task", lost);
        delete(&lab, "iso/a.iso").await.expect(200);
        assert_eq!(bytes_on_host(&lab, "iso/a.iso"), None);
    }
    lab.control().change_files(FilesChange::MakeFolder { path: "[isos] iso/x".to_owned() });
    lab.control().disrupt_next("MakeDirectory", Disruption::CloseAfterRunning);
    create_folder(&lab, "iso/new").await.expect(200);
}
