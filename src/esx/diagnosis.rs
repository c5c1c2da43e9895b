//! The checks of `otter doctor`: each part of the connection to the host once, in order, with
//! findings and advice for people.
//!
//! ```text
//! name ─► connection ─► TLS ─► API ─► login ─► licence, inventory, rights, sessions ─► logout
//!   └──────────┴─────────┴──────┴───────┴─ a failure here ends the diagnosis
//! ```
//! The password is never sent to a host whose certificate is rejected, and a refused login is never
//! repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::options::{EsxOptions, service_url};
use super::property_reader::{Contents, first_value, read_once};
use super::service_content::ServiceContent;
use super::session::{ConnectError, Login, Session};
use super::soap::Reference;
use super::soap::property::number;
use super::soap::request::{self, PropertySpec, Selection};
use super::soap::xml::Element;
use super::tls::{self, Endpoint};
use super::transport::TimeoutClass;
use crate::clock::Clock;
use crate::domain::verify::{Fingerprint, Verify};
use crate::hypervisor::{HostError, HostErrorKind};
use crate::telemetry::metrics::Metrics;

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The name of the check, such as `login`.
    pub check: &'static str,
    pub good: bool,
    /// The finding, in sentences.
    pub found: String,
    /// What to do if something is wrong.
    pub advice: Option<String>,
}

/// Runs all checks, passes each finding to `on_finding`, and returns whether all are good.
///
/// # Errors
/// As [`EsxOptions::check`].
pub async fn diagnose(
    options: &EsxOptions,
    clock: &Clock,
    on_finding: &mut (dyn FnMut(Finding) + Send),
) -> Result<bool, super::OptionsError> {
    options.check()?;
    let session = Session::new(options, clock.clone(), Metrics::default())?;
    let mut report = CheckReport { on_finding, all_good: true };
    if let Some((login, host)) = connect_and_log_in(options, &session, &mut report).await {
        let checks = AccountChecks { session: &session, login: &login };
        report.add("licence", checks.licence(&host).await);
        let machines = checks.machines().await;
        report.add("inventory", checks.inventory(&machines).await);
        report.add("rights", checks.rights(&machines).await);
        report.add("sessions", checks.sessions().await);
        session.logout(&login).await;
    }
    Ok(report.all_good)
}

/// The fingerprint of the certificate that the host presents now, for an operator who wants to pin
/// it. Compare it with the fingerprint on the console of the host before you trust it.
///
/// # Errors
/// `Unreachable` if no TLS handshake succeeds in time.
pub async fn presented_fingerprint(options: &EsxOptions) -> Result<Fingerprint, HostError> {
    let unreachable = |message: String| HostError::new(HostErrorKind::Unreachable, message);
    let url = service_url(&options.url).map_err(|error| unreachable(error.to_string()))?;
    let endpoint = Endpoint::from_url(&url)?;
    let Endpoint { host, port, .. } = &endpoint;
    tls::handshake(&endpoint, &Verify::Off, options.connect_timeout).await.map_err(|error| {
        unreachable(format!(
            "No TLS with the host {host}:{port}: {}.",
            tls::handshake_error_text(&error)
        ))
        .caused_by(error)
    })
}

/// The finding of a good check, or the problem.
type CheckResult = Result<String, Problem>;

struct Problem {
    found: String,
    advice: String,
}

fn problem(found: impl Into<String>, advice: impl Into<String>) -> Problem {
    Problem { found: found.into(), advice: advice.into() }
}

struct CheckReport<'a> {
    on_finding: &'a mut (dyn FnMut(Finding) + Send),
    all_good: bool,
}

impl CheckReport<'_> {
    fn add(&mut self, check: &'static str, result: CheckResult) {
        let finding = match result {
            Ok(found) => Finding { check, good: true, found, advice: None },
            Err(Problem { found, advice }) => {
                Finding { check, good: false, found, advice: Some(advice) }
            }
        };
        self.all_good &= finding.good;
        (self.on_finding)(finding);
    }

    /// Adds a check whose value the next check needs. `None` if the check failed.
    fn step<T>(&mut self, check: &'static str, result: Result<(T, String), Problem>) -> Option<T> {
        let (value, text) = match result {
            Ok((value, found)) => (Some(value), Ok(found)),
            Err(wrong) => (None, Err(wrong)),
        };
        self.add(check, text);
        value
    }
}

/// The checks from the address to the login. `None` if one of them failed.
async fn connect_and_log_in(
    options: &EsxOptions,
    session: &Session,
    report: &mut CheckReport<'_>,
) -> Option<(Login, ServiceContent)> {
    let endpoint = report.step("address", endpoint(options))?;
    let addresses = report.step("name", resolve(options, &endpoint).await)?;
    report.step("connection", connect(options, &endpoint, &addresses).await)?;
    let (trusted, judged) = certificate(options, &endpoint).await;
    report.add("tls", judged);
    if !trusted {
        return None;
    }
    let (version, content) = report.step("api", identify(session).await)?;
    let login = report.step("login", log_in(options, session, version, content.clone()).await)?;
    Some((login, content))
}

fn endpoint(options: &EsxOptions) -> Result<(Endpoint, String), Problem> {
    let advice = "Set esx.url (OTTER_ESX_URL) to https://<host> or https://<host>:<port>.";
    let url = service_url(&options.url).map_err(|error| problem(error.to_string(), advice))?;
    let endpoint = Endpoint::from_url(&url).map_err(|error| problem(error.to_string(), advice))?;
    Ok((endpoint, format!("The host's API is at {url}.")))
}

async fn resolve(
    options: &EsxOptions,
    endpoint: &Endpoint,
) -> Result<(Vec<SocketAddr>, String), Problem> {
    let Endpoint { host, port, .. } = endpoint;
    let advice = "Correct the name in esx.url, add it to the DNS or to /etc/hosts, or use the \
                  host's IP address.";
    let found = tokio::time::timeout(
        options.connect_timeout,
        tokio::net::lookup_host((host.as_str(), *port)),
    );
    let addresses: Vec<SocketAddr> = match found.await {
        Err(_) => {
            return Err(problem(format!("The name {host} was not resolved in time."), advice));
        }
        Ok(Err(error)) => {
            return Err(problem(format!("The name {host} cannot be resolved: {error}."), advice));
        }
        Ok(Ok(addresses)) => addresses.collect(),
    };
    if addresses.is_empty() {
        return Err(problem(format!("The name {host} has no address."), advice));
    }
    let mut shown: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
    shown.dedup();
    let text = if shown == [host.clone()] {
        format!("{host} is an address; no name needs to be resolved.")
    } else {
        format!("{host} has the address {}.", shown.join(", "))
    };
    Ok((addresses, text))
}

async fn connect(
    options: &EsxOptions,
    endpoint: &Endpoint,
    addresses: &[SocketAddr],
) -> Result<((), String), Problem> {
    let mut last = None;
    for address in addresses {
        match tokio::time::timeout(options.connect_timeout, TcpStream::connect(address)).await {
            Ok(Ok(_)) => return Ok(((), format!("{address} accepts connections."))),
            Ok(Err(error)) => last = Some((address, error)),
            Err(_) => last = Some((address, io::ErrorKind::TimedOut.into())),
        }
    }
    let Some((address, error)) = last else {
        return Err(problem(format!("{} has no address.", endpoint.host), "Correct esx.url."));
    };
    let advice = match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "No service listens there: check the port in esx.url (usually 443), and whether the \
             host is up and hostd runs."
        }
        io::ErrorKind::TimedOut => {
            "There is no answer: check that the host is up and that no firewall blocks the \
             connection."
        }
        _ => "Check the network between otter and the host.",
    };
    Err(problem(format!("No connection to {address}: {error}."), advice))
}

/// Checks the certificate. The `bool` is whether the diagnosis may continue: if the certificate is
/// accepted, or if verification is off.
async fn certificate(options: &EsxOptions, endpoint: &Endpoint) -> (bool, CheckResult) {
    if !endpoint.is_tls {
        return (
            true,
            Ok("Not used: esx.url is http, which is allowed for this machine only.".to_owned()),
        );
    }
    let seen = match presented_fingerprint(options).await {
        Ok(seen) => seen,
        Err(error) => {
            let advice = "The server does not speak TLS: check the port in esx.url (usually 443).";
            return (false, Err(problem(error.message, advice)));
        }
    };
    let compare = "Compare the fingerprint with the one on the host's console, or with the output \
                   of `openssl x509 -noout -fingerprint -sha256 -in /etc/vmware/ssl/rui.crt` on \
                   the host. If they are the same, set";
    let pin = format!("{compare} esx.verify = \"sha256:{seen}\" (OTTER_ESX_VERIFY).");
    let refused = match tls::handshake(endpoint, &options.verify, options.connect_timeout).await {
        Ok(_) => None,
        Err(error) => Some(tls::handshake_error_text(&error)),
    };
    match (&options.verify, refused) {
        (Verify::Off, _) => (
            true,
            Err(problem(
                format!(
                    "The host's certificate is not checked, so another server could read the \
                     password. It is sha256:{seen}."
                ),
                pin,
            )),
        ),
        (Verify::Fingerprint(_), None) => {
            (true, Ok(format!("The certificate is the pinned one, sha256:{seen}.")))
        }
        (Verify::SystemRoots | Verify::CaFile(_), None) => {
            (true, Ok(format!("The certificate is trusted; it is sha256:{seen}.")))
        }
        (_, Some(reason)) => (
            false,
            Err(problem(
                format!(
                    "The certificate is not accepted: {reason}. The host presented sha256:{seen}."
                ),
                pin,
            )),
        ),
    }
}

async fn identify(session: &Session) -> Result<((&'static str, ServiceContent), String), Problem> {
    match session.identify().await {
        Ok((version, content)) => {
            let product = &content.product;
            let kind = match product.api_type.as_str() {
                "HostAgent" => "a standalone host",
                "VirtualCenter" => "a vCenter",
                other => other,
            };
            let text = format!(
                "{}, {kind}, API {}; otter uses the API version {version}.",
                product.full_name, product.api_version
            );
            Ok(((version, content), text))
        }
        Err(error) => {
            let advice = match error.kind {
                HostErrorKind::Protocol => {
                    "The server is neither an ESX nor a vCenter: correct esx.url."
                }
                _ => {
                    "The host is up but its API is not: hostd may be starting, or hang \
                     (`/etc/init.d/hostd status`)."
                }
            };
            Err(problem(error.message, advice))
        }
    }
}

async fn log_in(
    options: &EsxOptions,
    session: &Session,
    version: &'static str,
    content: ServiceContent,
) -> Result<(Login, String), Problem> {
    match session.log_in(version, content, 1).await {
        Ok(login) => Ok((login, format!("The host accepts the account {}.", options.username))),
        Err(ConnectError::Refused(error)) => Err(problem(
            error.message,
            "Correct esx.username and the password. There was one login: five refused logins lock \
             an ESX account for 15 minutes, also for the right password. The logins of a running \
             otter count too.",
        )),
        Err(ConnectError::Failed(error)) => Err(problem(
            error.message,
            "The host accepts no login now. A 503 here usually means that the host has reached its \
             limit of sessions: end the sessions of scripts that never log out, or restart hostd.",
        )),
    }
}

/// The checks that need a session.
struct AccountChecks<'a> {
    session: &'a Session,
    login: &'a Login,
}

/// The machines that are visible to the account.
type Machines = Result<Vec<VisibleMachine>, HostError>;

struct VisibleMachine {
    readable: bool,
    roles: Vec<i32>,
}

/// The privileges that otter's calls need.
const PRIVILEGES: [&str; 11] = [
    "System.View",
    "System.Read",
    "VirtualMachine.Interact.PowerOn",
    "VirtualMachine.Interact.PowerOff",
    "VirtualMachine.Interact.Reset",
    "VirtualMachine.Interact.Suspend",
    "VirtualMachine.Interact.AnswerQuestion",
    "VirtualMachine.State.CreateSnapshot",
    "VirtualMachine.State.RevertToSnapshot",
    "VirtualMachine.State.RemoveSnapshot",
    "VirtualMachine.State.RenameSnapshot",
];

/// The ids of the predefined roles Administrator and Read-only.
const ADMIN: i32 = -1;
const READ_ONLY: i32 = -2;

/// From this number of sessions on, the host is close to its limit of some hundreds.
const MANY_SESSIONS: usize = 400;

impl AccountChecks<'_> {
    async fn licence(&self, host: &ServiceContent) -> CheckResult {
        if !host.product.is_standalone_host() {
            return Ok("A vCenter never has the free licence.".to_owned());
        }
        let Some(manager) = &host.license_manager else {
            return Ok("The host does not report its licence.".to_owned());
        };
        let contents = match self.read(manager, "licenses").await {
            Ok(contents) => contents,
            Err(error) => return Ok(format!("The licence cannot be read: {}", error.message)),
        };
        let licences: Vec<(String, String)> = first_value(&contents, "licenses")
            .into_iter()
            .flat_map(Element::children)
            .map(|licence| {
                let field = |name| licence.child_text(name).unwrap_or_default().to_owned();
                (field("editionKey"), field("name"))
            })
            .collect();
        let Some((_, name)) = licences.first() else {
            return Ok("The host does not report its licence.".to_owned());
        };
        // Decide by the edition key of the free licence, which is the same from ESX 5 to 8. The
        // names differ.
        if licences.iter().all(|(edition, _)| edition.starts_with("esx.hypervisor")) {
            return Err(problem(
                format!("The host has the free licence ({name}), so its API is read-only."),
                "otter can read everything and change nothing (license-restricted): give the host \
                 a paid licence or an evaluation licence.",
            ));
        }
        Ok(format!("{name}: the licence allows changes."))
    }

    async fn machines(&self) -> Machines {
        let contents = self.below_root("VirtualMachine", &["name", "effectiveRole"]).await?;
        Ok(contents
            .objects()
            .map(|object| VisibleMachine {
                readable: object.properties.iter().any(|(path, _)| *path == "name"),
                roles: object
                    .properties
                    .iter()
                    .filter(|(path, _)| *path == "effectiveRole")
                    .flat_map(|(_, value)| {
                        value.children().filter_map(number).collect::<Vec<i32>>()
                    })
                    .collect(),
            })
            .collect())
    }

    async fn inventory(&self, machines: &Machines) -> CheckResult {
        let see = "Give the account a role with System.View and System.Read on the whole host \
                   (Host > Manage > Permissions, propagated).";
        let machines = match machines {
            Ok(machines) => machines,
            Err(error) => return Err(problem(error.message.clone(), see)),
        };
        let datastores = match self.below_root("Datastore", &["name"]).await {
            Ok(contents) => contents.objects().count(),
            Err(error) => return Err(problem(error.message, see)),
        };
        let hidden = machines.iter().filter(|machine| !machine.readable).count();
        if machines.is_empty() {
            return Err(problem(
                format!("No machine is visible ({} visible).", count_text(datastores, "datastore")),
                format!("The host has no machines, or the account may not see them. {see}"),
            ));
        }
        if hidden > 0 {
            return Err(problem(
                format!("{hidden} of {} machines cannot be read.", machines.len()),
                see,
            ));
        }
        let (machines, datastores) =
            (count_text(machines.len(), "machine"), count_text(datastores, "datastore"));
        Ok(format!("The account sees {machines} and {datastores}."))
    }

    /// Checks whether the account's roles on the machines have all [`PRIVILEGES`]. If the host does
    /// not report the roles, the check passes and says so.
    async fn rights(&self, machines: &Machines) -> CheckResult {
        let machines = match machines {
            Ok(machines) if machines.is_empty() => {
                return Ok("There is no machine to check.".to_owned());
            }
            Ok(machines) => machines,
            Err(error) => return Err(problem(error.message.clone(), "See the inventory.")),
        };
        if machines.iter().all(|machine| machine.roles.is_empty()) {
            return Ok(
                "The host does not report the account's privileges; a missing one shows when a \
                 call is refused."
                    .to_owned(),
            );
        }
        let known = self.roles().await;
        let mut lacking: BTreeMap<&str, usize> = BTreeMap::new();
        let mut unknown_roles = 0;
        for machine in machines {
            if machine.roles.contains(&ADMIN) {
                continue;
            }
            let mut held = BTreeSet::new();
            for role in &machine.roles {
                match known.get(role) {
                    Some(privileges) => held.extend(privileges.iter().map(String::as_str)),
                    None if *role == READ_ONLY => held.extend(["System.View", "System.Read"]),
                    None => unknown_roles += 1,
                }
            }
            for privilege in PRIVILEGES.into_iter().filter(|privilege| !held.contains(privilege)) {
                *lacking.entry(privilege).or_default() += 1;
            }
        }
        if unknown_roles > 0 {
            return Ok(
                "The host does not report the privileges of the account's role; a missing one \
                 shows when a call is refused."
                    .to_owned(),
            );
        }
        if lacking.is_empty() {
            return Ok(
                "The account has all privileges that otter needs, on every machine.".to_owned()
            );
        }
        let most = lacking.values().max().copied().unwrap_or_default();
        let names: Vec<&str> =
            PRIVILEGES.into_iter().filter(|name| lacking.contains_key(name)).collect();
        Err(problem(
            format!(
                "On {most} of {} machines the account lacks {}.",
                machines.len(),
                names.join(", ")
            ),
            "Add these privileges to its role, or give the account another role. The host refuses \
             calls without them (forbidden-by-host).",
        ))
    }

    /// The privileges of each role. Empty if they cannot be read.
    async fn roles(&self) -> BTreeMap<i32, Vec<String>> {
        let Some(manager) = &self.login.content.authorization_manager else {
            return BTreeMap::new();
        };
        let Ok(contents) = self.read(manager, "roleList").await else { return BTreeMap::new() };
        first_value(&contents, "roleList")
            .into_iter()
            .flat_map(Element::children)
            .filter_map(|role| {
                let privileges =
                    role.children_named("privilege").map(|name| name.text().to_owned());
                Some((number(role.child("roleId")?)?, privileges.collect()))
            })
            .collect()
    }

    async fn sessions(&self) -> CheckResult {
        let listed = self.read(&self.login.content.session_manager, "sessionList").await;
        let sessions: Vec<String> = match &listed {
            Ok(contents) => first_value(contents, "sessionList")
                .into_iter()
                .flat_map(Element::children)
                .map(|session| session.child_text("userAgent").unwrap_or_default().to_owned())
                .collect(),
            Err(_) => Vec::new(),
        };
        if sessions.is_empty() {
            return Ok(
                "The account may not list the host's sessions; otter does not need it.".to_owned()
            );
        }
        let ours = sessions.iter().filter(|agent| agent.starts_with("otter/")).count();
        let text = format!(
            "The host has {}, {ours} of otter, including this one.",
            count_text(sessions.len(), "session")
        );
        if sessions.len() >= MANY_SESSIONS {
            let advice = "A host has a limit of some hundred sessions and then refuses every \
                          login: find the script that never logs out.";
            return Err(problem(text, advice));
        }
        Ok(text)
    }

    /// Reads one property of an object.
    async fn read(&self, object: &Reference, path: &str) -> Result<Contents, HostError> {
        let properties = [PropertySpec { object_type: &object.kind, paths: vec![path] }];
        let contents = read_once(
            self.session,
            self.login,
            &properties,
            Selection::Objects(std::slice::from_ref(object)),
        )
        .await
        .map_err(|error| error.into_error(&format!("The host refused to read {path}")))?;
        let refused = contents.objects().flat_map(|object| object.missing).next();
        match refused {
            Some(missing) => {
                Err(missing.fault.into_error(&format!("The host refused to read {path}")))
            }
            None => Ok(contents),
        }
    }

    /// Reads properties of all objects of a type below the root folder.
    async fn below_root(&self, object_type: &str, paths: &[&str]) -> Result<Contents, HostError> {
        let prefix = "The host refused to read its inventory";
        let content = &self.login.content;
        let view = request::create_container_view(
            &content.view_manager,
            &content.root_folder,
            &[object_type],
        );
        let reply = self
            .session
            .send(self.login, view, TimeoutClass::Ordinary)
            .await
            .map_err(|error| error.into_error(prefix))?;
        let view = reply.reference().ok_or_else(|| {
            HostError::new(HostErrorKind::Protocol, "The host created a view and did not name it.")
        })?;
        let properties = [PropertySpec { object_type, paths: paths.to_vec() }];
        // The host destroys the view with the session.
        read_once(self.session, self.login, &properties, Selection::View(&view))
            .await
            .map_err(|error| error.into_error(prefix))
    }
}

/// `1 machine`, `2 machines`.
fn count_text(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
