//! Builds a valid call of each operation.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Daemon, Lab, encode};

/// An operation of the OpenAPI document.
#[derive(Clone, Debug)]
pub struct Operation {
    pub id: String,
    method: Method,
    path: String,
}

/// The operations on the files of datastores.
const OF_FILES: [&str; 6] =
    ["list_files", "get_file", "put_file", "delete_file", "create_folder", "refresh_datastore"];

/// A call that can be changed before it is sent.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: Method,
    path: String,
    query: Vec<String>,
    headers: Vec<(&'static str, String)>,
    body: Option<Value>,
}

impl Operation {
    /// Every operation with its codes.
    pub fn all(document: &Value) -> Vec<(Self, Vec<String>)> {
        let mut all = Vec::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let Ok(method) = method.to_uppercase().parse() else { continue };
                let codes =
                    operation["x-otter-problems"].as_array().expect("the codes of every operation");
                let codes = codes.iter().map(|code| code.as_str().unwrap().to_owned());
                let id = operation["operationId"].as_str().unwrap().to_owned();
                all.push((Self { id, method, path: path.clone() }, codes.collect()));
            }
        }
        all
    }

    /// The path in the OpenAPI document.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// A call on an object: a machine or datastore by name, or a job, lease or artifact by id. Sets
    /// all required parameters and fields.
    pub fn call(&self, subject: &str) -> Call {
        let machine = format!("name:{}", encode(subject));
        // The operations on files share one datastore, in which each has a path of its own.
        let is_of_files = OF_FILES.contains(&self.id.as_str());
        let datastore =
            if is_of_files && subject == self.id { "name:isos" } else { machine.as_str() };
        let path = self.path.replace("{machine}", &machine).replace("{snapshot}", "base");
        let path = path
            .replace("{job}", subject)
            .replace("{datastore}", datastore)
            .replace("{pool}", &encode(subject))
            .replace("{lease}", subject)
            .replace("{picture}", subject)
            .replace("{artifact}", subject)
            .replace("{port}", "9000")
            .replace("{name}", "result.txt");
        let query = match self.id.as_str() {
            "get_machine_properties" => vec!["path=name".to_owned()],
            "remove_all_snapshots" => vec!["all=true".to_owned()],
            "wait_for_machine" => vec!["until=question".to_owned()],
            "find_machine" => vec![format!("name={subject}"), "unique=true".to_owned()],
            "list_artifacts" | "list_jobs" | "list_leases" | "list_audit" | "stream_events" => {
                vec![format!("machine={machine}")]
            }
            "get_file" | "put_file" | "delete_file" => vec![format!("path=iso/{}.iso", self.id)],
            "list_files" => vec!["path=iso".to_owned()],
            "get_readiness" => vec!["host=true".to_owned()],
            "open_screen_viewer" | "open_serial_stream" => vec!["mode=drive".to_owned()],
            _ => Vec::new(),
        };
        let body = match self.id.as_str() {
            "create_console_token" => Some(json!({"kind": "screen", "mode": "drive"})),
            "create_lease" => Some(json!({"select": {"name": subject}, "ttl": "1m"})),
            "quarantine_machine" => Some(json!({"reason": "its disk"})),
            "answer_machine" => Some(json!({"question": "19", "choice": "4"})),
            // A file can have any bytes.
            "renew_lease" | "put_file" => Some(json!({})),
            "create_folder" => Some(json!({"path": "iso/new"})),
            "create_snapshot" => Some(json!({"name": "new"})),
            "insert_iso" => Some(json!({"iso": "[isos] iso/boot.iso"})),
            "kill_machine" => Some(json!({"name": subject})),
            "power_machine" => Some(json!({"action": "on"})),
            "rename_snapshot" => Some(json!({"name": "other"})),
            // otter checks the right to type, because it may wake the screen.
            "wait_for_screen" => Some(json!({"still": "1m", "wake": true})),
            "send_screen_input" => Some(json!({"events": [{"keys": ["enter"]}]})),
            "send_serial_input" => Some(json!({"text": "a"})),
            "set_boot" => Some(json!({"order": ["cdrom"]})),
            "wait_for_serial" => Some(json!({"any": [{"text": "login: "}]})),
            _ => None,
        };
        Call { method: self.method.clone(), path, query, headers: Vec::new(), body }
    }
}

impl Call {
    /// Powers the machine of this name on.
    pub fn power(machine: &str) -> Self {
        Self {
            method: Method::POST,
            path: crate::harness::machine_path(machine, "/power"),
            query: Vec::new(),
            headers: Vec::new(),
            body: Some(json!({"action": "on"})),
        }
    }

    /// Sets a query parameter. An empty text adds none.
    pub fn parameter(mut self, parameter: &str) -> Self {
        let name = |pair: &str| pair.split('=').next().unwrap().to_owned();
        self.query.retain(|known| name(known) != name(parameter));
        self.query.extend((!parameter.is_empty()).then(|| parameter.to_owned()));
        self
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn body(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }

    /// The body.
    pub const fn given(&self) -> Option<&Value> {
        self.body.as_ref()
    }

    /// The path and query.
    pub fn target(&self) -> String {
        if self.query.is_empty() {
            self.path.clone()
        } else {
            format!("{}?{}", self.path, self.query.join("&"))
        }
    }

    pub async fn send(self, lab: &Lab) -> Answer {
        Answer::from_request(self.request(lab)).await
    }

    /// Sends the call to the real binary.
    pub async fn send_to(self, daemon: &Daemon) -> Answer {
        let request = daemon.request(self.method.clone(), &self.target());
        Answer::from_request(self.complete(request)).await
    }

    /// Sends the call without waiting for the response.
    pub fn begin(self, lab: &Lab) -> tokio::task::JoinHandle<Answer> {
        tokio::spawn(Answer::from_request(self.request(lab)))
    }

    fn request(self, lab: &Lab) -> reqwest::RequestBuilder {
        let request = lab.request(self.method.clone(), &self.target());
        self.complete(request)
    }

    fn complete(self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        let request = self
            .headers
            .into_iter()
            .fold(request, |request, (name, value)| request.header(name, value));
        match self.body {
            // `json` does not replace an existing content type.
            Some(body) => request.json(&body),
            None => request,
        }
    }
}
