//! Encodes vim25 requests as SOAP envelopes. Child elements have the order of the WSDL, because
//! hostd rejects any other order. Values of abstract types have an `xsi:type`.

use std::fmt;

use super::xml::Writer;
use super::{ENVELOPE, Reference, VIM25};
use crate::domain::media::{BootDevice, BootEntry, BootOptions, CdDrive};

/// One method call, encoded as a SOAP envelope.
#[derive(Clone)]
pub struct Request {
    /// The name of the method, for example `PowerOnVM_Task`.
    pub method: &'static str,
    pub envelope: String,
}

impl fmt::Debug for Request {
    /// Formats the request without its envelope, because the envelope can contain a password.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Request").field("method", &self.method).finish_non_exhaustive()
    }
}

/// `PropertySpec` of vim25: a type, and the paths of the properties to read of its objects.
#[derive(Clone, Debug)]
pub struct PropertySpec<'a> {
    pub object_type: &'a str,
    pub paths: Vec<&'a str>,
}

/// The objects whose properties a request reads.
#[derive(Clone, Copy, Debug)]
pub enum Selection<'a> {
    /// Exactly these objects.
    Objects(&'a [Reference]),
    /// These objects, and for each of them the object to which its property `path` refers.
    ObjectsAndReferenced { objects: &'a [Reference], object_type: &'a str, path: &'a str },
    /// All objects in a `ContainerView` or a `ListView`.
    View(&'a Reference),
}

/// `RetrieveServiceContent`: asks for the product of the host and the references to its singletons
/// (its managers). The call needs no session.
#[must_use]
pub fn retrieve_service_content() -> Request {
    let this = Reference::new("ServiceInstance", "ServiceInstance");
    EnvelopeBuilder::new("RetrieveServiceContent", &this, None).finish()
}

/// `Login`. The envelope contains the password, so otter never logs it.
#[must_use]
pub fn login(session_manager: &Reference, username: &str, password: &str) -> Request {
    let mut call = EnvelopeBuilder::new("Login", session_manager, None);
    call.text("userName", username).text("password", password);
    call.finish()
}

/// `Logout`: ends the session.
#[must_use]
pub fn logout(session_manager: &Reference) -> Request {
    EnvelopeBuilder::new("Logout", session_manager, None).finish()
}

/// `CreateContainerView`: creates a view of all objects below `container` that have one of `types`.
#[must_use]
pub fn create_container_view(
    view_manager: &Reference,
    container: &Reference,
    types: &[&str],
) -> Request {
    let mut call = EnvelopeBuilder::new("CreateContainerView", view_manager, None);
    call.reference("container", container);
    for kind in types {
        call.text("type", kind);
    }
    call.text("recursive", "true");
    call.finish()
}

/// `CreateListView`: creates a view that is an empty list.
#[must_use]
pub fn create_list_view(view_manager: &Reference) -> Request {
    EnvelopeBuilder::new("CreateListView", view_manager, None).finish()
}

/// `ModifyListView`: adds objects to a `ListView` and removes others.
#[must_use]
pub fn modify_list_view(view: &Reference, add: &[Reference], remove: &[Reference]) -> Request {
    let mut call = EnvelopeBuilder::new("ModifyListView", view, None);
    for reference in add {
        call.reference("add", reference);
    }
    for reference in remove {
        call.reference("remove", reference);
    }
    call.finish()
}

/// `DestroyView`: removes a view from the host.
#[must_use]
pub fn destroy_view(view: &Reference) -> Request {
    EnvelopeBuilder::new("DestroyView", view, None).finish()
}

/// `CreateFilter` with `partialUpdates=false`, so that an update contains the complete value of a
/// changed property.
#[must_use]
pub fn create_filter(
    collector: &Reference,
    properties: &[PropertySpec<'_>],
    selection: Selection<'_>,
) -> Request {
    let mut call = EnvelopeBuilder::new("CreateFilter", collector, None);
    call.filter_spec("spec", properties, selection).text("partialUpdates", "false");
    call.finish()
}

/// `DestroyPropertyFilter`: removes a filter from the host.
#[must_use]
pub fn destroy_property_filter(filter: &Reference) -> Request {
    EnvelopeBuilder::new("DestroyPropertyFilter", filter, None).finish()
}

/// `WaitForUpdatesEx`. If `max_wait_seconds` is 0, the host answers at once.
#[must_use]
pub fn wait_for_updates(
    collector: &Reference,
    version: &str,
    max_wait_seconds: u32,
    max_object_updates: u32,
) -> Request {
    let mut call = EnvelopeBuilder::new("WaitForUpdatesEx", collector, None);
    call.text("version", version);
    call.writer.start("options", &[]);
    call.text("maxWaitSeconds", &max_wait_seconds.to_string());
    call.text("maxObjectUpdates", &max_object_updates.to_string());
    call.writer.end();
    call.finish()
}

/// `CancelWaitForUpdates`: ends the pending wait with the fault `RequestCanceled`.
#[must_use]
pub fn cancel_wait_for_updates(collector: &Reference) -> Request {
    EnvelopeBuilder::new("CancelWaitForUpdates", collector, None).finish()
}

/// `RetrievePropertiesEx`: reads properties of the selected objects.
#[must_use]
pub fn retrieve_properties(
    collector: &Reference,
    properties: &[PropertySpec<'_>],
    selection: Selection<'_>,
) -> Request {
    let mut call = EnvelopeBuilder::new("RetrievePropertiesEx", collector, None);
    call.filter_spec("specSet", properties, selection);
    call.writer.start("options", &[]).end();
    call.finish()
}

/// `ContinueRetrievePropertiesEx`: reads the next part of a truncated result.
#[must_use]
pub fn continue_retrieve_properties(collector: &Reference, token: &str) -> Request {
    let mut call = EnvelopeBuilder::new("ContinueRetrievePropertiesEx", collector, None);
    call.text("token", token);
    call.finish()
}

/// A call of a method that takes no parameters, on a machine or a task.
#[must_use]
pub fn without_parameters(
    method: &'static str,
    object: &Reference,
    operation_id: Option<&str>,
) -> Request {
    EnvelopeBuilder::new(method, object, operation_id).finish()
}

/// `RevertToSnapshot_Task`: reverts a machine to its snapshot `snapshot`.
#[must_use]
pub fn revert_to_snapshot(
    snapshot: &Reference,
    suppress_power_on: bool,
    operation_id: Option<&str>,
) -> Request {
    let mut call = EnvelopeBuilder::new("RevertToSnapshot_Task", snapshot, operation_id);
    call.text("suppressPowerOn", boolean(suppress_power_on));
    call.finish()
}

/// `CreateSnapshot_Task`: creates a snapshot with this name and description. `memory` and `quiesce`
/// say whether it includes the memory and whether the guest is quiesced. The caller escapes the
/// name.
#[must_use]
pub fn create_snapshot(
    machine: &Reference,
    (name, description): (&str, &str),
    (memory, quiesce): (bool, bool),
    operation_id: &str,
) -> Request {
    let mut call = EnvelopeBuilder::new("CreateSnapshot_Task", machine, Some(operation_id));
    call.text("name", name).text("description", description);
    call.text("memory", boolean(memory)).text("quiesce", boolean(quiesce));
    call.finish()
}

/// `RemoveSnapshot_Task`: removes a snapshot, and all snapshots below it if `children` is true.
#[must_use]
pub fn remove_snapshot(snapshot: &Reference, children: bool, operation_id: &str) -> Request {
    let mut call = EnvelopeBuilder::new("RemoveSnapshot_Task", snapshot, Some(operation_id));
    call.text("removeChildren", boolean(children));
    call.finish()
}

/// `RenameSnapshot`. The caller escapes the name. A name or a description that is `None` stays as
/// it is.
#[must_use]
pub fn rename_snapshot(
    snapshot: &Reference,
    name: Option<&str>,
    description: Option<&str>,
    operation_id: &str,
) -> Request {
    let mut call = EnvelopeBuilder::new("RenameSnapshot", snapshot, Some(operation_id));
    if let Some(name) = name {
        call.text("name", name);
    }
    if let Some(description) = description {
        call.text("description", description);
    }
    call.finish()
}

/// `AnswerVM`: answers a question of a machine. `choice` is the key of the chosen answer.
#[must_use]
pub fn answer_question(
    machine: &Reference,
    question: &str,
    choice: &str,
    operation_id: &str,
) -> Request {
    let mut call = EnvelopeBuilder::new("AnswerVM", machine, Some(operation_id));
    call.text("questionId", question).text("answerChoice", choice);
    call.finish()
}

/// `ReconfigVM_Task` with one edited device: makes the CD drive as `drive` says.
#[must_use]
pub fn set_media(machine: &Reference, drive: &CdDrive, operation_id: &str) -> Request {
    let CdDrive { key, label: _, controller, unit, iso, connected, connects_at_power_on } = drive;
    let mut call = EnvelopeBuilder::new("ReconfigVM_Task", machine, Some(operation_id));
    call.writer.start("spec", &[]).start("deviceChange", &[]);
    call.text("operation", "edit");
    call.writer.start("device", &[("xsi:type", "VirtualCdrom")]);
    call.text("key", &key.to_string());
    if let Some(path) = iso {
        call.writer.start("backing", &[("xsi:type", "VirtualCdromIsoBackingInfo")]);
        call.text("fileName", path);
    } else {
        let kind = "VirtualCdromRemotePassthroughBackingInfo";
        call.writer.start("backing", &[("xsi:type", kind)]);
        call.text("deviceName", "").text("useAutoDetect", "false").text("exclusive", "false");
    }
    call.writer.end().start("connectable", &[]);
    call.text("startConnected", boolean(*connects_at_power_on));
    call.text("allowGuestControl", "true").text("connected", boolean(*connected));
    call.writer.end();
    if let Some(controller) = controller {
        call.text("controllerKey", &controller.to_string());
    }
    if let Some(unit) = unit {
        call.text("unitNumber", &unit.to_string());
    }
    call.writer.end().end().end();
    call.finish()
}

/// `ReconfigVM_Task` with the boot options. A host takes a list with one entry of the base type as
/// an empty boot order, and a request without entries leaves the order as it is.
#[must_use]
pub fn set_boot(machine: &Reference, boot: &BootOptions, operation_id: &str) -> Request {
    let mut call = EnvelopeBuilder::new("ReconfigVM_Task", machine, Some(operation_id));
    call.writer.start("spec", &[]).start("bootOptions", &[]);
    call.text("bootDelay", &boot.delay.as_millis().to_string());
    for BootEntry { device, key } in &boot.order {
        let kind = match device {
            BootDevice::Cdrom => "VirtualMachineBootOptionsBootableCdromDevice",
            BootDevice::Disk => "VirtualMachineBootOptionsBootableDiskDevice",
            BootDevice::Network => "VirtualMachineBootOptionsBootableEthernetDevice",
            BootDevice::Floppy => "VirtualMachineBootOptionsBootableFloppyDevice",
        };
        call.writer.start("bootOrder", &[("xsi:type", kind)]);
        if let Some(key) = key {
            call.text("deviceKey", &key.to_string());
        }
        call.writer.end();
    }
    if boot.order.is_empty() {
        let kind = "VirtualMachineBootOptionsBootableDevice";
        call.writer.start("bootOrder", &[("xsi:type", kind)]).end();
    }
    call.writer.end().end();
    call.finish()
}

const fn boolean(yes: bool) -> &'static str {
    if yes { "true" } else { "false" }
}

/// `AcquireTicket`: a ticket for one connection to a machine's console.
#[must_use]
pub fn acquire_ticket(machine: &Reference, ticket_type: &str) -> Request {
    let mut call = EnvelopeBuilder::new("AcquireTicket", machine, None);
    call.text("ticketType", ticket_type);
    call.finish()
}

/// `SearchDatastore_Task`: lists a folder of a datastore. `folder` is a path with the name of the
/// datastore.
///
/// # Parameters
/// - `name`: a pattern of the names to list. `None` lists all.
#[must_use]
pub fn search_datastore(browser: &Reference, folder: &str, name: Option<&str>) -> Request {
    let mut call = EnvelopeBuilder::new("SearchDatastore_Task", browser, None);
    call.text("datastorePath", folder);
    call.writer.start("searchSpec", &[]).start("details", &[]);
    call.text("fileType", "true").text("fileSize", "true");
    call.text("modification", "true").text("fileOwner", "false");
    call.writer.end();
    // Without a pattern, some hosts list nothing.
    call.text("matchPattern", name.unwrap_or("*"));
    call.writer.end();
    call.finish()
}

/// `MoveDatastoreFile_Task`: gives a file another name. With `force`, it replaces a file that has
/// this name. The paths have the name of the datastore.
#[must_use]
pub fn move_file(
    file_manager: &Reference,
    from: &str,
    to: &str,
    force: bool,
    operation_id: &str,
) -> Request {
    let method = "MoveDatastoreFile_Task";
    let mut call = EnvelopeBuilder::new(method, file_manager, Some(operation_id));
    call.text("sourceName", from).text("destinationName", to).text("force", boolean(force));
    call.finish()
}

/// `DeleteDatastoreFile_Task`: deletes a file, or a folder with everything in it.
#[must_use]
pub fn delete_file(file_manager: &Reference, path: &str, operation_id: &str) -> Request {
    let method = "DeleteDatastoreFile_Task";
    let mut call = EnvelopeBuilder::new(method, file_manager, Some(operation_id));
    call.text("name", path);
    call.finish()
}

/// `MakeDirectory`: creates a folder, whose parent must exist.
#[must_use]
pub fn make_directory(file_manager: &Reference, path: &str, operation_id: &str) -> Request {
    let mut call = EnvelopeBuilder::new("MakeDirectory", file_manager, Some(operation_id));
    call.text("name", path).text("createParentDirectories", "false");
    call.finish()
}

/// Builds the envelope of one request.
struct EnvelopeBuilder {
    method: &'static str,
    writer: Writer,
}

impl EnvelopeBuilder {
    fn new(method: &'static str, this: &Reference, operation_id: Option<&str>) -> Self {
        let mut writer = Writer::new();
        writer.start(
            "soapenv:Envelope",
            &[
                ("xmlns:soapenv", ENVELOPE),
                ("xmlns:xsd", "http://www.w3.org/2001/XMLSchema"),
                ("xmlns:xsi", "http://www.w3.org/2001/XMLSchema-instance"),
            ],
        );
        if let Some(operation_id) = operation_id {
            writer.start("soapenv:Header", &[]).leaf("operationID", &[], operation_id).end();
        }
        writer.start("soapenv:Body", &[]).start(method, &[("xmlns", VIM25)]);
        let mut call = Self { method, writer };
        call.reference("_this", this);
        call
    }

    fn text(&mut self, name: &str, text: &str) -> &mut Self {
        self.writer.leaf(name, &[], text);
        self
    }

    fn reference(&mut self, name: &str, reference: &Reference) -> &mut Self {
        self.writer.leaf(name, &[("type", &reference.kind)], &reference.value);
        self
    }

    fn filter_spec(
        &mut self,
        name: &str,
        properties: &[PropertySpec<'_>],
        selection: Selection<'_>,
    ) -> &mut Self {
        self.writer.start(name, &[]);
        for PropertySpec { object_type, paths } in properties {
            self.writer.start("propSet", &[]);
            self.text("type", object_type).text("all", "false");
            for path in paths {
                self.text("pathSet", path);
            }
            self.writer.end();
        }
        match selection {
            Selection::Objects(objects) => {
                for object in objects {
                    self.writer.start("objectSet", &[]);
                    self.reference("obj", object).text("skip", "false");
                    self.writer.end();
                }
            }
            Selection::ObjectsAndReferenced { objects, object_type, path } => {
                for object in objects {
                    self.writer.start("objectSet", &[]);
                    self.reference("obj", object).text("skip", "false");
                    self.traversal(object_type, path).writer.end();
                }
            }
            Selection::View(view) => {
                self.writer.start("objectSet", &[]);
                self.reference("obj", view).text("skip", "true");
                self.traversal(&view.kind, "view").writer.end();
            }
        }
        self.writer.end();
        self
    }

    fn traversal(&mut self, object_type: &str, path: &str) -> &mut Self {
        self.writer.start("selectSet", &[("xsi:type", "TraversalSpec")]);
        self.text("name", path).text("type", object_type).text("path", path).text("skip", "false");
        self.writer.end();
        self
    }

    fn finish(self) -> Request {
        Request { method: self.method, envelope: self.writer.finish() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::esx::soap::xml::Document;

    #[test]
    fn an_envelope_has_method_object_and_operation_id() {
        let machine = Reference::new("VirtualMachine", "a<b");
        let request = without_parameters("PowerOnVM_Task", &machine, Some("job-1"));
        let document = Document::parse(request.envelope.as_bytes()).unwrap();
        assert!(document.root().is(ENVELOPE, "Envelope"));
        assert_eq!(document.root().descend(&["Header", "operationID"]).unwrap().text(), "job-1");
        let call = document.root().descend(&["Body", "PowerOnVM_Task"]).unwrap();
        assert_eq!(call.namespace(), VIM25);
        assert_eq!(Reference::in_child(call, "_this"), Some(machine));
    }

    #[test]
    fn a_change_of_what_a_machine_boots_from_is_in_the_order_of_the_wsdl() {
        let machine = Reference::new("VirtualMachine", "16");
        let drive = CdDrive {
            key: 3000,
            label: String::new(),
            controller: Some(200),
            unit: Some(0),
            iso: None,
            connected: false,
            connects_at_power_on: false,
        };
        for (iso, backing, fields) in [
            (Some("[isos] a&b.iso"), "VirtualCdromIsoBackingInfo", ["fileName"].as_slice()),
            (
                None,
                "VirtualCdromRemotePassthroughBackingInfo",
                &["deviceName", "useAutoDetect", "exclusive"],
            ),
        ] {
            let request = set_media(&machine, &drive.with(iso), "job-1");
            let document = Document::parse(request.envelope.as_bytes()).unwrap();
            let call = document.root().descend(&["Body", "ReconfigVM_Task"]).unwrap();
            let change = call.descend(&["spec", "deviceChange"]).unwrap();
            assert_eq!(names(change), ["operation", "device"]);
            let device = change.child("device").unwrap();
            assert_eq!(device.type_name(), Some("VirtualCdrom"));
            let expected = ["key", "backing", "connectable", "controllerKey", "unitNumber"];
            assert_eq!(names(device), expected);
            assert_eq!(device.child("backing").unwrap().type_name(), Some(backing));
            assert_eq!(names(device.child("backing").unwrap()), fields);
            let connectable = device.child("connectable").unwrap();
            assert_eq!(names(connectable), ["startConnected", "allowGuestControl", "connected"]);
        }
        let entry = BootEntry { device: BootDevice::Disk, key: Some(2000) };
        for (order, kind, fields) in [
            (vec![entry], "VirtualMachineBootOptionsBootableDiskDevice", ["deviceKey"].as_slice()),
            (Vec::new(), "VirtualMachineBootOptionsBootableDevice", &[]),
        ] {
            let boot = BootOptions { order, delay: std::time::Duration::from_secs(5) };
            let request = set_boot(&machine, &boot, "job-1");
            let document = Document::parse(request.envelope.as_bytes()).unwrap();
            let options = document.root().descend(&["Body", "ReconfigVM_Task", "spec"]).unwrap();
            let options = options.child("bootOptions").unwrap();
            assert_eq!(names(options), ["bootDelay", "bootOrder"]);
            assert_eq!(options.child_text("bootDelay"), Some("5000"));
            let first = options.child("bootOrder").unwrap();
            assert_eq!((first.type_name(), names(first).as_slice()), (Some(kind), fields));
        }
    }

    #[test]
    fn children_are_in_the_order_of_the_wsdl() {
        let collector = Reference::new("PropertyCollector", "pc");
        let view = Reference::new("ContainerView", "v");
        let properties =
            [PropertySpec { object_type: "VirtualMachine", paths: vec!["name", "snapshot"] }];
        let request = create_filter(&collector, &properties, Selection::View(&view));
        let document = Document::parse(request.envelope.as_bytes()).unwrap();
        let call = document.root().descend(&["Body", "CreateFilter"]).unwrap();
        assert_eq!(names(call), ["_this", "spec", "partialUpdates"]);
        let spec = call.child("spec").unwrap();
        assert_eq!(names(spec), ["propSet", "objectSet"]);
        assert_eq!(names(spec.child("propSet").unwrap()), ["type", "all", "pathSet", "pathSet"]);
        let select = spec.descend(&["objectSet", "selectSet"]).unwrap();
        assert_eq!(select.type_name(), Some("TraversalSpec"));
        assert_eq!(names(select), ["name", "type", "path", "skip"]);
        let machine = Reference::new("VirtualMachine", "16");
        let with_host = Selection::ObjectsAndReferenced {
            objects: std::slice::from_ref(&machine),
            object_type: "VirtualMachine",
            path: "runtime.host",
        };
        let request = retrieve_properties(&collector, &properties, with_host);
        let document = Document::parse(request.envelope.as_bytes()).unwrap();
        let object = document.root().descend(&["Body", "RetrievePropertiesEx", "specSet"]).unwrap();
        let object = object.child("objectSet").unwrap();
        assert_eq!(names(object), ["obj", "skip", "selectSet"]);
        assert_eq!(object.child("selectSet").unwrap().child_text("path"), Some("runtime.host"));
        let create = create_snapshot(&machine, ("50%25 a%2fb", "<why>"), (false, true), "job-1");
        let document = Document::parse(create.envelope.as_bytes()).unwrap();
        let call = document.root().descend(&["Body", "CreateSnapshot_Task"]).unwrap();
        assert_eq!(names(call), ["_this", "name", "description", "memory", "quiesce"]);
        assert_eq!(
            (call.child_text("quiesce"), call.child_text("description")),
            (Some("true"), Some("<why>"))
        );
        let answer = answer_question(&machine, "19", "4", "job-1");
        let document = Document::parse(answer.envelope.as_bytes()).unwrap();
        let call = document.root().descend(&["Body", "AnswerVM"]).unwrap();
        assert_eq!(names(call), ["_this", "questionId", "answerChoice"]);
        let browser = Reference::new("HostDatastoreBrowser", "b");
        let search = search_datastore(&browser, "[isos] linux", Some("a.iso"));
        let document = Document::parse(search.envelope.as_bytes()).unwrap();
        let call = document.root().descend(&["Body", "SearchDatastore_Task"]).unwrap();
        assert_eq!(names(call), ["_this", "datastorePath", "searchSpec"]);
        let spec = call.child("searchSpec").unwrap();
        assert_eq!(names(spec), ["details", "matchPattern"]);
        assert_eq!(
            names(spec.child("details").unwrap()),
            ["fileType", "fileSize", "modification", "fileOwner"]
        );
        let snapshot = Reference::new("VirtualMachineSnapshot", "16-snapshot-1");
        for (name, description, given) in [
            (Some("n"), Some(""), ["_this", "name", "description"].as_slice()),
            (None, Some("d"), &["_this", "description"]),
        ] {
            let rename = rename_snapshot(&snapshot, name, description, "job-1");
            let document = Document::parse(rename.envelope.as_bytes()).unwrap();
            assert_eq!(names(document.root().descend(&["Body", "RenameSnapshot"]).unwrap()), given);
        }
        let wait = wait_for_updates(&collector, "3", 0, 100);
        let document = Document::parse(wait.envelope.as_bytes()).unwrap();
        let call = document.root().descend(&["Body", "WaitForUpdatesEx"]).unwrap();
        assert_eq!(names(call), ["_this", "version", "options"]);
        assert_eq!(names(call.child("options").unwrap()), ["maxWaitSeconds", "maxObjectUpdates"]);
    }

    fn names(element: crate::esx::soap::xml::Element<'_>) -> Vec<&str> {
        element.children().map(super::super::xml::Element::name).collect()
    }
}
