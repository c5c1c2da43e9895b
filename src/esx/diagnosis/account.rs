//! The checks of `otter doctor` that need a session: the licence, the inventory, the account's
//! privileges, and the number of sessions.

use std::collections::{BTreeMap, BTreeSet};

use super::{CheckResult, problem};
use crate::esx::connections::Lane;
use crate::esx::property_reader::{Contents, first_value, read_once};
use crate::esx::service_content::ServiceContent;
use crate::esx::session::{Login, Session};
use crate::esx::soap::Reference;
use crate::esx::soap::property::number;
use crate::esx::soap::request::{self, PropertySpec, Selection};
use crate::esx::soap::xml::Element;
use crate::hypervisor::{HostError, HostErrorKind};

/// Runs the checks that need a session.
pub struct AccountChecks<'a> {
    session: &'a Session,
    login: &'a Login,
}

/// The machines that the account can see, or the error of reading them.
pub type Machines = Result<Vec<VisibleMachine>, HostError>;

pub struct VisibleMachine {
    readable: bool,
    roles: Vec<i32>,
}

/// The privileges that the account needs for the calls that otter makes.
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

/// The ids of the predefined roles Administrator (`ADMIN`) and Read-only.
const ADMIN: i32 = -1;
const READ_ONLY: i32 = -2;

/// The number of sessions from which on the check warns, because a host accepts only some hundreds.
const MANY_SESSIONS: usize = 400;

impl<'a> AccountChecks<'a> {
    pub const fn new(session: &'a Session, login: &'a Login) -> Self {
        Self { session, login }
    }

    pub async fn licence(&self, host: &ServiceContent) -> CheckResult {
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
        // The edition key of the licence decides, because the key of the free licence is the same
        // from ESX 5 to 8, while its name differs.
        if licences.iter().all(|(edition, _)| edition.starts_with("esx.hypervisor")) {
            return Err(problem(
                format!("The host has the free licence ({name}), so its API is read-only."),
                "otter can read everything and change nothing (license-restricted): give the host \
                 a paid licence or an evaluation licence.",
            ));
        }
        Ok(format!("{name}: the licence allows changes."))
    }

    pub async fn machines(&self) -> Machines {
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

    pub async fn inventory(&self, machines: &Machines) -> CheckResult {
        let advice = "Give the account a role with System.View and System.Read on the whole host \
                   (Host > Manage > Permissions, propagated).";
        let machines = match machines {
            Ok(machines) => machines,
            Err(error) => return Err(problem(error.message.clone(), advice)),
        };
        let datastores = match self.below_root("Datastore", &["name"]).await {
            Ok(contents) => contents.objects().count(),
            Err(error) => return Err(problem(error.message, advice)),
        };
        let hidden = machines.iter().filter(|machine| !machine.readable).count();
        if machines.is_empty() {
            return Err(problem(
                format!("No machine is visible ({} visible).", count_text(datastores, "datastore")),
                format!("The host has no machines, or the account may not see them. {advice}"),
            ));
        }
        if hidden > 0 {
            return Err(problem(
                format!("{hidden} of {} machines cannot be read.", machines.len()),
                advice,
            ));
        }
        let (machines, datastores) =
            (count_text(machines.len(), "machine"), count_text(datastores, "datastore"));
        Ok(format!("The account sees {machines} and {datastores}."))
    }

    /// Checks whether the account's roles on the machines have all [`PRIVILEGES`]. If the host does
    /// not report the roles, the check passes, and its text says that it could not check.
    pub async fn rights(&self, machines: &Machines) -> CheckResult {
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
        let roles = self.roles().await;
        let mut lacking: BTreeMap<&str, usize> = BTreeMap::new();
        let mut unknown_roles = 0;
        for machine in machines {
            if machine.roles.contains(&ADMIN) {
                continue;
            }
            let mut granted = BTreeSet::new();
            for role in &machine.roles {
                match roles.get(role) {
                    Some(privileges) => granted.extend(privileges.iter().map(String::as_str)),
                    None if *role == READ_ONLY => granted.extend(["System.View", "System.Read"]),
                    None => unknown_roles += 1,
                }
            }
            for privilege in PRIVILEGES.into_iter().filter(|privilege| !granted.contains(privilege))
            {
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

    /// The privileges of each role, by the id of the role. Empty if the host does not let the
    /// account read them.
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

    pub async fn sessions(&self) -> CheckResult {
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
                "otter could not list the host's sessions. It works without this list.".to_owned()
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

    /// Reads one property of an object on the host.
    async fn read(&self, object: &Reference, path: &str) -> Result<Contents, HostError> {
        let properties = [PropertySpec { object_type: &object.kind, paths: vec![path] }];
        let contents = read_once(
            self.session,
            self.login,
            &properties,
            Selection::Objects(std::slice::from_ref(object)),
            Lane::Reserved,
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

    /// Reads properties of all objects of one type that are below the root folder of the host.
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
            .send(self.login, view, Lane::Reserved)
            .await
            .map_err(|error| error.into_error(prefix))?;
        let view = reply.reference().ok_or_else(|| {
            HostError::new(
                HostErrorKind::Protocol,
                "The host created a view, but its answer has no reference.",
            )
        })?;
        let properties = [PropertySpec { object_type, paths: paths.to_vec() }];
        // otter does not destroy the view, because the host destroys it at the end of the session.
        let selection = Selection::View(&view);
        read_once(self.session, self.login, &properties, selection, Lane::Reserved)
            .await
            .map_err(|error| error.into_error(prefix))
    }
}

/// A number with its noun, for example `1 machine` or `2 machines`.
fn count_text(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
