//! Tests of the simulator over its real wire, with SOAP envelopes that are written by hand.

mod admin;
mod disruptions;
mod event_manager;
mod files;
mod machines;
mod reconfigure;
mod screens;
mod serial;
mod sessions;
mod updates;

use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;
use otter::clock::Clock;
use otter::esx::soap::xml::{Document, Element};
use otter::simulator::world;
use otter::simulator::{
    Control, Disruption, DownMode, Fault, HostdRestart, Pace, Scenario, SessionLoss, Simulator,
    SimulatorError, SimulatorOptions,
};

use crate::harness::record_answer;

/// A running simulator and a client of it.
struct Lab {
    simulator: Simulator,
    clock: Clock,
    client: reqwest::Client,
    cookie: Option<String>,
}

/// The answer to a call.
struct Reply {
    status: u16,
    cookie: Option<String>,
    encoding: Option<String>,
    document: Document,
}

impl Lab {
    /// Starts the scenario `config/lab.toml` and logs in. The clock and the tasks are stepped.
    async fn stepped() -> Self {
        let mut lab = Self::start(Scenario::lab().unwrap()).await;
        lab.log_in().await;
        lab
    }

    async fn start(scenario: Scenario) -> Self {
        Self::with(scenario, |_| {}).await
    }

    async fn with(scenario: Scenario, change: impl FnOnce(&mut SimulatorOptions)) -> Self {
        let clock = Clock::stepped(Timestamp::constant(1_780_000_000, 0));
        let mut options = SimulatorOptions::new(scenario, clock.clone());
        options.pace = Pace::Stepped;
        options.on_answer = Some(record_answer);
        change(&mut options);
        let simulator = Simulator::start(options).await.unwrap();
        // Another test may have installed the provider before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let certificate =
            reqwest::Certificate::from_pem(simulator.certificate_pem().as_bytes()).unwrap();
        // A pooled connection may be closed just before a call uses it, which these tests do not
        // test.
        let client = reqwest::Client::builder()
            .tls_certs_only([certificate])
            .pool_max_idle_per_host(0)
            .no_gzip();
        let client = client.build().unwrap();
        Self { simulator, clock, client, cookie: None }
    }

    fn control(&self) -> &Control {
        self.simulator.control()
    }

    async fn log_in(&mut self) {
        let reply = self.login("root", "otter").await.unwrap();
        assert_eq!(reply.status, 200);
        self.cookie = reply.cookie;
    }

    async fn login(&self, user: &str, password: &str) -> reqwest::Result<Reply> {
        let parameters = format!("<userName>{user}</userName><password>{password}</password>");
        self.send("Login", "SessionManager", "ha-sessionmgr", &parameters).await
    }

    /// Calls a method. The reply is an answer or a fault.
    async fn call(&self, method: &str, kind: &str, id: &str, parameters: &str) -> Reply {
        self.send(method, kind, id, parameters).await.unwrap()
    }

    async fn send(
        &self,
        method: &str,
        kind: &str,
        id: &str,
        parameters: &str,
    ) -> reqwest::Result<Reply> {
        let envelope = format!(
            "<e:Envelope xmlns:e=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             xmlns:i=\"http://www.w3.org/2001/XMLSchema-instance\"><e:Header><operationID>op-{method}</operationID>\
             </e:Header><e:Body><{method} xmlns=\"urn:vim25\"><_this type=\"{kind}\">{id}</_this>{parameters}\
             </{method}></e:Body></e:Envelope>"
        );
        self.post(envelope).await
    }

    async fn post(&self, envelope: String) -> reqwest::Result<Reply> {
        let mut request = self.client.post(format!("{}/sdk", self.simulator.url())).body(envelope);
        if let Some(cookie) = &self.cookie {
            request = request.header("Cookie", cookie);
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        let header = |name| {
            response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        let cookie =
            header("set-cookie").map(|cookie| cookie.split(';').next().unwrap().to_owned());
        let encoding = header("content-encoding");
        let body = response.bytes().await?;
        let document =
            Document::parse(&body).unwrap_or_else(|_| Document::parse(b"<none/>").unwrap());
        Ok(Reply { status, cookie, encoding, document })
    }

    async fn start_task(&self, method: &str, machine: &str, parameters: &str) -> String {
        let reply = self.call(method, "VirtualMachine", machine, parameters).await;
        reply.returned().text().to_owned()
    }

    /// Starts a task on a machine and runs it to its end. Returns its state and its fault.
    async fn run_task(
        &self,
        method: &str,
        machine: &str,
        parameters: &str,
    ) -> (String, Option<String>) {
        let task = self.start_task(method, machine, parameters).await;
        self.finish(&task).await
    }

    async fn finish(&self, task: &str) -> (String, Option<String>) {
        self.control().finish_task(task);
        let reply = self.fetch("Task", task, "info").await;
        let info = reply.returned();
        let fault =
            info.descend(&["error", "fault"]).and_then(Element::type_name).map(str::to_owned);
        (info.child_text("state").unwrap().to_owned(), fault)
    }

    async fn fetch(&self, kind: &str, id: &str, property: &str) -> Reply {
        self.call("Fetch", kind, id, &format!("<prop>{property}</prop>")).await
    }

    async fn power_state(&self, machine: &str) -> String {
        let reply = self.fetch("VirtualMachine", machine, "runtime").await;
        reply.returned().child_text("powerState").unwrap().to_owned()
    }

    /// A container view of all machines and a filter of these paths over it.
    async fn watch_machines(&self, paths: &[&str]) -> String {
        let parameters = "<container type=\"Folder\">ha-folder-root</container><type>VirtualMachine</type>\
                          <recursive>true</recursive>";
        let reply =
            self.call("CreateContainerView", "ViewManager", "ViewManager", parameters).await;
        let view = reply.returned().text().to_owned();
        self.watch("ContainerView", &view, "VirtualMachine", paths, false).await
    }

    async fn watch(
        &self,
        view_kind: &str,
        view: &str,
        kind: &str,
        paths: &[&str],
        partial: bool,
    ) -> String {
        let parameters = format!(
            "<spec>{}</spec><partialUpdates>{partial}</partialUpdates>",
            spec(view_kind, view, kind, paths)
        );
        let reply = self
            .call("CreateFilter", "PropertyCollector", "ha-property-collector", &parameters)
            .await;
        reply.returned().text().to_owned()
    }

    async fn updates(&self, version: &str, options: &str) -> Reply {
        let parameters = format!("<version>{version}</version><options>{options}</options>");
        self.call("WaitForUpdatesEx", "PropertyCollector", "ha-property-collector", &parameters)
            .await
    }

    /// The updates after a version, without waiting.
    async fn new_updates(&self, version: &str) -> Reply {
        self.updates(version, "<maxWaitSeconds>0</maxWaitSeconds>").await
    }
}

impl Reply {
    fn body(&self) -> Element<'_> {
        self.document.root().child("Body").unwrap().children().next().unwrap()
    }

    fn returned(&self) -> Element<'_> {
        self.body().child("returnval").unwrap_or_else(|| panic!("a fault: {:?}", self.fault()))
    }

    /// The type of the fault. Empty for a fault without detail. `None` if the reply is not a fault.
    fn fault(&self) -> Option<String> {
        let fault = self.document.root().child("Body")?.child("Fault")?;
        let detail = fault.child("detail")?.children().next();
        Some(detail.and_then(Element::type_name).unwrap_or_default().to_owned())
    }

    fn is_empty_answer(&self) -> bool {
        self.status == 200 && self.body().children().next().is_none()
    }

    fn version(&self) -> String {
        self.returned().child_text("version").unwrap().to_owned()
    }

    /// The kind of update and the id of each object in an update set, in order.
    fn objects(&self) -> Vec<(String, String)> {
        let text = |object: Element<'_>, name| object.child_text(name).unwrap().to_owned();
        self.object_sets()
            .into_iter()
            .map(|object| (text(object, "kind"), text(object, "obj")))
            .collect()
    }

    fn object_sets(&self) -> Vec<Element<'_>> {
        let sets = self.returned().children().filter(|child| child.name() == "filterSet");
        sets.flat_map(|set| set.children().filter(|child| child.name() == "objectSet")).collect()
    }

    /// The changes of an object: name, operation, and the text of the value.
    fn changes(&self, id: &str) -> Vec<(String, String, Option<String>)> {
        let text = |change: Element<'_>, name| change.child_text(name).map(str::to_owned);
        self.object_sets()
            .into_iter()
            .filter(|object| object.child_text("obj") == Some(id))
            .flat_map(|object| object.children().filter(|child| child.name() == "changeSet"))
            .map(|change| {
                (text(change, "name").unwrap(), text(change, "op").unwrap(), text(change, "val"))
            })
            .collect()
    }
}

fn spec(view_kind: &str, view: &str, kind: &str, paths: &[&str]) -> String {
    let paths: String = paths.iter().flat_map(|path| ["<pathSet>", path, "</pathSet>"]).collect();
    format!(
        "<propSet><type>{kind}</type><all>false</all>{paths}</propSet><objectSet><obj type=\"{view_kind}\">{view}\
         </obj><skip>true</skip><selectSet i:type=\"TraversalSpec\"><type>{view_kind}</type><path>view</path>\
         <skip>false</skip></selectSet></objectSet>"
    )
}

/// Waits for a future, at most 20 seconds.
async fn bounded<T>(event: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), event).await.unwrap()
}
