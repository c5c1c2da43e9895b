#!/usr/bin/env python3
"""Reads answers of the simulator as pyvmomi reads them: it dies of any element, type, word or time that it does not
know. The answers are those of the simulators that tests start in their process (tests/harness/recorder.rs).

Usage: read_answers.py DIRECTORY
"""

import pathlib
import sys

from pyVmomi import SoapAdapter, VmomiSupport, vmodl

NAMESPACE = "urn:vim25"

# What tests put there on purpose, as hosts that are younger than pyvmomi would, and what is read in its place so
# that the rest of the answer is read too. One that no answer has any more is an error.
FROM_THE_FUTURE = {
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
    # Its connection is never used; it tells the deserializer which version of the API is spoken.
    stub = SoapAdapter.SoapStubAdapter("localhost", version=VmomiSupport.newestVersions.GetName("vim"))
    refused = 0
    unseen = set(FROM_THE_FUTURE)
    for answer in answers:
        try:
            read(stub, answer, unseen)
        except Exception as error:
            refused += 1
            print(f"{answer}: {type(error).__name__}: {error}")
    for text in unseen:
        print(f"No answer has {text} any more")
    print(f"{len(answers)} answers, {refused} of them refused")
    sys.exit(bool(refused or unseen))


def read(stub, answer, unseen):
    method = answer.name.rsplit("-", 1)[0]
    body = answer.read_text(encoding="utf-8")
    for text, ordinary in FROM_THE_FUTURE.items():
        if text in body:
            unseen.discard(text)
            body = body.replace(text, ordinary)
    # What cannot be read as a request is answered without a method.
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
        # A method that there is not is answered by a fault.
        return None


if __name__ == "__main__":
    main()
