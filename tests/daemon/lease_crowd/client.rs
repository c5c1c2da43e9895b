//! One client of the crowd, in a process of its own: the test binary again, asked for this one
//! test. It takes a lease, sees to it that nobody else has the machine, uses it and gives it back,
//! some times over.
//!
//! ```text
//! POST (keyed) ─► wait until active ─► lock file ─► power on (keyed) ─► look ─► renew ─► unlock ─► DELETE
//! ```
//! Whoever holds a machine has its lock file, made as one that nobody else has. One that is there
//! already is a killed client's, and then of a lease that has ended and of an older fence; anything
//! else is wrong, and is noted.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::call::{Answered, Ask, Line};
use crate::daemon::crash::random::SeededRandom;

/// What makes the test below a client: a directory, a name, a seed and the number of its laps.
const CLIENT: &str = "OTTER_TEST_CROWD_CLIENT";

/// Starts a client.
pub fn start(directory: &Path, name: &str, seed: u64, laps: u64) -> Child {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(directory.join("clients.log"))
        .unwrap();
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "daemon::lease_crowd::client::one_of_the_crowd", "--nocapture"])
        .env(CLIENT, format!("{}\n{name}\n{seed}\n{laps}", directory.display()))
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// No test by itself: what a process of the crowd does, which is told so.
#[test]
fn one_of_the_crowd() {
    let Ok(told) = std::env::var(CLIENT) else { return };
    // Whatever else is tested beside goes before two hundred of these.
    rustix::process::nice(10).unwrap();
    let told: Vec<&str> = told.split('\n').collect();
    let [directory, name, seed, laps] = told[..] else { panic!("{told:?}") };
    let directory = PathBuf::from(directory);
    let client = Client {
        line: Line { address: directory.join("address") },
        name: name.to_owned(),
        random: SeededRandom::from_seed(seed.parse().unwrap(), &[]),
        asked: Vec::new(),
        directory,
    };
    client.run(laps.parse().unwrap());
}

struct Client {
    line: Line,
    directory: PathBuf,
    name: String,
    random: SeededRandom,
    /// Every lease that it asked for: its key, what was asked, its id and its secret.
    asked: Vec<(String, Value, String, String)>,
}

/// A lease that is active.
struct Active {
    id: String,
    shown: String,
    machine: String,
    fence: u64,
}

/// The lease ended before its holder gave it back.
struct Lost;

impl Client {
    fn run(mut self, laps: u64) {
        let mut done = 0;
        while done < laps {
            match self.lap() {
                Ok(()) => done += 1,
                Err(Lost) => self.note("lost", &self.name),
            }
            // Any of its keys is still that of its first lease, whatever became of both.
            let (key, body, id, secret) = self.asked[self.random.index(self.asked.len())].clone();
            let again = self.ask(&key, &body);
            if (&again.json["id"], &again.json["secret"]) != (&json!(id), &json!(secret)) {
                // What it has on its hands now is nobody's.
                return self.note(
                    "wrong",
                    &format!("the key {key} gave the lease {id}, then {}", again.json),
                );
            }
            if !again.head.contains("idempotent-replayed: true") {
                self.note("wrong", &format!("the key {key} is answered as new: {}", again.json));
            }
        }
        self.note("done", &self.name);
    }

    fn lap(&mut self) -> Result<(), Lost> {
        let key = format!("{}/{}", self.name, self.asked.len());
        let mut body = json!({"select": {"pool": "lab"}, "ttl": super::TTL, "queue_for": "10m", "holder": self.name});
        if self.random.chance(30) {
            body["prepare"] = json!({"snapshot": "base/kickstart", "power": "on"});
        }
        let answered = self.ask(&key, &body);
        let word = |field: &str| {
            answered.json[field]
                .as_str()
                .unwrap_or_else(|| panic!("no {field}: {}", answered.json))
                .to_owned()
        };
        let (id, secret) = (word("id"), word("secret"));
        self.asked.push((key, body, id.clone(), secret.clone()));
        let waited = self.get(format!("/v1/leases/{id}/wait?wait=5s"));
        if waited.status == 409 {
            return Err(Lost);
        }
        let lease = self.expect(200, waited);
        let active = Active {
            shown: format!("{id}.{secret}"),
            machine: lease["machine"].as_str().unwrap().to_owned(),
            fence: lease["fence"].as_u64().unwrap(),
            id,
        };
        self.lock(&active);
        let used = self.used(&active);
        self.unlock(&active);
        used?;
        let wait = if self.random.chance(50) { "?wait=5s" } else { "" };
        let path = format!("/v1/leases/{}{wait}", active.id);
        let ended = self.line.call(&with_lease("DELETE", path, &active, None));
        let ended = self.expect(200, ended);
        if ended["end"]["reason"] != "released" {
            return Err(Lost);
        }
        Ok(())
    }

    /// Uses the machine.
    fn used(&mut self, active: &Active) -> Result<(), Lost> {
        let path = format!("/v1/machines/{}/power?wait=5s", active.machine);
        let mut power = with_lease("POST", path, active, Some(json!({"action": "on"})));
        power.headers.push(("idempotency-key", format!("{}/on", active.id)));
        let answered = self.line.call(&power);
        self.done(active, &answered)?;
        let machine = self.get(format!("/v1/machines/{}", active.machine));
        let machine = self.expect(200, machine);
        if (&machine["lease"]["id"], &machine["power_state"]) != (&json!(active.id), &json!("on")) {
            self.must_have_ended(active, &format!("the machine is shown as {machine}"))?;
        }
        if self.random.chance(50) {
            let path = format!("/v1/leases/{}/renew", active.id);
            let answered = self.line.call(&with_lease("POST", path, active, Some(json!({}))));
            self.done(active, &answered)?;
        }
        std::thread::sleep(Duration::from_millis(self.random.below(300)));
        Ok(())
    }

    /// A call with the lease succeeded, or the lease has ended.
    fn done(&self, active: &Active, answered: &Answered) -> Result<(), Lost> {
        match answered.status {
            200 => Ok(()),
            status => self.must_have_ended(active, &format!("{status}: {}", answered.json)),
        }
    }

    fn must_have_ended(&self, active: &Active, what: &str) -> Result<(), Lost> {
        let state = self.state(&active.id);
        if state == "active" || state == "preparing" {
            self.note("wrong", &format!("with the lease {} that is {state}: {what}", active.id));
            return Ok(());
        }
        Err(Lost)
    }

    /// Makes the lock file of the machine.
    fn lock(&self, active: &Active) {
        let (lock, own) =
            (self.lock_of(active), self.directory.join(format!("mine-{}", self.name)));
        std::fs::write(&own, inscription(active)).unwrap();
        while std::fs::hard_link(&own, &lock).is_err() {
            // Gone meanwhile: its holder was only about to leave, and its lease is not active any
            // more.
            let Ok(other) = std::fs::read_to_string(&lock) else { continue };
            let words: Vec<&str> = other.split(' ').collect();
            let [id, fence, _] = words[..] else { panic!("{other:?}") };
            let state = self.state(id);
            let ended = matches!(&*state, "released" | "expired" | "revoked" | "failed");
            if !ended || fence.parse::<u64>().unwrap() >= active.fence {
                let (mine, machine, new) = (&active.id, &active.machine, active.fence);
                let wrong = format!(
                    "two hold machine {machine}: {mine} by fence {new}, and {id} by fence {fence}, which is {state}"
                );
                self.note("wrong", &wrong);
            }
            // Gone meanwhile, it is as well.
            drop(std::fs::remove_file(&lock));
        }
    }

    /// Takes the lock file away, which must still be its own.
    fn unlock(&self, active: &Active) {
        let lock = self.lock_of(active);
        let found = std::fs::read_to_string(&lock).unwrap_or_default();
        if found == inscription(active) {
            std::fs::remove_file(&lock).unwrap();
        } else if self.must_have_ended(active, &format!("its lock is {found:?}")).is_ok() {
            self.note("wrong", &format!("somebody else came to hold machine {}", active.machine));
        }
    }

    fn lock_of(&self, active: &Active) -> PathBuf {
        self.directory.join("locks").join(&active.machine)
    }

    fn ask(&self, key: &str, body: &Value) -> Answered {
        let ask = Ask {
            method: "POST",
            path: "/v1/leases".to_owned(),
            headers: vec![("idempotency-key", key.to_owned())],
            body: Some(body.clone()),
        };
        self.line.call(&ask)
    }

    fn get(&self, path: String) -> Answered {
        self.line.call(&Ask { method: "GET", path, headers: Vec::new(), body: None })
    }

    fn state(&self, lease: &str) -> String {
        self.get(format!("/v1/leases/{lease}")).json["state"]
            .as_str()
            .unwrap_or("unknown")
            .to_owned()
    }

    fn expect(&self, status: u16, answered: Answered) -> Value {
        if answered.status != status {
            self.note("wrong", &format!("{} and not {status}: {}", answered.status, answered.json));
        }
        answered.json
    }

    /// Adds a line to a file that all share.
    fn note(&self, file: &str, line: &str) {
        let mut file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.directory.join(file))
            .unwrap();
        file.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

fn inscription(active: &Active) -> String {
    format!("{} {} {}", active.id, active.fence, std::process::id())
}

fn with_lease<'a>(method: &'a str, path: String, active: &Active, body: Option<Value>) -> Ask<'a> {
    Ask { method, path, headers: vec![("otter-lease", active.shown.clone())], body }
}
