"""Reads machines with pyvmomi: the list, one machine by its name, and one by its MAC.

Usage: pyvmomi_reads.py original|bulk HOST:PORT list|NAME|MAC

`original` reads the properties of each machine one by one, as the Python framework did. `bulk`
reads them with one RetrievePropertiesEx. Prints the duration of the read in microseconds, without
the login, and the number of machines, as JSON.
"""

import json
import sys
import time

from pyVmomi import vim, vmodl

from pyvmomi_session import connect

PATHS = ["name", "runtime.powerState", "guest.ipAddress", "config.hardware.device"]


def main():
    way, address, wanted = sys.argv[1:4]
    content = connect(address).RetrieveContent()
    ways = {"original": (list_one_by_one, find_one_by_one), "bulk": (list_bulk, find_bulk)}
    list_all, find = ways[way]
    started = time.perf_counter()
    found = list_all(content) if wanted == "list" else find(content, wanted)
    micros = (time.perf_counter() - started) * 1e6
    print(json.dumps({"micros": micros, "machines": len(found)}))


def list_one_by_one(content):
    return [describe(machine) for machine in view_of_machines(content).view]


def find_one_by_one(content, wanted):
    for machine in view_of_machines(content).view:
        names = macs(machine.config.hardware.device) if ":" in wanted else [machine.name]
        if wanted in names:
            return [describe(machine)]
    return []


def describe(machine):
    return {
        "id": machine._moId,
        "name": machine.name,
        "power": machine.runtime.powerState,
        "address": machine.guest.ipAddress,
        "macs": macs(machine.config.hardware.device),
    }


def list_bulk(content):
    collector = vmodl.query.PropertyCollector
    view = view_of_machines(content)
    traversal = collector.TraversalSpec(
        name="view", path="view", skip=False, type=vim.view.ContainerView
    )
    spec = collector.FilterSpec(
        objectSet=[collector.ObjectSpec(obj=view, skip=True, selectSet=[traversal])],
        propSet=[collector.PropertySpec(type=vim.VirtualMachine, pathSet=PATHS)],
    )
    answer = content.propertyCollector.RetrievePropertiesEx([spec], collector.RetrieveOptions())
    found = []
    while answer:
        for object in answer.objects:
            values = {property.name: property.val for property in object.propSet}
            found.append(
                {
                    "id": object.obj._moId,
                    "name": values["name"],
                    "power": values["runtime.powerState"],
                    "address": values.get("guest.ipAddress"),
                    "macs": macs(values["config.hardware.device"]),
                }
            )
        if not answer.token:
            break
        answer = content.propertyCollector.ContinueRetrievePropertiesEx(answer.token)
    return found


def find_bulk(content, wanted):
    return [
        machine
        for machine in list_bulk(content)
        if machine["name"] == wanted or wanted in machine["macs"]
    ]


def macs(devices):
    cards = (d for d in devices if isinstance(d, vim.vm.device.VirtualEthernetCard))
    return [card.macAddress for card in cards]


def view_of_machines(content):
    return content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True)


if __name__ == "__main__":
    main()
