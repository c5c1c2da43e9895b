//! Paths that are refused, and paths in all scripts that mean what they say.

use reqwest::Method;
use serde_json::json;

use super::{ISOS, bytes_on_host, create_folder, delete, file, list, on_host, place, put};
use crate::harness::{Answer, Lab};

/// Paths as a client encodes them, which no operation accepts.
const REFUSED: [&str; 17] = [
    "",
    "%2Fetc%2Fpasswd",
    "iso%2F%2Fa",
    "..",
    "iso%2F..%2Fvm%2Fvm.vmx",
    "iso/../vm/vm.vmx",
    "%2e%2e",
    "iso%2F%2e%2e%2Fa",
    "iso%2F%252e%252e%2Fa",
    "iso%2F.%2Fa",
    "iso%5C..%5Ca",
    "iso%2Fa%00.iso",
    "iso%2Fa%0A",
    "iso%2Fa%C2%85",
    "%5Bdatastore1%5D%20a",
    "iso%2F%5Bds%5D",
    "iso%2Fa%20",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_could_mean_something_else_is_refused() {
    let lab = Lab::start().await;
    let before = on_host(&lab);
    let long = format!("iso%2F{}", "a".repeat(300));
    let wide = format!("iso%2F{}", "%E8%AA%9E".repeat(100));
    let deep = vec!["iso"; 300].join("%2F");
    for path in REFUSED.into_iter().chain([&*long, &wide, &deep]) {
        for method in [Method::GET, Method::PUT, Method::DELETE] {
            let target = format!("{ISOS}/file?path={path}");
            let refused = Answer::from_request(lab.request(method, &target).body("")).await;
            let refused = refused.problem(400, "invalid-request");
            assert_eq!(refused.json["errors"][0]["parameter"], "path", "{path}");
        }
        // The top folder has no name.
        if !path.is_empty() {
            let listed = lab.get(&format!("{ISOS}/files?path={path}")).await;
            listed.problem(400, "invalid-request").points_at("path", "not-a-path");
        }
    }
    let missing = lab.get(&format!("{ISOS}/file")).await.problem(400, "invalid-request");
    missing.points_at("path", "empty");
    let twice = lab.get(&format!("{ISOS}/file?path=iso/a&path=iso/b")).await;
    twice.problem(400, "unknown-parameter");
    for path in ["", "/iso", "iso/../a", "iso/%2e%2e", "iso/a\u{0}"] {
        let refused = lab.post(&format!("{ISOS}/folders"), json!({"path": path})).await;
        refused.problem(400, "invalid-request").points_at("/path", "not-a-path");
    }
    assert_eq!(on_host(&lab), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_whole_names_are_inside_of_a_root() {
    let lab = Lab::start().await;
    place(&lab, "iso-private/secret.iso", b"secret");
    place(&lab, "top.iso", b"top");
    let before = on_host(&lab);
    for path in ["iso-private/a.iso", "iso-private/secret.iso", "a.iso", "iso2", "ISO/a.iso"] {
        put(&lab, path, "a").await.problem(403, "forbidden");
        delete(&lab, path).await.problem(403, "forbidden");
    }
    // The root itself is not below the root.
    delete(&lab, "iso").await.problem(403, "forbidden");
    create_folder(&lab, "iso-private/new").await.problem(403, "forbidden");
    let other = file("iso/a.iso").replace("name:isos", "name:datastore1");
    let refused = Answer::from_request(lab.request(Method::PUT, &other).body("a")).await;
    let refused = refused.problem(403, "forbidden");
    assert!(refused.str("detail").contains("[isos] iso (files.roots)"), "{}", refused.text);
    assert_eq!(on_host(&lab), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_roots_nothing_is_written() {
    let lab = Lab::with_settings(|all| all.files.roots = Vec::new()).await;
    let before = on_host(&lab);
    let refused = put(&lab, "iso/a.iso", "a").await.problem(403, "forbidden");
    assert!(refused.str("detail").contains("files.roots, which is empty"), "{}", refused.text);
    assert_eq!(on_host(&lab), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_all_scripts_come_back_as_they_were() {
    let lab = Lab::start().await;
    let longest = format!("{}.iso", "n".repeat(251));
    let names = [
        "кубы.iso",
        "キューブ.iso",
        "تصاویر\u{200c}ها.iso",
        "a b+c&d=e#f?g;h'i\"j.iso",
        "…(x86_64).iso",
        ".hidden",
        &longest,
    ];
    for name in names {
        let path = format!("iso/{name}");
        put(&lab, &path, name.to_owned()).await.expect(200);
        assert_eq!(bytes_on_host(&lab, &path).as_deref(), Some(name.as_bytes()), "{name}");
        assert_eq!(lab.get(&file(&path)).await.expect(200).bytes, name.as_bytes());
    }
    let listed = lab.get(&list("iso")).await.expect(200);
    for name in names.iter().filter(|name| !name.starts_with('.')) {
        assert!(listed.items("name").contains(name), "{name}: {}", listed.text);
    }
    for name in names {
        delete(&lab, &format!("iso/{name}")).await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_of_otters_parts_is_not_for_callers() {
    let lab = Lab::start().await;
    let before = on_host(&lab);
    put(&lab, "iso/a.iso.otter-part", "a").await.problem(400, "invalid-request");
    create_folder(&lab, "iso/a.otter-part").await.problem(400, "invalid-request");
    assert_eq!(on_host(&lab), before);
}
