//! Codes of the files on datastores. Each pair has a lab of its own.

use axum::body::Body;
use otter::app::Settings;
use otter::simulator::world::FileContent;
use otter::simulator::{Disruption, Fault, FilesChange, TransferEnd, TransferMishap};
use tower::ServiceExt;

use super::{Pair, Verdict, plan, side_by_side};
use crate::harness::{Answer, Lab, RawConnection, eventually, send_raw};

/// Provokes codes of calls that list, read or change files.
pub async fn of_files(pairs: Vec<Pair>) -> Vec<Verdict> {
    side_by_side(pairs, provoke).await
}

async fn provoke(pair: &Pair) -> Answer {
    let settings: fn(&mut Settings) = match pair.code.as_str() {
        "too-many-waits" => |all| all.http.max_waits = 0,
        _ => |_| {},
    };
    let lab = Lab::with_options(plan(std::slice::from_ref(pair), settings)).await;
    let control = lab.control();
    let path = match pair.operation.id.as_str() {
        "create_folder" => "[isos] iso/new".to_owned(),
        id => format!("[isos] iso/{id}.iso"),
    };
    let put = |path: String| {
        let content = FileContent::of(b"bytes");
        control.change_files(FilesChange::Put { path, content });
    };
    let call = match pair.code.as_str() {
        "file-exists" => {
            put(path);
            pair.call().parameter(wait_of(pair))
        }
        "file-in-use" => {
            put(path.clone());
            control.change_files(FilesChange::Lock { path, locked: true });
            let replace = if pair.is_of("put_file") { "replace=true" } else { wait_of(pair) };
            pair.call().parameter(replace)
        }
        "folder-not-empty" => {
            control.change_files(FilesChange::Remove { path: path.clone() });
            put(format!("{path}/inside"));
            pair.call().parameter(wait_of(pair))
        }
        "machine-leased" => {
            let unknown = format!("01936f5e-8c00-7000-8000-000000000001.{}", "0".repeat(64));
            pair.call().header("otter-lease", unknown)
        }
        "offset-out-of-range" => pair.call().header("range", "bytes=5-"),
        "forbidden-by-host" | "host-protocol" => {
            let method = match pair.operation.id.as_str() {
                "list_files" => "SearchDatastore_Task",
                "refresh_datastore" => "RefreshDatastore",
                "put_file" => "PUT /folder",
                _ => "GET /folder",
            };
            control.disrupt(method, 0, None, refusal(pair));
            pair.call()
        }
        "host-rejected" if pair.is_of("refresh_datastore") => {
            let fault = Fault::new("InvalidArgument", "Said the host.");
            control.disrupt("RefreshDatastore", 0, None, Disruption::Fault(fault));
            pair.call()
        }
        "host-rejected" => {
            let (name, accessible) = ("isos".to_owned(), Some(false));
            let gone = FilesChange::Datastore { name, free_bytes: None, accessible };
            control.change_files(gone);
            let path = "/v1/datastores/name:isos";
            lab.wait_until(path, |datastore| datastore["accessible"] == false).await;
            pair.call()
        }
        "queue-full" => return fifth_of_many(&lab, pair).await,
        "length-required" => {
            let head = head(pair);
            let chunked =
                format!("{head}connection: close\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n");
            return send_raw(lab.address, chunked).await;
        }
        "job-cancelled" => return cancelled(&lab, pair).await,
        "shutting-down" => return after_the_stop(lab, pair).await,
        // No call may wait.
        _ => pair.call(),
    };
    call.send(&lab).await
}

/// The parameter by which a call waits for its job, if it has it.
fn wait_of(pair: &Pair) -> &'static str {
    if pair.is_of("put_file") || pair.is_of("get_file") { "" } else { "wait=12s" }
}

/// How the host refuses a call or a transfer.
fn refusal(pair: &Pair) -> Disruption {
    let is_transfer = pair.is_of("get_file") || pair.is_of("put_file");
    let answer = |status| Disruption::Answer {
        status,
        content_type: "text/plain",
        body: "Hello".to_owned(),
    };
    match (pair.code.as_str(), is_transfer) {
        ("forbidden-by-host", true) => answer(403),
        ("forbidden-by-host", false) => {
            Disruption::Fault(Fault::new("NoPermission", "Said the host."))
        }
        // A part without its place in the file.
        (_, true) if pair.is_of("get_file") => answer(206),
        // The host confirms what it did not store.
        (_, true) => answer(201),
        (_, false) => answer(200),
    }
}

/// The head of a request without its last lines.
fn head(pair: &Pair) -> String {
    let call = pair.call();
    format!("{} {} HTTP/1.1\r\nhost: localhost\r\n", call.method, call.target())
}

/// More transfers than may run and wait, of a host that sends nothing.
async fn fifth_of_many(lab: &Lab, pair: &Pair) -> Answer {
    let mishap = TransferMishap { end: Some((1, TransferEnd::Stall)), bytes_per_second: None };
    lab.control().disrupt("GET /folder", 0, None, Disruption::Transfer(mishap));
    let calls: Vec<_> = (0..21).map(|_| Box::pin(pair.call().send(lab))).collect();
    futures_util::future::select_all(calls).await.0
}

/// Another caller cancels the upload.
async fn cancelled(lab: &Lab, pair: &Pair) -> Answer {
    let mut connection = RawConnection::open(lab.address).await;
    let more = "connection: close\r\notter-reference: cut\r\ncontent-length: 8\r\n\r\nhalf";
    connection.send(format!("{}{more}", head(pair)).as_bytes()).await;
    let mut job = String::new();
    eventually("the upload to run", async || {
        let jobs = lab.get("/v1/jobs?reference=cut&state=running").await.expect(200);
        job = jobs.items("id").first().map(|id| (*id).to_owned()).unwrap_or_default();
        !job.is_empty()
    })
    .await;
    lab.post(&format!("/v1/jobs/{job}/cancel"), serde_json::json!({})).await.expect(202);
    connection.answer().await
}

/// Calls the router itself, because the socket is closed.
async fn after_the_stop(lab: Lab, pair: &Pair) -> Answer {
    let service = lab.service.clone();
    lab.stop().await;
    let request = http::Request::put(pair.call().target())
        .header("host", "localhost")
        .header("content-length", "3")
        .body(Body::from("two"))
        .unwrap();
    let (head, body) = service.oneshot(request).await.unwrap().into_parts();
    let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap().to_vec();
    Answer::from_parts(head.status.as_u16(), head.headers, bytes)
}
