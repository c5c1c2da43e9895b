//! Downloads: whole files and parts of them, harmless and uncompressed, and what becomes of a
//! download that the host cuts.

use std::time::Duration;

use otter::simulator::{Disruption, FilesChange, TransferEnd, TransferMishap};
use reqwest::Method;

use super::{content, file, place};
use crate::harness::{Answer, Lab, LabOptions};

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_read_whole_or_in_part() {
    let lab = Lab::start().await;
    let bytes = content(300_000);
    place(&lab, "iso/a.iso", &bytes);
    let path = file("iso/a.iso");
    let whole = lab.get_with(&path, &[("accept-encoding", "gzip, zstd")]).await.expect(200);
    assert!(whole.bytes == bytes);
    for (name, value) in [
        ("content-length", "300000"),
        ("content-type", "application/octet-stream"),
        ("content-disposition", "attachment; filename=\"a.iso\""),
        ("content-security-policy", "sandbox; default-src 'none'"),
        ("x-content-type-options", "nosniff"),
        ("accept-ranges", "bytes"),
    ] {
        assert_eq!(whole.header(name), Some(value), "{name}");
    }
    assert_eq!((whole.header("content-encoding"), whole.header("etag")), (None, None));

    for (range, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=5-99", 5, 100),
        ("bytes=299990-", 299_990, 300_000),
        ("bytes=-10", 299_990, 300_000),
        ("bytes=299999-400000", 299_999, 300_000),
    ] {
        let part = lab.get_with(&path, &[("range", range)]).await.expect(206);
        assert!(part.bytes == bytes[from..to], "{range}");
        let shown = format!("bytes {from}-{}/300000", to - 1);
        assert_eq!(part.header("content-range"), Some(shown.as_str()));
    }
    for range in ["bytes=300000-", "bytes=400000-400001", "bytes=-0"] {
        let outside = lab.get_with(&path, &[("range", range)]).await;
        let outside = outside.problem(416, "offset-out-of-range");
        assert_eq!(outside.header("content-range"), Some("bytes */300000"), "{range}");
    }
    // What is no single range wants the whole file, and so does a part of another version.
    for headers in [
        vec![("range", "bytes=0-1,3-4")],
        vec![("range", "lines=0-1")],
        vec![("range", "bytes=0-1"), ("if-range", "\"other\"")],
    ] {
        assert_eq!(lab.get_with(&path, &headers).await.expect(200).bytes.len(), 300_000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_headers_alone_show_the_length() {
    let lab = Lab::start().await;
    place(&lab, "iso/a.iso", b"seven..");
    place(&lab, "iso/empty", b"");
    for (path, length) in [("iso/a.iso", "7"), ("iso/empty", "0")] {
        let head = Answer::from_request(lab.request(Method::HEAD, &file(path))).await.expect(200);
        assert_eq!(head.header("content-length"), Some(length));
        assert_eq!(lab.get(&file(path)).await.expect(200).bytes.len().to_string(), length);
    }
    let missing = lab.request(Method::HEAD, &file("iso/none")).send().await.unwrap();
    assert_eq!(missing.status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_far_inside_of_a_large_file_is_read_at_once() {
    let lab = Lab::start().await;
    let path = file("released/Qubes-R4.2.3-x86_64.iso");
    let part = lab.get_with(&path, &[("range", "bytes=6872367000-6872367003")]).await.expect(206);
    assert_eq!(part.bytes, [0; 4]);
    assert_eq!(part.header("content-range"), Some("bytes 6872367000-6872367003/6872367104"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_file_is_not_read() {
    let lab = Lab::start().await;
    place(&lab, "iso/locked.vmdk", b"disk");
    let (path, locked) = ("[isos] iso/locked.vmdk".to_owned(), true);
    lab.control().change_files(FilesChange::Lock { path, locked });
    lab.get(&file("iso/none.iso")).await.problem(404, "not-found");
    let folder = lab.get(&file("iso")).await.problem(404, "not-found");
    assert!(!folder.text.contains("<html"), "{}", folder.text);
    lab.get(&file("iso/locked.vmdk")).await.problem(409, "file-in-use");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_survives_the_end_of_the_session() {
    let lab = Lab::start().await;
    place(&lab, "iso/a.iso", b"seven..");
    lab.control().expire_sessions();
    assert_eq!(lab.get(&file("iso/a.iso")).await.expect(200).bytes, b"seven..");
}

/// The client must see that bytes are missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_the_host_ends_early_is_no_whole_file() {
    let settings = |all: &mut otter::app::Settings| {
        all.esx.read_timeout = Duration::from_secs(1);
    };
    let lab = Lab::with_options(LabOptions { settings, ..LabOptions::default() }).await;
    place(&lab, "iso/a.iso", &content(1_000_000));
    for end in [TransferEnd::Cut, TransferEnd::Stall] {
        let mishap = TransferMishap { end: Some((200_000, end)), bytes_per_second: None };
        lab.control().disrupt_next("GET /folder", Disruption::Transfer(mishap));
        let response = lab.request(Method::GET, &file("iso/a.iso")).send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(response.bytes().await.is_err(), "{end:?}");
        assert_eq!(lab.get(&file("iso/a.iso")).await.expect(200).bytes.len(), 1_000_000);
    }
}
