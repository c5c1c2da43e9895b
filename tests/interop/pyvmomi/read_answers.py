#!/usr/bin/env python3
"""Reads recorded answers of the simulator with pyvmomi, which refuses every element, type, word and
time that it does not know. The tests record the answers of the simulators in their process
(tests/harness/recorder.rs).

Usage: read_answers.py DIRECTORY
"""

import pathlib
import sys

from pyVmomi import SoapAdapter, VmomiSupport, vmodl

NAMESPACE = "urn:vim25"

# Unknown texts that tests put into answers on purpose, as newer hosts do. Each is replaced by a
# known text, so that the rest of the answer can be read. It is an error if no answer has one of
# them.
UNKNOWN_TEXTS = {
    ">hibernated<": ">suspended<",
    ">melted<": ">suspended<",
    ">to-come<": ">orphaned<",
    '"VirtualMachinePowerState"></val>': '"VirtualMachinePowerState">poweredOff</val>',
    "SomethingToCome": "VimFault",
}


def main():
    answers = sorted(pathlib.Path(sys.argv[1]).glob("*.xml"))
    if not answers:
        raise SystemExit(f"There are no answers in {sys.argv[1]}")
    # The stub is never connected. It gives the deserializer the version of the API.
    stub = SoapAdapter.SoapStubAdapter(
        "localhost", version=VmomiSupport.newestVersions.GetName("vim")
    )
    refused = 0
    unseen = set(UNKNOWN_TEXTS)
    for answer in answers:
        try:
            read(stub, answer, unseen)
        except Exception as error:
            refused += 1
            print(f"{answer}: {type(error).__name__}: {error}")
    for text in unseen:
        print(f"No answer has {text}")
    print(f"{len(answers)} answers, {refused} of them refused")
    sys.exit(bool(refused or unseen))


def read(stub, answer, unseen):
    method = answer.name.rsplit("-", 1)[0]
    body = answer.read_text(encoding="utf-8")
    for text, known in UNKNOWN_TEXTS.items():
        if text in body:
            unseen.discard(text)
            body = body.replace(text, known)
    # The answer to a request that the simulator could not parse has no method.
    result = result_of(method) if method else None
    value = SoapAdapter.SoapResponseDeserializer(stub).Deserialize(body.encode(), result)
    if isinstance(value, Exception) and not isinstance(value, vmodl.MethodFault):
        raise value


def result_of(method):
    if method == "Fetch":
        return object
    try:
        return VmomiSupport.GetWsdlMethod(NAMESPACE, method).info.result
    except KeyError:
        # The answer to an unknown method is a fault.
        return None


if __name__ == "__main__":
    main()
