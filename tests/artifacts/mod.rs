//! Artifacts through otter's HTTP API: files of leases that callers store, and those that otter
//! makes itself, such as recordings and last pictures.

mod contents;
mod last_pictures;
mod limits;
pub mod recordings;
mod rights;
mod uploads;

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Lab};

/// A machine of the scenario that is off.
const MACHINE: &str = "16";

/// A lease of a test.
pub struct Held {
    id: String,
    /// The value of `Otter-Lease`.
    secret: String,
}

impl Held {
    /// Takes a machine. The lease is active.
    pub async fn take(lab: &Lab, more: Value) -> Self {
        let mut ask = json!({"select": {"machine": MACHINE}, "ttl": "10m"});
        ask.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let lease = lab.post("/v1/leases", ask).await.expect(201);
        let id = lease.str("id").to_owned();
        let secret = format!("{id}.{}", lease.str("secret"));
        lab.get(&format!("/v1/leases/{id}/wait?wait=30s")).await.expect(200);
        Self { id, secret }
    }

    fn path(&self) -> String {
        format!("/v1/leases/{}", self.id)
    }

    async fn put(&self, lab: &Lab, name: &str, bytes: impl Into<reqwest::Body>) -> Answer {
        self.put_as(lab, name, "application/octet-stream", bytes).await
    }

    async fn put_as(
        &self,
        lab: &Lab,
        name: &str,
        content_type: &str,
        bytes: impl Into<reqwest::Body>,
    ) -> Answer {
        let path = format!("{}/artifacts/{name}", self.path());
        let request = lab.request(Method::PUT, &path).header("otter-lease", &self.secret);
        Answer::from_request(request.header("content-type", content_type).body(bytes)).await
    }

    async fn list(&self, lab: &Lab) -> Answer {
        lab.get(&format!("/v1/artifacts?lease={}", self.id)).await.expect(200)
    }

    /// The names of the artifacts, sorted.
    async fn names(&self, lab: &Lab) -> Vec<String> {
        let list = self.list(lab).await;
        let mut names: Vec<String> = list.items("name").into_iter().map(str::to_owned).collect();
        names.sort();
        names
    }

    /// The bytes of the artifact with this name.
    pub async fn bytes(&self, lab: &Lab, name: &str) -> Vec<u8> {
        let list = self.list(lab).await;
        let items = list.json["items"].as_array().unwrap();
        let artifact = items.iter().find(|artifact| artifact["name"] == name);
        let artifact = artifact.unwrap_or_else(|| panic!("no {name}: {}", list.text));
        lab.get(artifact["links"]["content"].as_str().unwrap()).await.expect(200).bytes
    }

    /// Ends the lease, and waits until its machine is released.
    pub async fn end(&self, lab: &Lab) {
        let path = format!("{}?wait=30s", self.path());
        let request = lab.request(Method::DELETE, &path).header("otter-lease", &self.secret);
        let ended = Answer::from_request(request).await.expect(200);
        assert_eq!(ended.str("state"), "released");
    }

    /// Waits until otter has made all artifacts of the lease.
    pub async fn wait_until_rendered(&self, lab: &Lab) {
        lab.wait_until(&self.path(), |lease| lease["recording"].is_null()).await;
    }
}
