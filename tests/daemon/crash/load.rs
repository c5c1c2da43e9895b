//! The mixed load of a lane: what callers do all day, chosen by dice, until the daemon is gone.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::dice::Dice;
use super::ledger::{Ledger, Order};
use crate::harness::encode;

/// The machines of `otter simulate --machines 9`; every third has guest tools.
pub const MACHINES: u64 = 9;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// A little of everything.
    Everything,
    /// The same, and guests that shut down or restart.
    Guests,
    /// The same, and jobs that are cancelled once the host works for them.
    Cancels,
    /// Only what must never be sent twice.
    SentOnce,
    /// Everything with a key, and waited for.
    Keyed,
}

/// Whoever talks to one life of a daemon. Every method gives none once the daemon is gone.
#[derive(Clone)]
pub struct Caller {
    client: reqwest::Client,
    base: String,
    pub ledger: Ledger,
    life: u32,
}

/// An answer, as far as the load minds.
struct Answered {
    status: u16,
    json: Value,
}

impl Caller {
    pub fn new(address: &str, ledger: &Ledger, life: u32) -> Self {
        // Another test may have installed it before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client =
            reqwest::Client::builder().no_proxy().gzip(false).timeout(Duration::from_secs(20));
        let client = client.build().unwrap();
        Self { client, base: format!("http://{address}"), ledger: ledger.clone(), life }
    }

    /// Does one thing after the other until the daemon is gone.
    pub async fn work(self, mut dice: Dice, mix: Mix) {
        while self.act(&mut dice, mix).await.is_some() {}
    }

    /// Asks for everything that the last lives left open: no job may be lost, no end taken back,
    /// and every key is answered with its first job.
    pub async fn verify(&self) -> Option<()> {
        for job in self.ledger.to_be_verified(self.life) {
            self.job(&job).await?;
            self.ledger.verified(&job, self.life);
        }
        for order in self.ledger.to_be_repeated(self.life.saturating_sub(2)) {
            self.send(&order, None).await?;
        }
        Some(())
    }

    /// Every job of otter's.
    pub async fn all_jobs(&self) -> Option<Vec<Value>> {
        let (mut jobs, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.read(&format!("/v1/jobs?limit=1000{cursor}")).await?;
            jobs.extend(page["items"].as_array()?.iter().cloned());
            let Some(next) = page["next"].as_str() else { return Some(jobs) };
            cursor = format!("&cursor={}", encode(next));
        }
    }

    /// What a path shows; it must be there.
    pub async fn read(&self, path: &str) -> Option<Value> {
        let answered = self.ask(self.client.get(format!("{}{path}", self.base))).await?;
        if answered.status != 200 {
            self.ledger.wrong(format!("GET {path}: {} {}", answered.status, answered.json));
        }
        Some(answered.json)
    }

    /// The status of `/readyz`.
    pub async fn is_ready(&self) -> Option<bool> {
        Some(self.ask(self.client.get(format!("{}/readyz", self.base))).await?.status == 200)
    }

    /// A stream of events, from where another left off.
    pub async fn events(&self, since: Option<&str>) -> Option<reqwest::Response> {
        let request =
            self.client.get(format!("{}/v1/events", self.base)).timeout(Duration::from_mins(5));
        let request =
            since.iter().fold(request, |request, id| request.header("last-event-id", *id));
        request.send().await.ok()
    }

    async fn act(&self, dice: &mut Dice, mix: Mix) -> Option<()> {
        let machine = 1 + dice.below(MACHINES);
        match mix {
            Mix::SentOnce => {
                let order = if dice.chance(50) {
                    self.power(machine, json!({"action": "reset"}), None)
                } else {
                    self.create(machine, dice)
                };
                return self.start(dice, order).await;
            }
            Mix::Keyed => {
                let action = if dice.chance(50) { "on" } else { "off" };
                let order =
                    self.power(machine, json!({"action": action}), Some(self.ledger.fresh("key")));
                return self.send(&order, Some("5s")).await.map(drop);
            }
            Mix::Guests if dice.chance(60) => return self.move_guest(dice).await,
            Mix::Cancels if dice.chance(60) => {
                let order = self.create(machine, dice);
                let Some(job) = self.send(&order, None).await? else { return Some(()) };
                return self.cancel_once_on_host(&job).await;
            }
            Mix::Everything | Mix::Guests | Mix::Cancels => {}
        }
        match dice.below(100) {
            0..12 => self.look(machine, dice).await,
            12..20 => self.cancel(dice).await,
            20..26 => self.repeat(dice).await,
            26..30 => {
                let name = self.read(&format!("/v1/machines/{machine}")).await?["name"].clone();
                let order =
                    self.order(Method::POST, "/v1/machines/kill", Some(json!({"name": name})));
                self.start(dice, Order { machine: machine.to_string(), ..order }).await
            }
            30..46 => {
                let snapshot = ["base", "kickstart"][dice.at(2)];
                let body = match dice.below(3) {
                    0 => json!({"snapshot": snapshot}),
                    1 => json!({"snapshot": snapshot, "power_on": true}),
                    _ => json!({"snapshot": snapshot, "power_on": false}),
                };
                let order =
                    self.order(Method::POST, &format!("/v1/machines/{machine}/revert"), Some(body));
                self.start(dice, Order { machine: machine.to_string(), ..order }).await
            }
            46..54 => {
                let order = self.create(machine, dice);
                self.start(dice, order).await
            }
            54..64 => self.change_snapshot(machine, dice).await,
            64..68 => self.move_guest(dice).await,
            weight => {
                let action = match weight {
                    68..75 => "reset",
                    75..80 => "suspend",
                    80..90 => "off",
                    _ => "on",
                };
                self.start(dice, self.power(machine, json!({"action": action}), None)).await
            }
        }
    }

    /// Sends an order, keyed or not, twice at once or not, and waits for its end or not.
    async fn start(&self, dice: &mut Dice, mut order: Order) -> Option<()> {
        if order.key.is_none() && dice.chance(50) {
            order.key = Some(self.ledger.fresh("key"));
        }
        let wait = dice.chance(30).then_some("3s");
        if order.key.is_some() && dice.chance(10) {
            let (first, second) = tokio::join!(self.send(&order, wait), self.send(&order, None));
            return first.and(second).map(drop);
        }
        let job = self.send(&order, wait).await?;
        match (job, dice.below(10)) {
            (Some(job), 0) => self.cancel_job(&job).await,
            (Some(job), 1) => self.cancel_once_on_host(&job).await,
            (Some(job), 2..8) => {
                let asked = self.ledger.ask();
                let shown = self.read(&format!("/v1/jobs/{job}?wait=2s")).await?;
                self.ledger.shown(asked, &shown);
                Some(())
            }
            _ => Some(()),
        }
    }

    async fn send(&self, order: &Order, wait: Option<&str>) -> Option<Option<String>> {
        // A rename waits in any case.
        let wait = wait.or((order.method == Method::PATCH).then_some("3s"));
        let wait = wait.map(|wait| format!("wait={wait}")).unwrap_or_default();
        let query = [order.query.as_str(), &wait].into_iter().filter(|part| !part.is_empty());
        let query = query.collect::<Vec<_>>().join("&");
        let url = format!("{}{}?{query}", self.base, order.path);
        let mut request = self.client.request(order.method.clone(), url.trim_end_matches('?'));
        request = request.header("otter-reference", &order.reference);
        if let Some(key) = &order.key {
            request = request.header("idempotency-key", key);
        }
        if let Some(body) = &order.body {
            request = request.json(body);
        }
        self.ledger.sending(order, self.life);
        let asked = self.ledger.ask();
        let Answered { status, json } = self.ask(request).await?;
        let text = |field: &str| json[field].as_str().map(str::to_owned);
        if let (Some(job), Some(_)) = (text("id"), text("kind")) {
            self.ledger.accepted(order, &job);
            self.ledger.shown(asked, &json);
            return Some(Some(job));
        }
        let code = text("code").unwrap_or_default();
        if let Some(job) = text("job") {
            self.ledger.accepted(order, &job);
            // A rename that went well is answered with its snapshot, which may be gone since.
            let no_snapshot = order.method == Method::PATCH && code == "not-found";
            if !no_snapshot
                && !matches!(code.as_str(), "wait-timeout" | "job-still-running" | "shutting-down")
            {
                self.ledger.shown_by_problem(&job, &code);
            }
            return Some(Some(job));
        }
        if order.method != Method::PATCH || status != 200 {
            self.ledger.refused(order, &format!("{status} {code}"));
            let usual = [
                "not-found",
                "ambiguous-name",
                "queue-full",
                "inventory-loading",
                "invalid-power-state",
                "shutting-down",
            ];
            if !usual.contains(&code.as_str()) {
                self.ledger.wrong(format!("{} {}: {status} {json}", order.method, order.path));
            }
        }
        Some(None)
    }

    async fn look(&self, machine: u64, dice: &mut Dice) -> Option<()> {
        let path = match dice.below(5) {
            0 => "/v1/machines".to_owned(),
            1 => format!("/v1/machines/{machine}/snapshots"),
            2 => "/v1/jobs?state=running&limit=5".to_owned(),
            3 => "/v1/machines/find?free=false&power_state=off,on,suspended&name=0".to_owned(),
            _ => format!("/v1/machines/{machine}"),
        };
        // Nothing may be found; the daemon answers all the same.
        let answered = self.ask(self.client.get(format!("{}{path}", self.base))).await?;
        if !matches!(answered.status, 200 | 400 | 404) {
            self.ledger.wrong(format!("GET {path}: {} {}", answered.status, answered.json));
        }
        Some(())
    }

    async fn cancel(&self, dice: &mut Dice) -> Option<()> {
        let unfinished = self.ledger.unfinished();
        if unfinished.is_empty() {
            return Some(());
        }
        self.cancel_job(&unfinished[dice.at(unfinished.len())].0).await
    }

    async fn cancel_job(&self, job: &str) -> Option<()> {
        let asked = self.ledger.ask();
        let answered =
            self.ask(self.client.post(format!("{}/v1/jobs/{job}/cancel", self.base))).await?;
        match answered.status {
            200 | 202 => self.ledger.shown(asked, &answered.json),
            status => self.ledger.wrong(format!("cancelling {job}: {status} {}", answered.json)),
        }
        Some(())
    }

    async fn cancel_once_on_host(&self, job: &str) -> Option<()> {
        for _ in 0..20 {
            let shown = self.job(job).await?;
            if !shown["host_task"].is_null() || !shown["finished_at"].is_null() {
                break;
            }
        }
        self.cancel_job(job).await
    }

    /// Asks a guest with tools to shut down or to restart, once it runs. One that is never seen to
    /// obey ends its job at the deadline.
    async fn move_guest(&self, dice: &mut Dice) -> Option<()> {
        let machine = 3 * (1 + dice.below(MACHINES / 3));
        self.send(&self.power(machine, json!({"action": "on"}), None), Some("1s")).await?;
        let url = format!("{}/v1/machines/{machine}/wait?until=tools&wait=1s", self.base);
        let answered = self.ask(self.client.get(url)).await?;
        if !matches!(answered.status, 200 | 409 | 503 | 504) {
            self.ledger
                .wrong(format!("waiting for the tools: {} {}", answered.status, answered.json));
        }
        let (body, query) = if dice.chance(50) {
            (json!({"action": "shutdown", "force_after": "1s"}), "")
        } else {
            (json!({"action": "reboot"}), "deadline=4s")
        };
        let order = self.power(machine, body, None);
        self.start(dice, Order { query: query.to_owned(), ..order }).await
    }

    async fn job(&self, job: &str) -> Option<Value> {
        let asked = self.ledger.ask();
        let shown = self.read(&format!("/v1/jobs/{job}")).await?;
        self.ledger.shown(asked, &shown);
        Some(shown)
    }

    async fn repeat(&self, dice: &mut Dice) -> Option<()> {
        let orders = self.ledger.to_be_repeated(0);
        if orders.is_empty() {
            return Some(());
        }
        let wait = dice.chance(30).then_some("2s");
        self.send(&orders[dice.at(orders.len())], wait).await.map(drop)
    }

    /// Removes, renames or re-describes one of the snapshots that this load made.
    async fn change_snapshot(&self, machine: u64, dice: &mut Dice) -> Option<()> {
        let path = format!("/v1/machines/{machine}/snapshots");
        let snapshots = self.read(&path).await?;
        let made = snapshots["items"].as_array()?.iter();
        let made = made.filter(|snapshot| {
            snapshot["name"].as_str().is_some_and(|name| name.starts_with("made-"))
        });
        let made: Vec<&str> = made.filter_map(|snapshot| snapshot["id"].as_str()).collect();
        if made.is_empty() {
            let order = self.create(machine, dice);
            return self.start(dice, order).await;
        }
        let path = format!("{path}/{}", encode(made[dice.at(made.len())]));
        let order = if dice.chance(50) {
            let order = self.order(Method::DELETE, &path, None);
            Order { query: ["", "children=true"][dice.at(2)].to_owned(), ..order }
        } else {
            self.order(
                Method::PATCH,
                &path,
                Some(json!({"description": self.ledger.fresh("described")})),
            )
        };
        self.start(dice, Order { machine: machine.to_string(), ..order }).await
    }

    fn create(&self, machine: u64, dice: &mut Dice) -> Order {
        let body = json!({"name": self.ledger.fresh("made"), "memory": dice.chance(30)});
        let order =
            self.order(Method::POST, &format!("/v1/machines/{machine}/snapshots"), Some(body));
        Order { machine: machine.to_string(), ..order }
    }

    fn power(&self, machine: u64, body: Value, key: Option<String>) -> Order {
        let order = self.order(Method::POST, &format!("/v1/machines/{machine}/power"), Some(body));
        Order { machine: machine.to_string(), key, ..order }
    }

    fn order(&self, method: Method, path: &str, body: Option<Value>) -> Order {
        Order {
            method,
            path: path.to_owned(),
            query: String::new(),
            body,
            key: None,
            reference: self.ledger.fresh("order"),
            machine: String::new(),
        }
    }

    async fn ask(&self, request: reqwest::RequestBuilder) -> Option<Answered> {
        let (client, request) = request.build_split();
        let request = request.unwrap();
        let asked = format!("{} {}", request.method(), request.url().path());
        let response = match client.execute(request).await {
            Ok(response) => response,
            Err(error) => {
                if error.is_timeout() {
                    self.ledger.wrong(format!("{asked} was never answered"));
                }
                return None;
            }
        };
        let status = response.status().as_u16();
        let bytes = response.bytes().await.ok()?;
        Some(Answered { status, json: serde_json::from_slice(&bytes).unwrap_or(Value::Null) })
    }
}
