//! Another client of a vim25 host: a few SOAP calls that share no code with the backend's calls.

use anyhow::{Context, Result, anyhow, bail, ensure};
use otter::domain::ids::{MachineId, SnapshotId};
use otter::domain::names::unescape_vim;
use otter::domain::power::PowerState;
use otter::domain::snapshot::{Snapshot, Snapshots};
use otter::domain::verify::Verify;
use otter::esx::client_config;
use otter::esx::soap::property::timestamp;
use otter::esx::soap::xml::{Document, Element};

use super::suite::Ability;

/// A client that has logged in to the host, independent of the backend under test.
pub struct OtherClient {
    client: reqwest::Client,
    url: String,
    cookie: String,
    session_manager: String,
    property_collector: String,
    /// The key of its session.
    key: String,
}

impl OtherClient {
    /// Logs in.
    pub async fn log_in(url: &str) -> Result<Self> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(client_config(&Verify::Off)?)
            .no_proxy()
            .http1_only()
            .build()?;
        let mut other_client = Self {
            client,
            url: url.to_owned(),
            cookie: String::new(),
            session_manager: String::new(),
            property_collector: String::new(),
            key: String::new(),
        };
        let content = other_client
            .call("RetrieveServiceContent", ("ServiceInstance", "ServiceInstance"), "")
            .await?;
        other_client.session_manager =
            element_text(&content, "sessionManager").context("no session manager")?.to_owned();
        other_client.property_collector =
            element_text(&content, "propertyCollector").context("no collector")?.to_owned();
        let account = "<userName>root</userName><password>otter</password>";
        let manager = other_client.session_manager.clone();
        let session = other_client.call("Login", ("SessionManager", &manager), account).await?;
        other_client.key = element_text(&session, "key").context("no session")?.to_owned();
        Ok(other_client)
    }

    /// Ends all sessions but its own.
    pub async fn end_other_sessions(&mut self) -> Result<()> {
        let manager = self.session_manager.clone();
        let list = self.property(("SessionManager", &manager), "sessionList").await?;
        let keys =
            list.split("<key>").skip(1).filter_map(|rest| rest.split_once('<')).map(|(key, _)| key);
        let others: Vec<_> = keys.filter(|key| *key != self.key).collect();
        ensure!(!others.is_empty(), "there is no other session");
        let others = format!("<sessionId>{}</sessionId>", others.join("</sessionId><sessionId>"));
        self.call("TerminateSession", ("SessionManager", &manager), &others).await.map(drop)
    }

    /// Calls a method that starts a task, which must succeed. Returns the task's result, if it is a
    /// reference.
    pub async fn run_task(
        &mut self,
        method: &str,
        object: (&str, &str),
        parameters: &str,
    ) -> Result<Option<String>> {
        let answer = self.call(method, object, parameters).await?;
        let task = element_text(&answer, "returnval").context("no task")?.to_owned();
        let info = self.property(("Task", &task), "info").await?;
        ensure!(element_text(&info, "state") == Some("success"), "{method} of {object:?}: {info}");
        Ok(element_text(&info, "result").map(str::to_owned))
    }

    /// Reads a property. Returns the XML inside `val`.
    pub async fn property(&mut self, object: (&str, &str), path: &str) -> Result<String> {
        let answer = self.read(object, path).await?;
        element_text(&answer, "val")
            .map(str::to_owned)
            .with_context(|| format!("{object:?} has no {path}: {answer}"))
    }

    /// Reads the machines in the folder of `machine`.
    pub async fn machines_in_same_folder(
        &mut self,
        machine: &MachineId,
    ) -> Result<Vec<ObservedMachine>> {
        let folder = self.property(("VirtualMachine", machine.backend_text()), "parent").await?;
        let children = self.read(("Folder", &folder), "childEntity").await?;
        let text = |child: Element<'_>| child.text().to_owned();
        let ids: Vec<String> =
            map_value(&children, |value| Some(value.children().map(text).collect()))?;
        let mut machines = Vec::new();
        for id in ids {
            let object = ("VirtualMachine", id.as_str());
            let power_state = match self.property(object, "runtime.powerState").await?.as_str() {
                "poweredOn" => PowerState::On,
                "poweredOff" => PowerState::Off,
                _ => PowerState::Suspended,
            };
            let name = unescape_vim(&self.property(object, "name").await?);
            let snapshots = self.read(object, "snapshot").await?;
            let snapshots = map_value(&snapshots, |value| Some(snapshot_tree(value)))?;
            machines.push(ObservedMachine {
                id: MachineId::from_backend(&id),
                name,
                power_state,
                snapshots,
            });
        }
        Ok(machines)
    }

    /// Reads a property. Returns the whole answer.
    async fn read(&mut self, (kind, id): (&str, &str), path: &str) -> Result<String> {
        let specification = format!(
            "<specSet>\
             <propSet><type>{kind}</type><all>false</all><pathSet>{path}</pathSet></propSet>\
             <objectSet><obj type=\"{kind}\">{id}</obj><skip>false</skip></objectSet>\
             </specSet><options/>"
        );
        let collector = self.property_collector.clone();
        self.call("RetrievePropertiesEx", ("PropertyCollector", &collector), &specification).await
    }

    async fn call(
        &mut self,
        method: &str,
        (kind, id): (&str, &str),
        parameters: &str,
    ) -> Result<String> {
        let body = format!(
            "<soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><soapenv:Body>\
             <{method} xmlns=\"urn:vim25\"><_this type=\"{kind}\">{id}</_this>\
             {parameters}</{method}>\
             </soapenv:Body></soapenv:Envelope>"
        );
        let request = self.client.post(&self.url).header("SOAPAction", "urn:vim25/6.5").body(body);
        let answer = request.header("Cookie", &self.cookie).send().await?;
        if let Some(cookie) = answer.headers().get("Set-Cookie") {
            self.cookie = cookie.to_str()?.split(';').next().unwrap_or_default().to_owned();
        }
        let status = answer.status();
        let text = answer.text().await?;
        if !status.is_success() {
            bail!("{method} of {kind} {id}: {text}");
        }
        Ok(text)
    }
}

/// The properties of a machine that cases change.
pub struct ObservedMachine {
    pub id: MachineId,
    pub name: String,
    pub power_state: PowerState,
    pub snapshots: Snapshots,
}

/// Applies `take` to the value in the answer to a read. The default if the property has no value.
fn map_value<T: Default>(answer: &str, take: impl FnOnce(Element<'_>) -> Option<T>) -> Result<T> {
    let document =
        Document::parse(answer.as_bytes()).map_err(|error| anyhow!("{error:?}: {answer}"))?;
    let path = ["Body", "RetrievePropertiesExResponse", "returnval", "objects", "propSet", "val"];
    Ok(document.root().descend(&path).and_then(take).unwrap_or_default())
}

/// Parses `VirtualMachineSnapshotInfo`, parents first.
fn snapshot_tree(value: Element<'_>) -> Snapshots {
    fn add(node: Element<'_>, parent: Option<&SnapshotId>, items: &mut Vec<Snapshot>) {
        let id = SnapshotId::from_backend(node.child_text("snapshot").unwrap_or_default());
        let below = || node.children_named("childSnapshotList");
        items.push(Snapshot {
            id: id.clone(),
            name: unescape_vim(node.child_text("name").unwrap_or_default()),
            description: node.child_text("description").unwrap_or_default().to_owned(),
            created_at: node.child("createTime").and_then(timestamp),
            power_state: match node.child_text("state") {
                Some("poweredOn") => Some(PowerState::On),
                Some("poweredOff") => Some(PowerState::Off),
                _ => Some(PowerState::Suspended),
            },
            quiesced: node.child_text("quiesced") == Some("true"),
            parent: parent.cloned(),
            children: below()
                .filter_map(|child| child.child_text("snapshot"))
                .map(SnapshotId::from_backend)
                .collect(),
        });
        below().for_each(|child| add(child, Some(&id), items));
    }
    let mut items = Vec::new();
    value.children_named("rootSnapshotList").for_each(|root| add(root, None, &mut items));
    let current = value.child_text("currentSnapshot").map(SnapshotId::from_backend);
    // govmomi's simulator still reports a removed snapshot as the current one.
    let current = current.filter(|current| items.iter().any(|snapshot| snapshot.id == *current));
    Snapshots { current, items }
}

/// The content of the first element of this name.
fn element_text<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let tag = format!("<{name}");
    let mut behind = text.match_indices(&tag).map(|(at, found)| at + found.len());
    let start = behind.find(|at| matches!(text.as_bytes().get(*at), Some(b'>' | b' ')))?;
    let rest = text.get(start..)?.split_once('>')?.1;
    Some(rest.get(..rest.find(&format!("</{name}>"))?)?.trim())
}

/// Why govmomi's simulator does not have an ability. `None` if it has it.
pub const fn unsupported(ability: Ability) -> Option<&'static str> {
    Some(match ability {
        Ability::StepTasks => "its tasks end within the call that starts them",
        Ability::CancelTasks => "it has no CancelTask",
        Ability::FailTasks => "a test cannot let its tasks fail",
        Ability::ForgetTasks => "it forgets no task",
        Ability::RecentTasks => "its machines name no recent task",
        Ability::Questions => "its machines ask no questions",
        Ability::Tools => "its guests have no tools",
        Ability::GuestReboot => "it has no RebootGuest",
        Ability::RenameSnapshots => "it has no RenameSnapshot",
        Ability::Consolidation => "it has no ConsolidateVMDisks_Task",
        Ability::RecordedPowerStates => "its reverts do not change the power state",
        Ability::RefuseLogins => "a test cannot let it refuse logins",
        Ability::RefuseCalls => "a test cannot let it refuse calls",
        Ability::RebootHost => "its host cannot be restarted",
        Ability::PowerChecks => "it suspends a machine that is off",
        Ability::Screens => "its machines have no screens",
        Ability::DatastoreUpdates => "it reports no change of a datastore",
        Ability::AddMachines => {
            "it reports a machine before it is complete, and then no change of it"
        }
        Ability::RemoveMachines
        | Ability::ExpireSessions
        | Ability::Disconnect
        | Ability::CutConnection => return None,
    })
}
