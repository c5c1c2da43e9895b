//! Who may read and write files: operators read everywhere, runners below the roots, viewers
//! nothing, and no caller writes outside of the roots.

use reqwest::Method;

use super::{ISOS, file, list, on_host, place};
use crate::api::tokens::Guarded;
use crate::harness::Answer;

#[tokio::test(flavor = "multi_thread")]
async fn each_role_has_its_rights() {
    let guarded = Guarded::start().await;
    place(&guarded.lab, "iso/a.iso", b"a");
    place(&guarded.lab, "iso-private/b.iso", b"b");
    let call = async |role: &str, method: Method, path: &str| {
        Answer::from_request(guarded.request(role, method, path).body("")).await
    };
    let get = async |role: &str, path: String| call(role, Method::GET, &path).await;
    for path in [list("iso"), file("iso/a.iso")] {
        get("viewer", path.clone()).await.problem(403, "forbidden");
        for role in ["runner", "operator", "admin"] {
            get(role, path.clone()).await.expect(200);
        }
    }
    for path in [list(""), list("iso-private"), file("iso-private/b.iso")] {
        get("runner", path.clone()).await.problem(403, "forbidden");
        get("operator", path).await.expect(200);
    }
    let before = on_host(&guarded.lab);
    let new = file("iso/new.iso");
    for method in [Method::PUT, Method::DELETE] {
        call("viewer", method.clone(), &new).await.problem(403, "forbidden");
        for role in ["runner", "operator", "admin"] {
            let outside = file("iso-private/new.iso");
            call(role, method.clone(), &outside).await.problem(403, "forbidden");
        }
    }
    call("viewer", Method::POST, &format!("{ISOS}/refresh")).await.problem(403, "forbidden");
    assert_eq!(on_host(&guarded.lab), before);
    let empty = guarded.request("runner", Method::PUT, &new).header("content-length", "0");
    Answer::from_request(empty).await.expect(200);
    let deletion = format!("{new}&wait=30s");
    call("runner", Method::DELETE, &deletion).await.expect(200);
    assert_eq!(on_host(&guarded.lab), before);
}
