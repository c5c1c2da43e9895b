//! The backend with a server that answers by a script: answers that the simulator never sends.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use otter::domain::ids::MachineId;
use otter::esx::EsxOptions;
use otter::hypervisor::{HostErrorKind, Hypervisor, SessionState};
use tokio::net::TcpListener;

use super::support::{RunningBackend, options};

const SOAP_FAULT: u16 = 500;

/// One scripted answer.
#[derive(Clone)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// A server that answers by its script. Without a scripted answer it is a host with the machine
/// `1`, which never changes.
#[derive(Clone, Default)]
struct Scripted {
    inner: Arc<Mutex<Script>>,
}

#[derive(Default)]
struct Script {
    /// The next answers of each method.
    answers: HashMap<&'static str, Vec<Answer>>,
    requests: Vec<Seen>,
}

#[derive(Clone, Debug)]
struct Seen {
    method: String,
    cookie: Option<String>,
    custom: Option<String>,
    body: String,
}

impl Scripted {
    fn script(&self, method: &'static str, answers: impl IntoIterator<Item = Answer>) -> &Self {
        self.inner.lock().unwrap().answers.entry(method).or_default().extend(answers);
        self
    }

    fn seen(&self, method: &str) -> Vec<Seen> {
        let script = self.inner.lock().unwrap();
        script.requests.iter().filter(|seen| seen.method == method).cloned().collect()
    }

    async fn serve(&self) -> EsxOptions {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = axum::Router::new().fallback(answer).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let mut options = options(&url);
        options.read_timeout = Duration::from_secs(2);
        options
    }
}

async fn answer(State(host): State<Scripted>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let header =
        |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let body = String::from_utf8(body.to_vec()).unwrap();
    let method = match parts.uri.path() {
        "/sdk" => {
            let inside = body.split("<soapenv:Body><").nth(1).unwrap();
            inside.split([' ', '>']).next().unwrap().to_owned()
        }
        path => path.to_owned(),
    };
    let scripted = {
        let mut script = host.inner.lock().unwrap();
        let seen = Seen {
            method: method.clone(),
            cookie: header("cookie"),
            custom: header("x-lab"),
            body: body.clone(),
        };
        script.requests.push(seen);
        let answers = script.answers.entry(usual_name(&method)).or_default();
        (!answers.is_empty()).then(|| answers.remove(0))
    };
    let scripted = match scripted {
        Some(answer) => answer,
        None if method == "WaitForUpdatesEx"
            && !body.contains("<version></version>")
            && !body.contains("Seconds>0<") =>
        {
            std::future::pending().await
        }
        None => usual(&method, &body),
    };
    let mut response = Response::builder().status(scripted.status);
    for (name, value) in scripted.headers {
        response = response.header(name, value);
    }
    response.body(Body::from(scripted.body)).unwrap()
}

/// The static name of a method that a script can answer.
fn usual_name(method: &str) -> &'static str {
    const NAMES: [&str; 9] = [
        "/sdk/vimServiceVersions.xml",
        "RetrieveServiceContent",
        "Login",
        "CreateFilter",
        "CreateContainerView",
        "WaitForUpdatesEx",
        "RetrievePropertiesEx",
        "CancelWaitForUpdates",
        "PowerOnVM_Task",
    ];
    NAMES.into_iter().find(|name| *name == method).unwrap_or("other")
}

fn envelope(content: &str) -> String {
    format!(
        "<E:Envelope xmlns:E=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         xmlns:q=\"http://www.w3.org/2001/XMLSchema-instance\">\
         <E:Body>{content}</E:Body></E:Envelope>"
    )
}

fn ok(method: &str, inside: &str) -> Answer {
    Answer::new(
        200,
        envelope(&format!("<{method}Response xmlns=\"urn:vim25\">{inside}</{method}Response>")),
    )
}

fn fault(name: &str, fields: &str) -> Answer {
    let fault = format!(
        "<E:Fault><faultcode>ServerFaultCode</faultcode><faultstring>{name} it is.</faultstring>\
         <detail><{name}Fault xmlns=\"urn:vim25\" q:type=\"{name}\">{fields}</{name}Fault></detail>\
         </E:Fault>"
    );
    Answer::new(SOAP_FAULT, envelope(&fault))
}

fn usual(method: &str, body: &str) -> Answer {
    match method {
        "/sdk/vimServiceVersions.xml" => Answer::new(404, ""),
        "RetrieveServiceContent" => ok(
            method,
            "<returnval><rootFolder type=\"Folder\">root</rootFolder>\
             <propertyCollector type=\"PropertyCollector\">pc</propertyCollector>\
             <viewManager type=\"ViewManager\">vm</viewManager>\
             <about><fullName>Odd 1</fullName></about>\
             <sessionManager type=\"SessionManager\">sm</sessionManager></returnval>",
        ),
        "Login" => ok(method, "<returnval><key>k</key><userName>root</userName></returnval>")
            .header("set-cookie", "vmware_soap_session=\"abc\"; Path=/; HttpOnly; Secure"),
        "WaitForUpdatesEx" if body.contains("<version></version>") => {
            updates("1", &machine("enter", "1", "named"))
        }
        "RetrievePropertiesEx" if body.contains("currentSession") => ok(
            method,
            "<returnval><objects><obj type=\"SessionManager\">sm</obj>\
             <propSet><name>currentSession</name>\
             <val q:type=\"UserSession\"><key>k</key></val></propSet></objects></returnval>",
        ),
        "RetrievePropertiesEx" => ok(
            method,
            "<returnval><objects><obj type=\"VirtualMachine\">1</obj><propSet><name>name</name>\
             <val>read again</val></propSet></objects></returnval>",
        ),
        "CreateFilter" => ok(method, "<returnval type=\"PropertyFilter\">f</returnval>"),
        "CreateContainerView" => ok(method, "<returnval type=\"ContainerView\">cv</returnval>"),
        "CreateListView" => ok(method, "<returnval type=\"ListView\">lv</returnval>"),
        _ => ok(method, ""),
    }
}

fn updates(version: &str, objects: &str) -> Answer {
    let set = format!(
        "<returnval><version>{version}</version><filterSet>{objects}</filterSet></returnval>"
    );
    ok("WaitForUpdatesEx", &set)
}

fn machine(kind: &str, id: &str, name: &str) -> String {
    changed(kind, id, "name", name)
}

fn changed(kind: &str, id: &str, path: &str, value: &str) -> String {
    format!(
        "<objectSet><kind>{kind}</kind><obj type=\"VirtualMachine\">{id}</obj>\
         <changeSet><name>{path}</name><op>assign</op><val>{value}</val></changeSet></objectSet>"
    )
}

async fn outage_reason(running: &RunningBackend) -> String {
    running
        .observer
        .wait_until("away", |recording| match &recording.statuses.last()?.state {
            SessionState::Away { reason } => Some(reason.clone()),
            _ => None,
        })
        .await
}

#[tokio::test]
async fn the_session_cookie_is_sent_unchanged_and_a_refused_login_sets_none() {
    let host = Scripted::default();
    let refused =
        fault("InvalidLogin", "").header("set-cookie", "vmware_soap_session=\"bad\"; Path=/");
    host.script("Login", [refused]);
    let mut options = host.serve().await;
    options.login_backoff = Duration::from_millis(20);
    options.headers.push(("X-Lab".to_owned(), "secret".to_owned().into()));
    let running = RunningBackend::start(&options);
    running.observer.wait_connected(1).await;
    let logins = host.seen("Login");
    assert_eq!(logins.len(), 2);
    assert!(
        logins.iter().all(
            |login| login.cookie.is_none() && login.body.contains("<password>otter</password>")
        )
    );
    for filter in host.seen("CreateFilter") {
        assert_eq!(filter.cookie.as_deref(), Some("vmware_soap_session=\"abc\""));
        assert_eq!(filter.custom.as_deref(), Some("secret"));
    }
    running.stop().await;
    assert_eq!(host.seen("Logout").len(), 1);
}

#[tokio::test]
async fn a_server_that_is_not_vim25_is_the_reason_of_the_outage() {
    let html = || Answer::new(200, "<html>Welcome</html>");
    let no_session = || ok("Login", "<returnval><key>k</key></returnval>");
    let cases: [(&'static str, Answer, &str); 8] = [
        ("RetrieveServiceContent", html(), "HTTP status 200 without a SOAP answer"),
        ("RetrieveServiceContent", Answer::new(200, "not XML"), "cannot be parsed"),
        (
            "RetrieveServiceContent",
            Answer::new(302, "").header("location", "/elsewhere"),
            "HTTP status 302",
        ),
        ("RetrieveServiceContent", Answer::new(503, "no healthy upstream"), "HTTP status 503"),
        (
            "RetrieveServiceContent",
            ok("RetrieveServiceContent", ""),
            "does not identify itself as a vim25 host",
        ),
        ("/sdk/vimServiceVersions.xml", Answer::new(503, ""), "HTTP status 503"),
        ("Login", no_session(), "set no session cookie"),
        (
            "WaitForUpdatesEx",
            Answer::new(200, &envelope("<WaitForUpdatesExResponse>")[..]),
            "cannot be parsed",
        ),
    ];
    for (method, answer, reason) in cases {
        let host = Scripted::default();
        host.script(method, [answer]);
        let running = RunningBackend::start(&host.serve().await);
        let observed = outage_reason(&running).await;
        assert!(observed.contains(reason), "{method}: {observed}");
        running.observer.wait_connected(1).await;
        assert_eq!(host.seen("/elsewhere").len(), 0, "a redirect was followed");
        assert_eq!(running.observer.recording().machines.len(), 1);
        running.stop().await;
    }
}

#[tokio::test]
async fn an_answer_is_bounded_after_decompression() {
    let host = Scripted::default();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&vec![b' '; 4 << 20]).unwrap();
    let small = gzip.finish().unwrap();
    assert!(small.len() < 64 << 10);
    host.script("WaitForUpdatesEx", [Answer::new(200, small).header("content-encoding", "gzip")]);
    let mut options = host.serve().await;
    options.answer_limit = 1 << 20;
    let running = RunningBackend::start(&options);
    assert!(outage_reason(&running).await.contains("longer than 1048576 bytes"));
    running.observer.wait_connected(1).await;
    running.stop().await;
}

#[tokio::test]
async fn a_property_unknown_to_an_old_host_is_left_out() {
    let host = Scripted::default();
    let lacks = fault("InvalidProperty", "<name>config.nestedHVEnabled</name>");
    host.script("CreateFilter", [usual("CreateFilter", ""), lacks]);
    let running = RunningBackend::start(&host.serve().await);
    running.observer.wait_connected(1).await;
    let filters = host.seen("CreateFilter");
    assert_eq!(filters.len(), 3);
    assert!(
        filters[1].body.contains("nestedHVEnabled") && !filters[2].body.contains("nestedHVEnabled")
    );
    running.stop().await;
}

#[tokio::test]
async fn types_unknown_to_an_old_host_are_left_out() {
    let host = Scripted::default();
    host.script("CreateFilter", [usual("CreateFilter", ""), fault("InvalidType", "")]);
    let running = RunningBackend::start(&host.serve().await);
    running.observer.wait_connected(1).await;
    let filters = host.seen("CreateFilter");
    assert_eq!(filters.len(), 3);
    assert!(
        filters[1].body.contains("OpaqueNetwork") && !filters[2].body.contains("OpaqueNetwork")
    );
    running.stop().await;
}

#[tokio::test]
async fn an_object_is_read_again_after_a_change_that_otter_cannot_merge() {
    for path in ["snapshot.currentSnapshot", "config.hardware.device[4000].connectable", "to.come"]
    {
        let host = Scripted::default();
        host.script(
            "WaitForUpdatesEx",
            [
                updates("1", &machine("enter", "1", "named")),
                updates("2", &changed("modify", "1", path, "x")),
            ],
        );
        let running = RunningBackend::start(&host.serve().await);
        running
            .observer
            .wait_until("read again", |recording| {
                (recording.machines.get(&MachineId::from_backend("1"))?.name == "read again")
                    .then_some(())
            })
            .await;
        assert!(host.seen("RetrievePropertiesEx")[0].body.contains("<pathSet>snapshot</pathSet>"));
        running.stop().await;
    }
}

#[tokio::test]
async fn a_removal_that_a_second_read_denies_is_not_reported() {
    let host = Scripted::default();
    let empty = || ok("WaitForUpdatesEx", "");
    let first = updates("1", &machine("enter", "1", "named"));
    host.script("WaitForUpdatesEx", [first, fault("InvalidCollectorVersion", ""), empty()]);
    let running = RunningBackend::start(&host.serve().await);
    assert!(
        outage_reason(&running)
            .await
            .contains("reported that machines are gone, but a second read still shows them")
    );
    running.observer.wait_connected(1).await;
    let recording = running.observer.recording();
    assert_eq!((recording.machines.len(), recording.smallest), (1, Some(1)));
    running.stop().await;
}

#[tokio::test]
async fn truncated_sets_are_reported_as_one() {
    let host = Scripted::default();
    let part = |version: &str, id: &str| {
        let set = updates(version, &machine("enter", id, id));
        let text = String::from_utf8(set.body).unwrap();
        Answer::new(200, text.replace("</returnval>", "<truncated>true</truncated></returnval>"))
    };
    let parts = [part("t1", "1"), part("t2", "2"), updates("2", &machine("enter", "3", "3"))];
    host.script("WaitForUpdatesEx", parts);
    let running = RunningBackend::start(&host.serve().await);
    running.observer.wait_connected(1).await;
    let recording = running.observer.recording();
    assert_eq!((recording.machines.len(), recording.smallest, recording.syncs), (3, Some(3), 1));
    let versions: Vec<String> =
        host.seen("WaitForUpdatesEx").into_iter().map(|seen| seen.body).take(3).collect();
    assert!(
        versions[1].contains("<version>t1</version>")
            && versions[2].contains("<version>t2</version>")
    );
    running.stop().await;
}

#[tokio::test]
async fn a_silent_host_times_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut options = options(&format!("http://{}", listener.local_addr().unwrap()));
    options.read_timeout = Duration::from_millis(100);
    let running = RunningBackend::start(&options);
    assert!(outage_reason(&running).await.contains("did not answer in time"));
    assert_eq!(running.esx.barrier().await.unwrap_err().kind, HostErrorKind::Unreachable);
    running.stop().await;
}
