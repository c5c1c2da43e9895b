//! Files on datastores through otter's HTTP API: listings, downloads, uploads, cuts at every step,
//! deletions, folders, rights and limits.

mod bad_paths;
mod changes;
mod cuts;
mod downloads;
mod limits;
mod listings;
mod rights;
mod uploads;

use std::collections::BTreeMap;

use otter::simulator::FilesChange;
use otter::simulator::world::FileContent;
use reqwest::{Body, Method};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::{Answer, Lab, encode, eventually};

/// The datastore of the tests. Its folder `iso` is the only one that otter writes to.
const ISOS: &str = "/v1/datastores/name:isos";

/// The path and query of a file.
fn file(path: &str) -> String {
    format!("{ISOS}/file?path={}", encode(path))
}

/// The path and query of a list.
fn list(path: &str) -> String {
    format!("{ISOS}/files?path={}", encode(path))
}

async fn put(lab: &Lab, path: &str, bytes: impl Into<Body>) -> Answer {
    Answer::from_request(lab.request(Method::PUT, &file(path)).body(bytes)).await
}

async fn replace(lab: &Lab, path: &str, bytes: impl Into<Body>) -> Answer {
    let target = format!("{}&replace=true", file(path));
    Answer::from_request(lab.request(Method::PUT, &target).body(bytes)).await
}

async fn delete(lab: &Lab, path: &str) -> Answer {
    let target = format!("{}&wait=30s", file(path));
    Answer::from_request(lab.request(Method::DELETE, &target)).await
}

async fn create_folder(lab: &Lab, path: &str) -> Answer {
    lab.post(&format!("{ISOS}/folders?wait=30s"), json!({"path": path})).await
}

/// Puts a file onto the host, as another client does.
fn place(lab: &Lab, path: &str, bytes: &[u8]) {
    let (path, content) = (format!("[isos] {path}"), FileContent::of(bytes));
    lab.control().change_files(FilesChange::Put { path, content });
}

/// The files that were written to the host, with their lengths.
fn on_host(lab: &Lab) -> BTreeMap<String, u64> {
    lab.control().look(|world| world.written_files().collect())
}

/// The bytes of a file of the host.
fn bytes_on_host(lab: &Lab, path: &str) -> Option<Vec<u8>> {
    lab.control().file_bytes(&format!("[isos] {path}"))
}

/// The part files of uploads on the host.
fn parts_on_host(lab: &Lab) -> Vec<String> {
    on_host(lab).into_keys().filter(|path| path.contains(".otter-part")).collect()
}

/// Waits until the host has exactly these files.
async fn until_on_host(lab: &Lab, files: &BTreeMap<String, u64>) {
    eventually("nothing to be left on the host", async || on_host(lab) == *files).await;
}

/// The only upload with this reference. `None` before there is one.
async fn upload_of(lab: &Lab, reference: &str) -> Option<Value> {
    let path = format!("/v1/jobs?kind=file.upload&reference={reference}");
    let jobs = lab.get(&path).await.expect(200).json;
    jobs["items"].as_array().unwrap().first().cloned()
}

/// Waits until the only upload with this reference has this state, and returns it.
async fn until_upload_is(lab: &Lab, reference: &str, state: &str) -> Value {
    let mut found = Value::Null;
    eventually(&format!("the upload to be {state}"), async || {
        found = upload_of(lab, reference).await.unwrap_or_default();
        found["state"] == state
    })
    .await;
    found
}

fn sum_of(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Bytes that differ at each place.
fn content(length: usize) -> Vec<u8> {
    (0_u32..).flat_map(u32::to_le_bytes).take(length).collect()
}
