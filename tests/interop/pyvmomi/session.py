#!/usr/bin/env python3
"""A session of pyvmomi with a simulated ESX. It makes the calls that scripts make, and fails at
every deviation.

Usage: session.py URL USER PASSWORD
"""

import hashlib
import http.client
import socket
import ssl
import sys
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

from pyVim.connect import Disconnect, SmartConnect
from pyVim.task import WaitForTask
from pyVmomi import vim, vmodl

POWERED_ON = vim.VirtualMachine.PowerState.poweredOn
POWERED_OFF = vim.VirtualMachine.PowerState.poweredOff


def main():
    url, user, password = sys.argv[1:4]
    address = urllib.parse.urlsplit(url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = dict(host=address.hostname, port=address.port, sslContext=context)

    wrong_password(connection, user)
    service = SmartConnect(user=user, pwd=password, **connection)
    content = service.RetrieveContent()
    expect(content.about.apiType, "HostAgent")
    expect(content.about.apiVersion, "7.0.3.0")
    expect(service.CurrentTime().tzinfo is not None, True)

    machines = list_machines(content)
    expect(len(machines) > 0, True)
    for machine in machines:
        read_everything(machine)
    walk_inventory(content, machines)
    read_by_collector(content, machines)

    machine = next(m for m in machines if usable(m) and m.snapshot)
    wait_for_updates(content, machine, machines)
    power(machine)
    snapshots(machine)
    search(content, machine)
    guest(machines)
    question(machines)
    console(connection, machines)
    screenshot(machines)
    files(content, connection, service._stub.cookie)
    media(content, connection, service._stub.cookie, machines)
    refused_calls(machines)
    events(content, machine)
    foreign_session(content, connection, user, password)

    Disconnect(service)
    raises(vim.fault.NotAuthenticated, lambda: machine.name)
    print(f"{len(machines)} machines, all as expected")


def wrong_password(connection, user):
    raises(vim.fault.InvalidLogin, lambda: SmartConnect(user=user, pwd="wrong", **connection))


def list_machines(content):
    view = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True)
    machines = list(view.view)
    expect(list(view.type), ["VirtualMachine"])
    expect(view.recursive, True)
    view.DestroyView()
    raises(vmodl.fault.ManagedObjectNotFound, lambda: view.view)
    return machines


def read_everything(machine):
    """Reads each property: pyvmomi fails at every element, type and enum value that it does not
    know.
    """
    for info in machine._GetPropertyList():
        value = getattr(machine, info.name)
        str(value)
    expect(machine.summary.config.name, machine.name)
    expect(machine.summary.runtime.powerState, machine.runtime.powerState)
    if machine.runtime.connectionState == "connected":
        config = machine.config
        expect(machine.summary.config.uuid, config.uuid)
        expect(machine.summary.config.numCpu, config.hardware.numCPU)
        keys = [device.key for device in config.hardware.device]
        expect(len(keys), len(set(keys)))
        for device in config.hardware.device:
            expect(device.deviceInfo.label != "", True)
            if isinstance(device, vim.vm.device.VirtualEthernetCard):
                expect(len(device.macAddress), 17)
                expect(type(device.backing), vim.vm.device.VirtualEthernetCard.NetworkBackingInfo)
            if isinstance(device, vim.vm.device.VirtualSerialPort):
                backing = device.backing
                expect(type(backing) is not vim.vm.device.VirtualDevice.BackingInfo, True)
    else:
        expect(machine.config, None)
    for name in ("hostName", "ipAddress", "toolsRunningStatus"):
        expect(getattr(machine.summary.guest, name), getattr(machine.guest, name))
    expect(len(machine.environmentBrowser.datastoreBrowser.datastore) > 0, True)


def walk_inventory(content, machines):
    datacenter = content.rootFolder.childEntity[0]
    expect(content.rootFolder.parent, None)
    expect(datacenter.parent, content.rootFolder)
    expect(datacenter.vmFolder.childEntity, machines)
    expect(list(datacenter.vmFolder.childType), ["VirtualMachine"])
    resource = datacenter.hostFolder.childEntity[0]
    expect(type(resource), vim.ComputeResource)
    host = resource.host[0]
    expect(host.vm, machines)
    expect(host.summary.config.product.apiVersion, "7.0.3.0")
    expect(host.summary.hardware.uuid != "", True)
    expect(host.runtime.bootTime is not None, True)
    describe_host(content, host)
    expect(resource.resourcePool.name, "Resources")
    expect(resource.resourcePool.owner, resource)
    for entity in (
        content.rootFolder,
        datacenter,
        resource,
        host,
        resource.resourcePool,
        *datacenter.network,
    ):
        for name in ("name", "overallStatus", "recentTask", "parent"):
            getattr(entity, name)
        if hasattr(entity, "summary"):
            str(entity.summary)
    expect(len(datacenter.datastore) > 0, True)
    for datastore in datacenter.datastore:
        expect(datastore.summary.name, datastore.name)
        expect(datastore.summary.freeSpace <= datastore.summary.capacity, True)
        for name in ("info", "host", "capability", "vm", "browser"):
            str(getattr(datastore, name))
    expect(sum(len(datastore.vm) for datastore in datacenter.datastore), len(machines))
    str(content.licenseManager.licenses)
    expect(content.sessionManager.currentSession.userName, sys.argv[2])


def describe_host(content, host):
    """Follows the fields of a host that scripts follow without a check."""
    expect(host.hardware.systemInfo.uuid, host.summary.hardware.uuid)
    expect(host.hardware.cpuInfo.numCpuCores, host.summary.hardware.numCpuCores)
    expect(host.hardware.memorySize, host.summary.hardware.memorySize)
    network = host.config.network
    expect(len(network.pnic), host.summary.hardware.numNics)
    expect([card.device for card in network.vnic], ["vmk0"])
    expect([group.spec.vswitchName for group in network.portgroup], [network.vswitch[0].name] * 2)
    system = host.configManager.networkSystem
    expect(system.networkInfo.vswitch[0].key, network.vswitch[0].key)
    expect(host.capability.nestedHVSupported, True)
    operations = content.guestOperationsManager
    for name in ("authManager", "fileManager", "processManager"):
        expect(getattr(operations, name) is not None, True)


def read_by_collector(content, machines):
    """Reads many machines in one call with pages, then by a traversal that refers to itself by
    name.
    """
    pc = vmodl.query.PropertyCollector
    view = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True)
    path = pc.TraversalSpec(type=vim.view.ContainerView, path="view", skip=False)
    spec = pc.FilterSpec(
        objectSet=[pc.ObjectSpec(obj=view, skip=True, selectSet=[path])],
        propSet=[
            pc.PropertySpec(
                type=vim.VirtualMachine, all=False, pathSet=["name", "config.hardware.device"]
            )
        ],
    )
    seen = []
    page = content.propertyCollector.RetrievePropertiesEx([spec], pc.RetrieveOptions(maxObjects=5))
    while True:
        expect(len(page.objects) <= 5, True)
        seen += [row.obj for row in page.objects]
        if page.token is None:
            break
        page = content.propertyCollector.ContinueRetrievePropertiesEx(page.token)
    expect(seen, machines)
    view.DestroyView()

    again = pc.SelectionSpec(name="down")
    down = pc.TraversalSpec(name="down", type=vim.Folder, path="childEntity", skip=False)
    to_folder = pc.TraversalSpec(
        type=vim.Datacenter, path="vmFolder", skip=False, selectSet=[again]
    )
    down.selectSet = [again, to_folder]
    spec = pc.FilterSpec(
        objectSet=[pc.ObjectSpec(obj=content.rootFolder, skip=False, selectSet=[down])],
        propSet=[pc.PropertySpec(type=vim.ManagedEntity, all=False, pathSet=["name"])],
    )
    rows = content.propertyCollector.RetrieveContents([spec])
    found = [row.obj for row in rows if isinstance(row.obj, vim.VirtualMachine)]
    expect(sorted(str(o) for o in found), sorted(str(m) for m in machines))
    spec.propSet[0].pathSet = ["nonsense"]
    raises(vmodl.query.InvalidProperty, lambda: content.propertyCollector.RetrieveContents([spec]))
    spec.propSet[0].all = True
    expect(len(content.propertyCollector.RetrieveContents([spec])), len(rows))

    machine = next(one for one in machines if one.config)
    spec = pc.FilterSpec(
        objectSet=[pc.ObjectSpec(obj=machine, skip=False)],
        propSet=[
            pc.PropertySpec(
                type=vim.VirtualMachine, all=False, pathSet=['config.extraConfig["svga.present"]']
            )
        ],
    )
    option = content.propertyCollector.RetrieveContents([spec])[0].propSet[0].val
    expect((type(option), option.value), (vim.option.OptionValue, "TRUE"))


def wait_for_updates(content, machine, machines):
    """Uses a collector of its own: it reports all objects, then the changes; another call cancels
    its last wait.
    """
    pc = vmodl.query.PropertyCollector
    view = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True)
    path = pc.TraversalSpec(type=vim.view.ContainerView, path="view", skip=False)
    spec = pc.FilterSpec(
        objectSet=[pc.ObjectSpec(obj=view, skip=True, selectSet=[path])],
        propSet=[
            pc.PropertySpec(
                type=vim.VirtualMachine, all=False, pathSet=["name", "runtime.powerState"]
            )
        ],
    )
    collector = content.propertyCollector.CreatePropertyCollector()
    own = collector.CreateFilter(spec, False)
    expect([str(one) for one in collector.filter], [str(own)])
    entered, version = [], ""
    while len(entered) < len(machines):
        update = collector.WaitForUpdatesEx(
            version, pc.WaitOptions(maxWaitSeconds=10, maxObjectUpdates=4)
        )
        objects = [one for reported in update.filterSet for one in reported.objectSet]
        expect({one.kind for one in objects}, {"enter"})
        expect(len(objects) <= 4, True)
        entered += [one.obj for one in objects]
        version = update.version
    expect(entered, machines)
    expect(update.truncated, None)
    expect(collector.WaitForUpdatesEx(version, pc.WaitOptions(maxWaitSeconds=0)), None)

    WaitForTask(machine.PowerOn())
    update = collector.WaitForUpdatesEx(version, pc.WaitOptions(maxWaitSeconds=10))
    (changed,) = update.filterSet[0].objectSet
    expect((changed.kind, changed.obj), ("modify", machine))
    reported = [(change.name, change.op, change.val) for change in changed.changeSet]
    expect(reported, [("runtime.powerState", "assign", POWERED_ON)])
    WaitForTask(machine.PowerOff())

    version = collector.CheckForUpdates(update.version).version
    waiting = ThreadPoolExecutor(1).submit(collector.WaitForUpdates, version)
    while not waiting.done():
        collector.CancelWaitForUpdates()
    raises(vmodl.fault.RequestCanceled, waiting.result)
    raises(vmodl.query.InvalidCollectorVersion, lambda: collector.CheckForUpdates("nonsense"))
    own.DestroyPropertyFilter()
    collector.DestroyPropertyCollector()
    raises(vmodl.fault.ManagedObjectNotFound, lambda: collector.filter)
    view.DestroyView()


def events(content, machine):
    """Reads the events of the operations above."""
    manager = content.eventManager
    known = {detail.key for detail in manager.description.eventInfo}
    by_entity = vim.event.EventFilterSpec.ByEntity(entity=machine, recursion="self")
    reported = manager.QueryEvents(vim.event.EventFilterSpec(entity=by_entity))
    for kind in (
        vim.event.VmPoweredOnEvent,
        vim.event.VmPoweredOffEvent,
        vim.event.VmSuspendedEvent,
    ):
        expect(any(isinstance(event, kind) for event in reported), True)
    reverts = [
        e
        for e in reported
        if isinstance(e, vim.event.TaskEvent) and "revert" in e.info.descriptionId
    ]
    expect(len(reverts) > 1, True)
    for event in reported:
        expect(event.vm.vm, machine)
        expect(event.userName, sys.argv[2])
        expect(type(event) in known, True)
        expect(event.fullFormattedMessage != "", True)

    logins = vim.event.EventFilterSpec(eventTypeId=["vim.event.UserLoginSessionEvent"])
    collector = manager.CreateCollectorForEvents(logins)
    collector.SetCollectorPageSize(5)
    page = collector.latestPage
    expect({type(event) for event in page}, {vim.event.UserLoginSessionEvent})
    expect(content.sessionManager.currentSession.key in [event.sessionId for event in page], True)
    expect(len(collector.ReadNextEvents(1000)) >= len(page), True)
    expect(collector.ReadNextEvents(1000), [])
    expect(len(collector.ReadPreviousEvents(1)), 1)
    collector.RewindCollector()
    expect(collector.ReadPreviousEvents(1), [])
    collector.ResetCollector()
    expect(collector.filter.eventTypeId, ["UserLoginSessionEvent"])
    collector.DestroyCollector()
    expect(type(manager.latestEvent) in known, True)


def usable(machine):
    runtime = machine.runtime
    return (
        runtime.connectionState == "connected"
        and runtime.powerState == POWERED_OFF
        and runtime.question is None
        and not machine.config.template
    )


def shows(machine):
    """Whether the machine has a screen."""
    runtime = machine.runtime
    return runtime.connectionState == "connected" and runtime.powerState == POWERED_ON


def power(machine):
    expect(WaitForTask(machine.PowerOn()), vim.TaskInfo.State.success)
    expect(machine.runtime.powerState, POWERED_ON)
    expect(machine.runtime.bootTime is not None, True)
    raises(vim.fault.InvalidPowerState, lambda: WaitForTask(machine.PowerOn()))
    raises(vim.fault.ToolsUnavailable, machine.ShutdownGuest)
    task = machine.Reset()
    raises(vim.fault.TaskInProgress, machine.PowerOff)
    expect(WaitForTask(task), vim.TaskInfo.State.success)
    info = task.info
    expect(info.entity, machine)
    expect(info.descriptionId, "VirtualMachine.reset")
    expect(info.name.info.wsdlName, "ResetVM_Task")
    expect(info.reason.userName, sys.argv[2])
    expect(info.completeTime >= info.startTime, True)
    expect(task in machine.recentTask, True)
    WaitForTask(machine.Suspend())
    expect(machine.runtime.powerState, vim.VirtualMachine.PowerState.suspended)
    WaitForTask(machine.PowerOn())
    WaitForTask(machine.PowerOff())
    expect(machine.runtime.powerState, POWERED_OFF)
    raises(vim.fault.InvalidPowerState, lambda: WaitForTask(machine.PowerOff()))
    raises(vim.fault.InvalidPowerState, machine.RebootGuest)


def snapshots(machine):
    before = tree(machine)
    current = machine.snapshot.currentSnapshot
    WaitForTask(machine.PowerOn())
    made = create(machine, "a%2fb", memory=False)
    asleep = create(machine, "memory", memory=True)
    expect(len(tree(machine)), len(before) + 2)
    node = tree(machine)[str(made)]
    expect(node.name, "a%2fb")
    expect(node.state, POWERED_OFF)
    expect(tree(machine)[str(asleep)].state, POWERED_ON)

    WaitForTask(made.Revert())
    expect(machine.runtime.powerState, POWERED_OFF)
    expect(machine.snapshot.currentSnapshot, made)
    WaitForTask(asleep.Revert())
    expect(machine.runtime.powerState, POWERED_ON)
    WaitForTask(asleep.Revert(suppressPowerOn=True))
    expect(machine.runtime.powerState != POWERED_ON, True)
    WaitForTask(machine.RevertToCurrentSnapshot())
    expect(machine.runtime.powerState, POWERED_ON)

    made.Rename(name="renamed", description="again")
    expect(tree(machine)[str(made)].description, "again")
    WaitForTask(made.Remove(removeChildren=False))
    expect(str(made) in tree(machine), False)
    expect(str(asleep) in tree(machine), True)
    raises(vmodl.fault.ManagedObjectNotFound, lambda: made.Rename(name="x"))
    WaitForTask(current.Revert())
    WaitForTask(asleep.Remove(removeChildren=True))
    expect(sorted(tree(machine)), sorted(before))
    expect(machine.snapshot.currentSnapshot, current)
    if machine.runtime.powerState == POWERED_ON:
        WaitForTask(machine.PowerOff())
    raises(vim.fault.InvalidName, lambda: create(machine, "", memory=False))


def create(machine, name, memory):
    task = machine.CreateSnapshot(name=name, description="by pyvmomi", memory=memory, quiesce=False)
    WaitForTask(task)
    return task.info.result


def tree(machine):
    found = {}
    open_nodes = list(machine.snapshot.rootSnapshotList)
    while open_nodes:
        node = open_nodes.pop()
        expect(node.vm, machine)
        found[str(node.snapshot)] = node
        open_nodes += node.childSnapshotList
    return found


def search(content, machine):
    index = content.searchIndex
    expect(index.FindByUuid(None, machine.config.uuid, True), machine)
    expect(index.FindByUuid(None, machine.config.instanceUuid, True, True), machine)
    expect(index.FindByUuid(None, machine.config.uuid, True, True), None)
    expect(index.FindByInventoryPath(f"ha-datacenter/vm/{machine.name}"), machine)
    expect(index.FindByInventoryPath("ha-datacenter/vm/no such machine"), None)
    datacenter = content.rootFolder.childEntity[0]
    expect(index.FindByDatastorePath(datacenter, machine.config.files.vmPathName), machine)
    expect(index.FindAllByUuid(None, machine.config.uuid, True), [machine])


def guest(machines):
    """VMware Tools and the address come some time after the power-on. A guest shutdown needs Tools.
    """
    machine = next(m for m in machines if usable(m) and m.guest.toolsStatus != "toolsNotInstalled")
    WaitForTask(machine.PowerOn())
    until(lambda: machine.guest.ipAddress)
    expect(machine.guest.toolsRunningStatus, "guestToolsRunning")
    expect(machine.guest.ipAddress in machine.guest.net[0].ipAddress, True)
    expect(machine.ShutdownGuest(), None)
    until(lambda: machine.runtime.powerState == POWERED_OFF)
    until(lambda: machine.guest.ipAddress is None)


def question(machines):
    machine = next(m for m in machines if m.runtime.question)
    asked = machine.runtime.question
    expect(asked.text.startswith(asked.message[0].id + ": "), True)
    keys = [choice.key for choice in asked.choice.choiceInfo]
    expect(keys == [str(n) for n in range(len(keys))], False)
    task = machine.recentTask[-1]
    expect(task.info.state, vim.TaskInfo.State.running)
    raises(vmodl.fault.InvalidArgument, lambda: machine.Answer(asked.id, "77"))
    raises(vmodl.fault.InvalidArgument, lambda: machine.Answer("no question", keys[1]))
    machine.Answer(asked.id, keys[1])
    WaitForTask(task)
    expect(machine.runtime.powerState, POWERED_ON)
    expect(machine.runtime.question, None)
    WaitForTask(machine.PowerOff())


def console(connection, machines):
    """Takes tickets and opens a console with one of them."""
    machine, off = next(m for m in machines if shows(m)), next(m for m in machines if usable(m))
    ticket = machine.AcquireTicket("webmks")
    expect(type(ticket), vim.VirtualMachine.Ticket)
    expect(ticket.cfgFile, machine.config.files.vmPathName)
    # The client knows the host, because the ticket names it only as the host calls itself.
    expect((ticket.host, ticket.port), (None, 443))
    expect(ticket.url.endswith(f":443/ticket/{ticket.ticket}"), True)
    expect(machine.AcquireTicket("webmks").ticket != ticket.ticket, True)

    with use_ticket(connection, ticket.ticket) as stream:
        certificate = hashlib.sha1(stream.getpeercert(binary_form=True)).hexdigest()
        expect(ticket.sslThumbprint.replace(":", "").lower(), certificate)
        reader = stream.makefile("rb")
        status, headers = read_head(reader)
        expect((status, headers["Sec-WebSocket-Protocol"]), (101, "binary"))
        version = b""
        while len(version) < 12:
            kind, length = reader.read(2)
            expect(kind, 0x82)
            version += reader.read(length)
        expect(version, b"RFB 003.008\n")
        expect(machine.runtime.numMksConnections, 1)
        stream.sendall(b"\x88\x80\0\0\0\0")
        expect(reader.read()[:1], b"\x88")
    until(lambda: machine.runtime.numMksConnections == 0)
    with use_ticket(connection, ticket.ticket) as stream:
        expect(read_head(stream.makefile("rb"))[0], 404)

    raises(vmodl.fault.NotSupported, lambda: machine.AcquireTicket("device"))
    raises(vim.fault.InvalidPowerState, lambda: off.AcquireTicket("webmks"))


def use_ticket(connection, ticket):
    """Asks for the WebSocket of a ticket."""
    host = connection["host"]
    plain = socket.create_connection((host, connection["port"]), timeout=30)
    stream = connection["sslContext"].wrap_socket(plain, server_hostname=host)
    stream.sendall(
        f"GET /ticket/{ticket} HTTP/1.1\r\nHost: {host}\r\n"
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        "Sec-WebSocket-Protocol: binary\r\n\r\n".encode()
    )
    return stream


def read_head(reader):
    status = int(reader.readline().split()[1])
    return status, http.client.parse_headers(reader)


def screenshot(machines):
    machine, off = next(m for m in machines if shows(m)), next(m for m in machines if usable(m))
    task = machine.CreateScreenshot()
    expect(WaitForTask(task), vim.TaskInfo.State.success)
    info = task.info
    expect((info.entity, info.descriptionId), (machine, "VirtualMachine.createScreenshot"))
    expect(info.name.info.wsdlName, "CreateScreenshot_Task")
    folder = machine.config.files.vmPathName.rpartition("/")[0]
    expect(info.result.startswith(f"{folder}/") and info.result.endswith(".png"), True)
    expect(info.result in [file.name for file in machine.layoutEx.file], True)
    raises(vim.fault.InvalidPowerState, lambda: WaitForTask(off.CreateScreenshot()))


def files(content, connection, cookie):
    """Makes a folder, uploads into it, lists it with the browser, downloads, moves and deletes."""
    datacenter = content.rootFolder.childEntity[0]
    datastore = next(one for one in datacenter.datastore if one.name == "scratch")
    manager, base = content.fileManager, "[scratch] by pyvmomi"
    manager.MakeDirectory(f"{base}/a/b", datacenter, True)
    again = lambda: manager.MakeDirectory(f"{base}/a", datacenter, True)
    raises(vim.fault.FileAlreadyExists, again)
    raises(vim.fault.FileNotFound, lambda: manager.MakeDirectory(f"{base}/x/y", datacenter, False))

    call = lambda method, path, **more: folder(connection, cookie, method, path, **more)
    body = bytes(range(256)) * 300
    expect(call("PUT", "by pyvmomi/a/ä & b.iso", body=body)[0], 201)
    expect(call("PUT", "by pyvmomi/a/ä & b.iso", body=body)[0], 200)
    expect(call("PUT", "by pyvmomi/a/run.log", body=b"a line")[0], 201)
    status, headers, read = call("GET", "by pyvmomi/a/ä & b.iso")
    expect((status, headers["Content-Length"], read == body), (200, str(len(body)), True))
    status, headers, read = call("HEAD", "by pyvmomi/a/ä & b.iso")
    expect((status, headers["Content-Length"], read), (200, str(len(body)), b""))
    status, headers, read = call("GET", "by pyvmomi/a/ä & b.iso", since=len(body) - 6)
    expect((status, read), (206, body[-6:]))
    expect(headers["Content-Range"], f"bytes {len(body) - 6}-{len(body) - 1}/{len(body)}")
    expect(call("GET", "by pyvmomi/a/ä & b.iso", since=len(body))[0], 416)
    expect(call("GET", "by pyvmomi/none")[0], 404)
    expect(folder(connection, "", "GET", "by pyvmomi/a/run.log")[0], 401)

    found = listing(datastore, f"{base}/a")
    expect(found.folderPath.rstrip("/"), f"{base}/a")
    expect([one.path for one in found.file], ["b", "run.log", "ä & b.iso"])
    kinds = vim.host.DatastoreBrowser
    expected = [kinds.FolderInfo, kinds.VmLogInfo, kinds.IsoImageInfo]
    expect([type(one) for one in found.file][::2], expected[::2])
    expect([one.fileSize for one in found.file[1:]], [6, len(body)])
    expect(all(one.modification is not None for one in found.file), True)
    only = listing(datastore, f"{base}/a", pattern="*.iso")
    expect([one.path for one in only.file], ["ä & b.iso"])
    plain = datastore.browser.SearchDatastore_Task(f"{base}/a")
    WaitForTask(plain)
    expect({one.fileSize for one in plain.info.result.file}, {None})
    below = datastore.browser.SearchDatastoreSubFolders_Task(base)
    WaitForTask(below)
    folders = sorted(one.folderPath.rstrip("/") for one in below.info.result)
    expect(folders, [base, f"{base}/a", f"{base}/a/b"])
    raises(vim.fault.FileNotFound, lambda: listing(datastore, f"{base}/none"))

    def move(old, new, force):
        old, new = f"{base}/{old}", f"{base}/{new}"
        WaitForTask(manager.MoveDatastoreFile_Task(old, datacenter, new, datacenter, force))

    raises(vim.fault.FileAlreadyExists, lambda: move("a/run.log", "a/ä & b.iso", False))
    move("a/run.log", "a/ä & b.iso", True)
    expect(call("GET", "by pyvmomi/a/ä & b.iso")[2], b"a line")
    raises(vim.fault.FileNotFound, lambda: move("a/run.log", "x", False))
    WaitForTask(manager.DeleteDatastoreFile_Task(base, datacenter))
    raises(vim.fault.FileNotFound, lambda: listing(datastore, base))


def listing(datastore, path, pattern="*"):
    browser = vim.host.DatastoreBrowser
    details = browser.FileInfo.Details(
        fileType=True, fileSize=True, modification=True, fileOwner=True
    )
    spec = browser.SearchSpec(matchPattern=[pattern], details=details, sortFoldersFirst=True)
    task = datastore.browser.SearchDatastore_Task(path, spec)
    WaitForTask(task)
    found = task.info.result
    expect(found.datastore, datastore)
    found.file.sort(key=lambda one: one.path)
    return found


def folder(connection, cookie, method, path, body=None, since=None):
    """A request for a file of the datastore `scratch`: its status, its headers and its body."""
    query = urllib.parse.urlencode({"dcPath": "ha-datacenter", "dsName": "scratch"})
    # Scripts pass on the cookie of their session without its attributes.
    headers = {"Cookie": cookie.partition(";")[0]} if cookie else {}
    if since is not None:
        headers["Range"] = f"bytes={since}-"
    host = http.client.HTTPSConnection(
        connection["host"], connection["port"], context=connection["sslContext"], timeout=30
    )
    try:
        host.request(method, f"/folder/{urllib.parse.quote(path)}?{query}", body, headers)
        answer = host.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        host.close()


def media(content, connection, cookie, machines):
    """Inserts an ISO into a CD drive, sets the order of the boot, and takes both back."""
    drives = lambda machine: [
        device
        for device in machine.config.hardware.device
        if isinstance(device, vim.vm.device.VirtualCdrom)
    ]
    machine = next(one for one in machines if usable(one) and drives(one))
    drive = drives(machine)[0]
    before = drive.backing
    expect(folder(connection, cookie, "PUT", "boot.iso", body=b"an ISO")[0] in (200, 201), True)
    edit = vim.vm.device.VirtualDeviceSpec(operation="edit", device=drive)

    def insert(backing):
        drive.backing = backing
        drive.connectable.startConnected = True
        WaitForTask(machine.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[edit])))

    iso = vim.vm.device.VirtualCdrom.IsoBackingInfo(fileName="[scratch] boot.iso")
    insert(iso)
    expect(drives(machine)[0].backing.fileName, "[scratch] boot.iso")
    expect(drives(machine)[0].connectable.startConnected, True)

    cdrom = vim.vm.BootOptions.BootableCdromDevice()
    options = vim.vm.BootOptions(bootOrder=[cdrom], bootDelay=2000)
    WaitForTask(machine.ReconfigVM_Task(vim.vm.ConfigSpec(bootOptions=options)))
    expect([type(one) for one in machine.config.bootOptions.bootOrder], [type(cdrom)])
    expect(machine.config.bootOptions.bootDelay, 2000)

    changes = vim.vm.ConfigSpec(annotation="by pyvmomi", extraConfig=[])
    changes.extraConfig.append(vim.option.OptionValue(key="guestinfo.run", value="4711"))
    old = machine.config.annotation or ""
    WaitForTask(machine.ReconfigVM_Task(changes))
    expect(machine.config.annotation, "by pyvmomi")
    values = {option.key: option.value for option in machine.config.extraConfig}
    expect(values["guestinfo.run"], "4711")
    WaitForTask(machine.ReconfigVM_Task(vim.vm.ConfigSpec(annotation=old)))
    insert(before)


def refused_calls(machines):
    """Makes calls that the host must refuse."""
    template = next(m for m in machines if m.config and m.config.template)
    raises(vmodl.fault.NotSupported, lambda: WaitForTask(template.PowerOn()))
    lost = next(m for m in machines if m.runtime.connectionState == "inaccessible")
    raises(vim.fault.InvalidState, lambda: WaitForTask(lost.PowerOn()))
    raises(
        vmodl.fault.ManagedObjectNotFound, lambda: vim.VirtualMachine("no-such", lost._stub).name
    )


def foreign_session(content, connection, user, password):
    other = SmartConnect(user=user, pwd=password, **connection)
    key = other.content.sessionManager.currentSession.key
    keys = [session.key for session in content.sessionManager.sessionList]
    expect(key in keys, True)
    content.sessionManager.TerminateSession([key])
    raises(vim.fault.NotAuthenticated, lambda: other.content.rootFolder.name)


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("the condition is not true in time")
        time.sleep(0.05)


def expect(actual, expected):
    if actual != expected:
        raise AssertionError(f"{actual!r} instead of {expected!r}")


def raises(fault, call):
    try:
        value = call()
    except fault:
        return
    raise AssertionError(f"{value!r} instead of {fault.__name__}")


if __name__ == "__main__":
    main()
