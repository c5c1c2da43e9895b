"""Powers machines on and then off with pyvmomi, one after the other, and waits for each task.

Usage: pyvmomi_power.py HOST:PORT ID,ID,…

Prints the durations in microseconds as JSON.
"""

import json
import sys
import time

from pyVim.task import WaitForTask
from pyVmomi import vim

from pyvmomi_session import connect


def main():
    address, ids = sys.argv[1:3]
    service = connect(address)
    machines = [vim.VirtualMachine(id, service._stub) for id in ids.split(",")]
    durations = []
    for operation in (vim.VirtualMachine.PowerOn, vim.VirtualMachine.PowerOff):
        for machine in machines:
            started = time.perf_counter()
            WaitForTask(operation(machine))
            durations.append((time.perf_counter() - started) * 1e6)
    print(json.dumps(durations))


if __name__ == "__main__":
    main()
