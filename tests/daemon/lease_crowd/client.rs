//! One client of the crowd. It is a process of its own: the test binary with a filter for the test
//! below. Some times over, it requests a lease, checks that no other client holds the machine, uses
//! the machine, and ends the lease.
//!
//! ```text
//! POST (keyed) ─► wait until active ─► lock file ─► power on (keyed) ─► read ─► renew
//!   ─► remove the lock file ─► DELETE
//! ```
//! A client that holds a machine creates the lock file of the machine. If the file exists, a killed
//! client left it: then its lease has ended and its fence is lower. Everything else is an error,
//! which the client writes to the file `errors`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::http::{HttpClient, Request, Response};
use crate::daemon::crash::random::SeededRandom;

/// The environment variable that turns the test process into a client. Its lines are a directory, a
/// name, a seed and the number of rounds.
const CLIENT: &str = "OTTER_TEST_CROWD_CLIENT";

/// Starts a client.
pub fn start(directory: &Path, name: &str, seed: u64, rounds: u64) -> Child {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(directory.join("clients.log"))
        .unwrap();
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "daemon::lease_crowd::client::one_of_the_crowd", "--nocapture"])
        .env(CLIENT, format!("{}\n{name}\n{seed}\n{rounds}", directory.display()))
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// The main function of a client process. Without the variable [`CLIENT`] it does nothing.
#[test]
fn one_of_the_crowd() {
    let Ok(arguments) = std::env::var(CLIENT) else { return };
    // Two hundred clients must not slow down the other tests.
    rustix::process::nice(10).unwrap();
    let arguments: Vec<&str> = arguments.split('\n').collect();
    let [directory, name, seed, rounds] = arguments[..] else { panic!("{arguments:?}") };
    let directory = PathBuf::from(directory);
    let client = Client {
        http: HttpClient { address: directory.join("address") },
        name: name.to_owned(),
        random: SeededRandom::from_seed(seed.parse().unwrap(), &[]),
        requested: Vec::new(),
        directory,
    };
    client.run(rounds.parse().unwrap());
}

struct Client {
    http: HttpClient,
    directory: PathBuf,
    name: String,
    random: SeededRandom,
    /// Every lease that this client requested: the key, the body, the id and the secret.
    requested: Vec<(String, Value, String, String)>,
}

/// An active lease.
struct ActiveLease {
    id: String,
    header: String,
    machine: String,
    fence: u64,
}

/// The lease ended before its holder ended it.
struct Lost;

impl Client {
    fn run(mut self, rounds: u64) {
        let mut done = 0;
        while done < rounds {
            match self.round() {
                Ok(()) => done += 1,
                Err(Lost) => self.append("lost", &self.name),
            }
            // A repeat of any earlier request returns the first lease.
            let (key, body, id, secret) =
                self.requested[self.random.index(self.requested.len())].clone();
            let again = self.request_lease(&key, &body);
            if (&again.json["id"], &again.json["secret"]) != (&json!(id), &json!(secret)) {
                return self.append(
                    "errors",
                    &format!("the key {key} returned the lease {id}, then {}", again.json),
                );
            }
            if !again.head.contains("idempotent-replayed: true") {
                self.append(
                    "errors",
                    &format!(
                        "the response to a repeat with the key {key} is not marked: {}",
                        again.json
                    ),
                );
            }
        }
        self.append("done", &self.name);
    }

    fn round(&mut self) -> Result<(), Lost> {
        let key = format!("{}/{}", self.name, self.requested.len());
        let mut body = json!({
            "select": {"pool": "lab"},
            "ttl": super::TTL,
            "queue_for": "10m",
            "holder": self.name,
        });
        if self.random.chance(30) {
            body["prepare"] = json!({"snapshot": "base/kickstart", "power": "on"});
        }
        let response = self.request_lease(&key, &body);
        let text = |field: &str| {
            response.json[field]
                .as_str()
                .unwrap_or_else(|| panic!("no {field}: {}", response.json))
                .to_owned()
        };
        let (id, secret) = (text("id"), text("secret"));
        self.requested.push((key, body, id.clone(), secret.clone()));
        let waited = self.get(format!("/v1/leases/{id}/wait?wait=5s"));
        if waited.status == 409 {
            return Err(Lost);
        }
        let lease = self.expect(200, waited);
        let active = ActiveLease {
            header: format!("{id}.{secret}"),
            machine: lease["machine"].as_str().unwrap().to_owned(),
            fence: lease["fence"].as_u64().unwrap(),
            id,
        };
        self.lock(&active);
        let result = self.use_machine(&active);
        self.unlock(&active);
        result?;
        let wait = if self.random.chance(50) { "?wait=5s" } else { "" };
        let path = format!("/v1/leases/{}{wait}", active.id);
        let ended = self.http.call(&with_lease("DELETE", path, &active, None));
        let ended = self.expect(200, ended);
        if ended["end"]["reason"] != "released" {
            return Err(Lost);
        }
        Ok(())
    }

    /// Powers the machine on, reads it, and sometimes renews the lease.
    fn use_machine(&mut self, active: &ActiveLease) -> Result<(), Lost> {
        let path = format!("/v1/machines/{}/power?wait=5s", active.machine);
        let mut power = with_lease("POST", path, active, Some(json!({"action": "on"})));
        power.headers.push(("idempotency-key", format!("{}/on", active.id)));
        let response = self.http.call(&power);
        self.check_call(active, &response)?;
        let machine = self.get(format!("/v1/machines/{}", active.machine));
        let machine = self.expect(200, machine);
        if (&machine["lease"]["id"], &machine["power_state"]) != (&json!(active.id), &json!("on")) {
            self.must_have_ended(active, &format!("the machine is {machine}"))?;
        }
        if self.random.chance(50) {
            let path = format!("/v1/leases/{}/renew", active.id);
            let response = self.http.call(&with_lease("POST", path, active, Some(json!({}))));
            self.check_call(active, &response)?;
        }
        std::thread::sleep(Duration::from_millis(self.random.below(300)));
        Ok(())
    }

    /// Checks that a call with the lease succeeded. Fails if the lease has ended.
    fn check_call(&self, active: &ActiveLease, response: &Response) -> Result<(), Lost> {
        match response.status {
            200 => Ok(()),
            status => self.must_have_ended(active, &format!("{status}: {}", response.json)),
        }
    }

    fn must_have_ended(&self, active: &ActiveLease, what: &str) -> Result<(), Lost> {
        let state = self.state(&active.id);
        if state == "active" || state == "preparing" {
            self.append("errors", &format!("the lease {} is {state}, but {what}", active.id));
            return Ok(());
        }
        Err(Lost)
    }

    /// Creates the lock file of the machine.
    fn lock(&self, active: &ActiveLease) {
        let (lock, own) =
            (self.lock_of(active), self.directory.join(format!("mine-{}", self.name)));
        std::fs::write(&own, lock_text(active)).unwrap();
        while std::fs::hard_link(&own, &lock).is_err() {
            // The other client has removed the file since then.
            let Ok(other) = std::fs::read_to_string(&lock) else { continue };
            let words: Vec<&str> = other.split(' ').collect();
            let [id, fence, _] = words[..] else { panic!("{other:?}") };
            let state = self.state(id);
            let ended = matches!(&*state, "released" | "expired" | "revoked" | "failed");
            if !ended || fence.parse::<u64>().unwrap() >= active.fence {
                let (mine, machine, new) = (&active.id, &active.machine, active.fence);
                let error = format!(
                    "two leases hold machine {machine}: {mine} with fence {new}, and {id} with \
                     fence {fence}, which is {state}"
                );
                self.append("errors", &error);
            }
            // The other client may have removed the file since then.
            drop(std::fs::remove_file(&lock));
        }
    }

    /// Removes the lock file, which this client must have created.
    fn unlock(&self, active: &ActiveLease) {
        let lock = self.lock_of(active);
        let found = std::fs::read_to_string(&lock).unwrap_or_default();
        if found == lock_text(active) {
            std::fs::remove_file(&lock).unwrap();
        } else if self.must_have_ended(active, &format!("the lock file has {found:?}")).is_ok() {
            self.append("errors", &format!("another client holds machine {}", active.machine));
        }
    }

    fn lock_of(&self, active: &ActiveLease) -> PathBuf {
        self.directory.join("locks").join(&active.machine)
    }

    fn request_lease(&self, key: &str, body: &Value) -> Response {
        let request = Request {
            method: "POST",
            path: "/v1/leases".to_owned(),
            headers: vec![("idempotency-key", key.to_owned())],
            body: Some(body.clone()),
        };
        self.http.call(&request)
    }

    fn get(&self, path: String) -> Response {
        self.http.call(&Request { method: "GET", path, headers: Vec::new(), body: None })
    }

    fn state(&self, lease: &str) -> String {
        self.get(format!("/v1/leases/{lease}")).json["state"]
            .as_str()
            .unwrap_or("unknown")
            .to_owned()
    }

    fn expect(&self, status: u16, response: Response) -> Value {
        if response.status != status {
            self.append(
                "errors",
                &format!("{} and not {status}: {}", response.status, response.json),
            );
        }
        response.json
    }

    /// Adds a line to a file that all clients share.
    fn append(&self, file: &str, line: &str) {
        let mut file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.directory.join(file))
            .unwrap();
        file.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

fn lock_text(active: &ActiveLease) -> String {
    format!("{} {} {}", active.id, active.fence, std::process::id())
}

fn with_lease<'a>(
    method: &'a str,
    path: String,
    active: &ActiveLease,
    body: Option<Value>,
) -> Request<'a> {
    Request { method, path, headers: vec![("otter-lease", active.header.clone())], body }
}
