//! The bytes of artifacts: whole, in parts, never run by a browser.

use reqwest::Method;
use serde_json::json;

use super::Held;
use crate::harness::{Answer, Lab};

/// A lab with a lease and an artifact of ten bytes, and the path of its bytes.
async fn with_ten_bytes() -> (Lab, String) {
    let lab = Lab::start().await;
    let lease = Held::take(&lab, json!({})).await;
    let stored = lease.put_as(&lab, "ten.txt", "text/plain", "0123456789").await.expect(201);
    let path = stored.json["links"]["content"].as_str().unwrap().to_owned();
    (lab, path)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_stores_the_bytes_and_runs_nothing() {
    let lab = Lab::start().await;
    let lease = Held::take(&lab, json!({})).await;
    let script = "<script>fetch('/v1/leases')</script>".repeat(100);
    let stored = lease.put_as(&lab, "x.html", "text/html", script.clone()).await.expect(201);
    let path = stored.json["links"]["content"].as_str().unwrap();
    let answer = lab.get_with(path, &[("accept-encoding", "gzip, zstd")]).await.expect(200);
    for (name, value) in [
        ("content-type", "application/octet-stream"),
        ("x-content-type-options", "nosniff"),
        ("content-disposition", "attachment; filename=\"x.html\""),
        ("content-security-policy", "sandbox; default-src 'none'"),
        ("content-length", "3600"),
        ("accept-ranges", "bytes"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
    // Files are never compressed, so that a part is a part of the bytes that were stored.
    assert_eq!(answer.header("content-encoding"), None);
    assert_eq!(answer.text, script);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_the_bytes_can_be_read() {
    let (lab, path) = with_ten_bytes().await;
    let whole = lab.get(&path).await.expect(200);
    let tag = whole.header("etag").unwrap().to_owned();
    assert_eq!(whole.text, "0123456789");
    for (range, text, content_range) in [
        ("bytes=2-5", "2345", "bytes 2-5/10"),
        ("bytes=8-", "89", "bytes 8-9/10"),
        ("bytes=-3", "789", "bytes 7-9/10"),
        ("bytes=0-99", "0123456789", "bytes 0-9/10"),
    ] {
        let part = lab.get_with(&path, &[("range", range)]).await.expect(206);
        assert_eq!(part.text, text, "{range}");
        assert_eq!(part.header("content-range"), Some(content_range));
        assert_eq!(part.header("content-length"), Some(text.len().to_string().as_str()));
        assert_eq!(part.header("etag"), Some(tag.as_str()));
        let part = lab.get_with(&path, &[("range", range), ("if-range", &tag)]).await.expect(206);
        assert_eq!(part.text, text);
        let other = [("range", range), ("if-range", "\"another\"")];
        assert_eq!(lab.get_with(&path, &other).await.expect(200).text, "0123456789");
    }
    for range in ["bytes=0-1,4-5", "lines=1-2", "bytes=5-2"] {
        let whole = lab.get_with(&path, &[("range", range)]).await.expect(200);
        assert_eq!(whole.text, "0123456789", "{range}");
    }
    for range in ["bytes=10-", "bytes=99-100", "bytes=-0"] {
        let outside = lab.get_with(&path, &[("range", range)]).await;
        let outside = outside.problem(416, "offset-out-of-range");
        assert_eq!(outside.header("content-range"), Some("bytes */10"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_the_client_has_are_not_sent_again() {
    let (lab, path) = with_ten_bytes().await;
    let head = Answer::from_request(lab.request(Method::HEAD, &path).header("range", "bytes=2-5"));
    let head = head.await.expect(200);
    assert_eq!((head.header("content-length"), head.bytes.len()), (Some("10"), 0));
    let tag = head.header("etag").unwrap().to_owned();
    for range in [None, Some("bytes=2-5")] {
        let mut headers = vec![("if-none-match", tag.as_str())];
        headers.extend(range.map(|range| ("range", range)));
        let known = lab.get_with(&path, &headers).await.expect(304);
        assert_eq!(known.header("content-range"), None);
    }
    lab.get_with(&path, &[("if-none-match", "\"another\"")]).await.expect(200);
}
