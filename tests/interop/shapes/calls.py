"""A session with a simulated ESX. It makes the calls that both simulators support, with handwritten
envelopes, and returns the answers.
"""

import http.client
import re
import ssl
import urllib.parse
import xml.etree.ElementTree as ElementTree

ENVELOPE = (
    '<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" '
    'xmlns:xsd="http://www.w3.org/2001/XMLSchema" '
    'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
    "<soapenv:Body>%s</soapenv:Body></soapenv:Envelope>"
)
VIM = "{urn:vim25}"
COLLECTOR = ("PropertyCollector", "ha-property-collector")
ROOT = ("Folder", "ha-folder-root")


class Host:
    """One simulator and its answers: a list of (name of the call, method, body of the answer)."""

    def __init__(self, url):
        self.address = urllib.parse.urlsplit(url)
        self.cookie = None
        self.answers = []
        self.content = {}

    def call(self, method, target, parameters="", name=None):
        """Calls a method, and stores the answer if the call has a name. Returns the child of the
        SOAP body.
        """
        kind, identity = target
        this = f'<_this type="{kind}">{identity}</_this>'
        body = ENVELOPE % f'<{method} xmlns="urn:vim25">{this}{parameters}</{method}>'
        connection = http.client.HTTPSConnection(
            self.address.hostname,
            self.address.port,
            timeout=30,
            context=ssl._create_unverified_context(),
        )
        headers = {"Content-Type": "text/xml; charset=utf-8", "SOAPAction": "urn:vim25/6.5"}
        if self.cookie:
            headers["Cookie"] = self.cookie
        connection.request("POST", "/sdk", body.encode(), headers)
        response = connection.getresponse()
        answer = response.read()
        if method == "Login" and response.status == 200:
            self.cookie = response.getheader("Set-Cookie").split(";")[0]
        connection.close()
        inside = ElementTree.fromstring(answer).find(
            "{http://schemas.xmlsoap.org/soap/envelope/}Body"
        )[0]
        if name:
            self.answers.append((name, method, inside))
        return inside

    def returned(self, *arguments, **named):
        """Calls a method and returns the references in its answer, as (type, id)."""
        inside = self.call(*arguments, **named)
        return [reference(child) for child in inside]

    def one(self, *arguments, **named):
        found = self.returned(*arguments, **named)
        if not found:
            raise SystemExit(f"{self.address.netloc} returns nothing for {arguments[0]}")
        return found[0]

    def task(self, method, target, parameters="", name=None):
        """Starts a task, waits until it ends, reads its info, and returns its result."""
        task = self.one(method, target, parameters, name=name)
        collector = self.one("CreatePropertyCollector", COLLECTOR)
        spec = filter_spec([("Task", ["info.state"])], task)
        self.call(
            "CreateFilter", collector, f"<spec>{spec}</spec><partialUpdates>false</partialUpdates>"
        )
        version = state = ""
        while state not in ("success", "error"):
            update = self.call("WaitForUpdatesEx", collector, f"<version>{version}</version>")
            version = update[0].findtext(VIM + "version")
            state = [value.text for value in update.iter(VIM + "val")][-1]
        self.call("DestroyPropertyCollector", collector)
        read = self.read([("Task", ["info"])], task, name=name and f"{name} info")
        result = read.find(f".//{VIM}result")
        return None if result is None or result.get("type") is None else reference(result)

    def read(self, properties, target, name=None, options="", select=""):
        spec = filter_spec(properties, target, select)
        parameters = f"<specSet>{spec}</specSet><options>{options}</options>"
        return self.call("RetrievePropertiesEx", COLLECTOR, parameters, name=name)


def reference(element):
    return element.get("type"), element.text


def filter_spec(properties, target, select=""):
    """A `PropertyFilterSpec` for one object and the objects that `select` selects from it.

    `properties` is a list of (type, paths), where None means all paths.
    """
    kind, identity = target
    property_sets = "".join(
        f"<propSet><type>{name}</type><all>{'false' if paths else 'true'}</all>"
        + "".join(f"<pathSet>{path}</pathSet>" for path in paths or [])
        + "</propSet>"
        for name, paths in properties
    )
    skip = "<skip>true</skip>" if select else ""
    return (
        f'{property_sets}<objectSet><obj type="{kind}">{identity}</obj>{skip}{select}</objectSet>'
    )


def through(kind, path):
    return f'<selectSet xsi:type="TraversalSpec"><type>{kind}</type><path>{path}</path></selectSet>'


def moref(name, target):
    return f'<{name} type="{target[0]}">{target[1]}</{name}>'


def session(url, user, password):
    """Makes all calls on one host. Returns its answers."""
    host = Host(url)
    without_session(host, user, password)
    machine = choose_machine(host)
    inventory(host, machine)
    power(host, machine)
    snapshots(host, machine)
    updates(host, machine)
    views(host, machine)
    search(host, machine)
    events(host)
    faults(host, machine)
    host.call("Logout", host.content["sessionManager"], name="Logout")
    return host.answers


def without_session(host, user, password):
    service = ("ServiceInstance", "ServiceInstance")
    content = host.call("RetrieveServiceContent", service, name="RetrieveServiceContent")
    host.content = {re.sub("{.*}", "", field.tag): reference(field) for field in content[0]}
    sessions = host.content["sessionManager"]
    host.read([("Folder", ["name"])], ROOT, name="a read without a session")
    host.call("CreateListView", host.content["viewManager"], name="a call without a session")
    for name, given in (("InvalidLogin", "wrong"), ("Login", password)):
        host.call(
            "Login", sessions, f"<userName>{user}</userName><password>{given}</password>", name=name
        )
    host.call("CurrentTime", service, name="CurrentTime")
    host.read([("SessionManager", ["currentSession", "sessionList"])], sessions, name="sessions")


def choose_machine(host):
    """Chooses the first machine with snapshots and powers it off."""
    view = "<type>VirtualMachine</type><recursive>true</recursive>"
    view = host.one(
        "CreateContainerView", host.content["viewManager"], moref("container", ROOT) + view
    )
    rows = host.read(
        [("VirtualMachine", ["snapshot"])], view, select=through("ContainerView", "view")
    )
    with_snapshots = [
        row for row in rows.iter(VIM + "objects") if row.find(VIM + "propSet") is not None
    ]
    machine = reference(with_snapshots[0].find(VIM + "obj"))
    host.call("DestroyView", view)
    state = host.read([("VirtualMachine", ["runtime.powerState"])], machine).findtext(
        f".//{VIM}val"
    )
    if state == "poweredOn":
        host.task("PowerOffVM_Task", machine)
    return machine


def inventory(host, machine):
    """Reads all properties of each kind of object that both hosts have."""
    everywhere = through("Folder", "childEntity") + "".join(
        '<selectSet xsi:type="TraversalSpec"><type>%s</type><path>%s</path>%s</selectSet>'
        % (kind, path, rest)
        for kind, path, rest in (
            ("Datacenter", "vmFolder", ""),
            ("Datacenter", "datastore", ""),
            ("Datacenter", "network", ""),
        )
    )
    folders = host.read(
        [("Datacenter", ["vmFolder", "hostFolder", "datastore", "network"])],
        ROOT,
        name="datacenter",
        select=everywhere,
    )
    found = {}
    for row in folders.iter(VIM + "propSet"):
        value = row.find(VIM + "val")
        # Takes the last datastore, because the first one of govmomi has no directory.
        found[row.findtext(VIM + "name")] = reference(value[-1] if len(value) else value)
    resource = host.read([("Folder", ["childEntity"])], found["hostFolder"])
    resource = reference(resource.find(f".//{VIM}ManagedObjectReference"))
    inside = host.read([("ComputeResource", ["host", "resourcePool"])], resource)
    inside = {
        row.findtext(VIM + "name"): row.find(VIM + "val") for row in inside.iter(VIM + "propSet")
    }
    for target in (
        ROOT,
        found["vmFolder"],
        ("Datacenter", "ha-datacenter"),
        resource,
        reference(inside["host"][0]),
        reference(inside["resourcePool"]),
        found["datastore"],
        found["network"],
        machine,
        host.content["taskManager"],
        host.content["licenseManager"],
        host.content["authorizationManager"],
    ):
        host.read([(target[0], None)], target, name=f"{target[0]} whole")
    snapshot = host.read(
        [("VirtualMachine", ["snapshot", "config.hardware.device"])], machine, name="leaves"
    )
    snapshot = reference(snapshot.find(f".//{VIM}currentSnapshot"))
    host.read([("VirtualMachineSnapshot", None)], snapshot, name="VirtualMachineSnapshot whole")
    host.call(
        "RetrieveProperties",
        COLLECTOR,
        f"<specSet>{filter_spec([('VirtualMachine', ['name', 'runtime'])], machine)}</specSet>",
        name="RetrieveProperties",
    )
    host.call("Fetch", machine, "<prop>runtime</prop>", name="Fetch")


def power(host, machine):
    host.task("PowerOnVM_Task", machine, name="PowerOnVM_Task")
    host.read([("VirtualMachine", None)], machine, name="VirtualMachine whole, on")
    host.task("PowerOnVM_Task", machine, name="PowerOnVM_Task of one that is on")
    host.task("ResetVM_Task", machine, name="ResetVM_Task")
    host.task("SuspendVM_Task", machine, name="SuspendVM_Task")
    host.read([("VirtualMachine", ["runtime", "summary"])], machine, name="a machine asleep")
    host.task("PowerOnVM_Task", machine)
    host.task("PowerOffVM_Task", machine, name="PowerOffVM_Task")
    host.task("PowerOffVM_Task", machine, name="PowerOffVM_Task of one that is off")


def snapshots(host, machine):
    parameters = "<name>made</name><memory>false</memory><quiesce>false</quiesce>"
    made = host.task("CreateSnapshot_Task", machine, parameters, name="CreateSnapshot_Task")
    host.task("RevertToSnapshot_Task", made, name="RevertToSnapshot_Task")
    host.task("RevertToCurrentSnapshot_Task", machine, name="RevertToCurrentSnapshot_Task")
    parameters = "<removeChildren>false</removeChildren>"
    host.task("RemoveSnapshot_Task", made, parameters, name="RemoveSnapshot_Task")
    host.read([("VirtualMachine", ["snapshot"])], machine, name="snapshots")
    host.task("RemoveAllSnapshots_Task", machine, name="RemoveAllSnapshots_Task")
    host.read([("VirtualMachine", ["snapshot"])], machine, name="no snapshots")


def updates(host, machine):
    collector = host.one("CreatePropertyCollector", COLLECTOR, name="CreatePropertyCollector")
    spec = filter_spec([("VirtualMachine", ["name", "runtime.powerState"])], machine)
    parameters = f"<spec>{spec}</spec><partialUpdates>false</partialUpdates>"
    watch = host.one("CreateFilter", collector, parameters, name="CreateFilter")
    wait = "<version>%s</version><options><maxWaitSeconds>%d</maxWaitSeconds></options>"
    first = host.call("WaitForUpdatesEx", collector, wait % ("", 5), name="WaitForUpdatesEx, first")
    version = first[0].findtext(VIM + "version")
    host.call(
        "WaitForUpdatesEx", collector, wait % (version, 0), name="WaitForUpdatesEx, nothing new"
    )
    host.task("PowerOnVM_Task", machine)
    host.call("WaitForUpdatesEx", collector, wait % (version, 5), name="WaitForUpdatesEx, a change")
    host.task("PowerOffVM_Task", machine)
    host.call("DestroyPropertyFilter", watch, name="DestroyPropertyFilter")
    host.call("DestroyPropertyCollector", collector, name="DestroyPropertyCollector")


def views(host, machine):
    manager = host.content["viewManager"]
    level = "<recursive>false</recursive>"
    datacenter = ("Datacenter", "ha-datacenter")
    view = host.one(
        "CreateContainerView",
        manager,
        moref("container", datacenter) + level,
        name="CreateContainerView",
    )
    host.read([("ContainerView", None)], view, name="ContainerView whole")
    host.read(
        [("ManagedEntity", ["name"])],
        view,
        select=through("ContainerView", "view"),
        name="through a view",
    )
    host.call("DestroyView", view, name="DestroyView")
    view = host.one("CreateListView", manager, moref("obj", machine), name="CreateListView")
    host.read([("ListView", ["view"])], view, name="ListView.view")
    host.call("ModifyListView", view, moref("add", ROOT), name="ModifyListView")
    host.call("ResetListView", view, moref("obj", ROOT), name="ResetListView")
    host.call("DestroyView", view)


def search(host, machine):
    index = host.content["searchIndex"]
    config = host.read(
        [("VirtualMachine", ["config.uuid", "name", "config.files.vmPathName"])], machine
    )
    given = {
        row.findtext(VIM + "name"): row.findtext(VIM + "val")
        for row in config.iter(VIM + "propSet")
    }
    for name, uuid in (("FindByUuid", given["config.uuid"]), ("FindByUuid of none", "no such")):
        host.call("FindByUuid", index, f"<uuid>{uuid}</uuid><vmSearch>true</vmSearch>", name=name)
    for name, path in (
        ("FindByInventoryPath", given["name"]),
        ("FindByInventoryPath of none", "no such"),
    ):
        path = f"<inventoryPath>/ha-datacenter/vm/{path}</inventoryPath>"
        host.call("FindByInventoryPath", index, path, name=name)
    datacenter = moref("datacenter", ("Datacenter", "ha-datacenter"))
    path = f"<path>{given['config.files.vmPathName']}</path>"
    host.call("FindByDatastorePath", index, datacenter + path, name="FindByDatastorePath")
    for method in ("FindByIp", "FindAllByIp"):
        host.call(
            method, index, "<ip>10.9.8.7</ip><vmSearch>true</vmSearch>", name=f"{method} of none"
        )
    name = "<dnsName>no.such</dnsName><vmSearch>true</vmSearch>"
    host.call("FindByDnsName", index, name, name="FindByDnsName of none")
    host.call("FindAllByDnsName", index, name, name="FindAllByDnsName of none")


def events(host):
    manager = host.content["eventManager"]
    host.read([("EventManager", ["description", "maxCollector"])], manager, name="EventManager")
    by_entity = f"<entity>{moref('entity', ROOT)}<recursion>all</recursion></entity>"
    parameters = f"<filter>{by_entity}</filter>"
    collector = host.one(
        "CreateCollectorForEvents", manager, parameters, name="CreateCollectorForEvents"
    )
    most = "<maxCount>%d</maxCount>"
    host.call("SetCollectorPageSize", collector, most % 5, name="SetCollectorPageSize")
    host.read([("EventHistoryCollector", None)], collector, name="EventHistoryCollector whole")
    host.call("RewindCollector", collector, name="RewindCollector")
    host.call("ReadNextEvents", collector, most % 1, name="ReadNextEvents")
    host.call("ResetCollector", collector, name="ResetCollector")
    host.call("ReadPreviousEvents", collector, most % 1, name="ReadPreviousEvents")
    host.call("ReadNextEvents", collector, most % 0, name="ReadNextEvents of none")
    host.call("DestroyCollector", collector, name="DestroyCollector")


def faults(host, machine):
    gone = ("VirtualMachine", "no-such")
    host.call("PowerOnVM_Task", gone, name="ManagedObjectNotFound")
    host.read([("VirtualMachine", ["name"])], gone, name="ManagedObjectNotFound by the collector")
    host.read([("VirtualMachine", ["nonsense"])], machine, name="InvalidProperty")
    host.call("MakeCoffee", machine, name="a method that there is not")
    uuid = host.read([("SessionManager", ["currentSession.key"])], host.content["sessionManager"])
    own = f"<sessionId>{uuid.findtext(f'.//{VIM}val')}</sessionId>"
    host.call(
        "TerminateSession",
        host.content["sessionManager"],
        own,
        name="TerminateSession of one's own",
    )
    other = "<sessionId>no such</sessionId>"
    host.call(
        "TerminateSession", host.content["sessionManager"], other, name="TerminateSession of none"
    )
