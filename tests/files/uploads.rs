//! Uploads: what the host has after them, repeats, hashes, and refusals that leave nothing.

use std::time::Duration;

use otter::simulator::{Disruption, Fault, FilesChange, TransferEnd, TransferMishap};
use reqwest::{Method, StatusCode};

use super::{
    bytes_on_host, content, file, on_host, parts_on_host, place, put, replace, sum_of,
    until_on_host, until_upload_is, upload_of,
};
use crate::harness::{Answer, Lab, LabOptions, RawConnection, eventually, send_raw};

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_uploaded_by_a_job() {
    let lab = Lab::start().await;
    let bytes = content(3_000_000);
    let request = lab.request(Method::PUT, &file("iso/a.iso")).header("otter-reference", "ci-7");
    let job = Answer::from_request(request.body(bytes.clone())).await.expect(200);
    assert_eq!((job.str("kind"), job.str("state")), ("file.upload", "succeeded"));
    let result = &job.json["result"];
    assert_eq!(
        (result["path"].as_str(), result["bytes"].as_u64(), result["changed"].as_bool()),
        (Some("[isos] iso/a.iso"), Some(3_000_000), Some(true))
    );
    assert_eq!(result["sha256"], sum_of(&bytes));
    assert!(bytes_on_host(&lab, "iso/a.iso").unwrap() == bytes);
    assert!(parts_on_host(&lab).is_empty());
    let listed = upload_of(&lab, "ci-7").await.unwrap();
    assert_eq!(listed["id"], job.json["id"]);
    assert!(lab.get(&file("iso/a.iso")).await.expect(200).bytes == bytes);
    // An empty file is a file.
    let empty = lab.request(Method::PUT, &file("iso/empty")).header("content-length", "0");
    Answer::from_request(empty).await.expect(200);
    assert_eq!(bytes_on_host(&lab, "iso/empty").unwrap(), b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_is_true_and_other_bytes_are_no_repeat() {
    let lab = Lab::start().await;
    put(&lab, "iso/a.iso", "first").await.expect(200);
    let sent = lab.control().calls("PUT /folder");
    let again = put(&lab, "iso/a.iso", "first").await.expect(200);
    assert_eq!(again.json["result"]["changed"], false);
    assert_eq!(again.json["result"]["sha256"], sum_of(b"first"));
    let announced = lab.request(Method::PUT, &file("iso/a.iso"));
    let announced = announced.header("otter-content-sha256", sum_of(b"first")).body("first");
    assert_eq!(Answer::from_request(announced).await.expect(200).json["result"]["changed"], false);
    assert_eq!(lab.control().calls("PUT /folder"), sent, "nothing was sent to the host");

    for other in ["other", "longer than the first"] {
        put(&lab, "iso/a.iso", other).await.problem(409, "file-exists");
    }
    assert_eq!(bytes_on_host(&lab, "iso/a.iso").unwrap(), b"first");
    let replaced = replace(&lab, "iso/a.iso", "other").await.expect(200);
    assert_eq!(replaced.json["result"]["changed"], true);
    assert_eq!(bytes_on_host(&lab, "iso/a.iso").unwrap(), b"other");
    let same = replace(&lab, "iso/a.iso", "other").await.expect(200);
    assert_eq!(same.json["result"]["changed"], false);
    assert!(parts_on_host(&lab).is_empty());

    // A file that otter did not put there is not known.
    place(&lab, "iso/b.iso", b"first");
    put(&lab, "iso/b.iso", "first").await.problem(409, "file-exists");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_with_another_hash_is_not_stored() {
    let lab = Lab::start().await;
    let before = on_host(&lab);
    let send = async |sum: &str| {
        let request = lab.request(Method::PUT, &file("iso/a.iso"));
        Answer::from_request(request.header("otter-content-sha256", sum).body("first")).await
    };
    let wrong = send(&sum_of(b"other")).await.problem(400, "invalid-request");
    wrong.points_at("otter-content-sha256", "mismatch");
    for malformed in ["", "abc", &"g".repeat(64)] {
        let refused = send(malformed).await.problem(400, "invalid-request");
        refused.points_at("otter-content-sha256", "not-a-hash");
    }
    until_on_host(&lab, &before).await;
    send(&sum_of(b"first").to_uppercase()).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_without_a_length_is_refused() {
    let lab = Lab::start().await;
    let before = on_host(&lab);
    let head = format!("PUT {} HTTP/1.1\r\nhost: localhost", file("iso/a.iso"));
    let chunked = format!(
        "{head}\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n\
         3\r\none\r\n0\r\n\r\n"
    );
    send_raw(lab.address, chunked).await.problem(411, "length-required");
    assert_eq!(on_host(&lab), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_cannot_take_the_file_leaves_nothing() {
    let lab = Lab::start().await;
    place(&lab, "iso/there.iso", b"there");
    lab.control().change_files(FilesChange::MakeFolder { path: "[isos] iso/linux".to_owned() });
    let before = on_host(&lab);
    put(&lab, "iso/none/a.iso", "a").await.problem(404, "not-found");
    put(&lab, "iso/there.iso/a.iso", "a").await.problem(404, "not-found");
    put(&lab, "iso/linux", "a").await.problem(409, "file-exists");
    replace(&lab, "iso/linux", "a").await.problem(409, "file-exists");
    put(&lab, "iso/there.iso", "a").await.problem(409, "file-exists");
    until_on_host(&lab, &before).await;

    let (name, free_bytes) = ("isos".to_owned(), Some(3));
    lab.control().change_files(FilesChange::Datastore { name, free_bytes, accessible: None });
    put(&lab, "iso/large.iso", "four").await.problem(507, "insufficient-resources");
    until_on_host(&lab, &before).await;
    put(&lab, "iso/small.iso", "sma").await.expect(200);
}

/// The write shows whether there is room.
#[tokio::test(flavor = "multi_thread")]
async fn a_measurement_without_a_result_does_not_refuse_the_file() {
    let lab = Lab::start().await;
    let (status, content_type) = (200, "text/xml");
    let nothing = Disruption::Answer { status, content_type, body: String::new() };
    lab.control().disrupt_next("RefreshDatastore", nothing);
    put(&lab, "iso/a.iso", "first").await.expect(200);
    assert_eq!(lab.control().calls("RefreshDatastore"), 1);
    assert_eq!(bytes_on_host(&lab, "iso/a.iso").unwrap(), b"first");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_use_is_not_replaced() {
    let lab = Lab::start().await;
    place(&lab, "iso/a.iso", b"first");
    let (path, locked) = ("[isos] iso/a.iso".to_owned(), true);
    lab.control().change_files(FilesChange::Lock { path, locked });
    let before = on_host(&lab);
    replace(&lab, "iso/a.iso", "other").await.problem(409, "file-in-use");
    until_on_host(&lab, &before).await;
    assert_eq!(bytes_on_host(&lab, "iso/a.iso").unwrap(), b"first");
}

/// While it runs, the upload is a job, and nothing is visible under its name.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_visible_under_its_name_only_when_it_is_whole() {
    let lab = Lab::start().await;
    let mut connection = RawConnection::open(lab.address).await;
    let head = format!(
        "PUT {} HTTP/1.1\r\nhost: localhost\r\notter-reference: slow\r\nconnection: close\r\n\
         content-length: 8\r\n\r\nhalf",
        file("iso/a.iso")
    );
    connection.send(head.as_bytes()).await;
    let job = until_upload_is(&lab, "slow", "running").await;
    eventually("the part", async || !parts_on_host(&lab).is_empty()).await;
    let part = format!("[isos] iso/a.iso.{}.otter-part", job["id"].as_str().unwrap());
    assert_eq!(parts_on_host(&lab), [part]);
    assert_eq!(bytes_on_host(&lab, "iso/a.iso"), None);
    connection.send(b"full").await;
    connection.answer().await.expect(200);
    assert_eq!(bytes_on_host(&lab, "iso/a.iso").unwrap(), b"halffull");
    assert!(parts_on_host(&lab).is_empty());
}

/// A host that refuses the session answers while the body still comes.
#[tokio::test(flavor = "multi_thread")]
async fn an_early_answer_of_the_host_is_read() {
    let lab = Lab::start().await;
    let before = on_host(&lab);
    for (status, code, problem) in [
        (StatusCode::UNAUTHORIZED, 422, "forbidden-by-host"),
        (StatusCode::INSUFFICIENT_STORAGE, 507, "insufficient-resources"),
        (StatusCode::SERVICE_UNAVAILABLE, 503, "host-unreachable"),
    ] {
        let end = Some((100_000, TransferEnd::Answer(status)));
        let mishap = TransferMishap { end, bytes_per_second: None };
        lab.control().disrupt_next("PUT /folder", Disruption::Transfer(mishap));
        put(&lab, "iso/a.iso", content(4_000_000)).await.problem(code, problem);
        until_on_host(&lab, &before).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_takes_nothing_any_more_ends_the_upload() {
    let settings = |all: &mut otter::app::Settings| {
        all.esx.read_timeout = Duration::from_secs(1);
    };
    let lab = Lab::with_options(LabOptions { settings, ..LabOptions::default() }).await;
    let before = on_host(&lab);
    let end = Some((100_000, TransferEnd::Stall));
    let mishap = TransferMishap { end, bytes_per_second: None };
    lab.control().disrupt_next("PUT /folder", Disruption::Transfer(mishap));
    put(&lab, "iso/a.iso", content(8_000_000)).await.problem(503, "host-unreachable");
    until_on_host(&lab, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_nothing_any_more_ends_the_upload() {
    let settings = |all: &mut otter::app::Settings| {
        all.http.body_timeout = Duration::from_millis(300);
    };
    let lab = Lab::with_options(LabOptions { settings, ..LabOptions::default() }).await;
    let before = on_host(&lab);
    let head = format!(
        "PUT {} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 8\r\n\r\nhalf",
        file("iso/a.iso")
    );
    send_raw(lab.address, head).await.problem(408, "request-timeout");
    until_on_host(&lab, &before).await;
}

/// The host moved the file, and its answer was lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_the_move_is_judged_by_the_file() {
    let lab = Lab::start().await;
    lab.control().disrupt_next("MoveDatastoreFile_Task", Disruption::CloseAfterRunning);
    put(&lab, "iso/a.iso", "whole").await.expect(200);
    assert_eq!(bytes_on_host(&lab, "iso/a.iso").unwrap(), b"whole");
    lab.control().disrupt_next("MoveDatastoreFile_Task", Disruption::CloseBeforeRunning);
    put(&lab, "iso/b.iso", "whole").await.expect(200);
    assert_eq!(bytes_on_host(&lab, "iso/b.iso").unwrap(), b"whole");
    assert!(parts_on_host(&lab).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_the_host_refuses_leaves_nothing() {
    let lab = Lab::start().await;
    let before = on_host(&lab);
    let fault = Fault::new("FileLocked", "Another process has the file open.");
    lab.control().fail_next_task("MoveDatastoreFile_Task", fault);
    put(&lab, "iso/a.iso", "whole").await.problem(409, "file-in-use");
    until_on_host(&lab, &before).await;
}
