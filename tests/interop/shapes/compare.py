#!/usr/bin/env python3
"""Makes the same calls on otter's simulator and on govmomi's, and compares the answers in shape: which methods give
what, which fields of which types are told, of what types their values are, and that each field is where the
declarations want it. Differences must be in the list of those that are accepted, and those must still be there.

Usage: compare.py OURS THEIRS USER PASSWORD ACCEPTED
"""

import fnmatch
import re
import sys
from collections import defaultdict

from pyVmomi import VmomiSupport, vmodl

import calls

FAULT = calls.VIM + "fault"
# Where any property of any object stands: each is looked at as a field of its object.
ANY_VALUE = {("DynamicProperty", "val"), ("PropertyChange", "val"), ("ObjectContent", "obj"), ("ObjectUpdate", "obj")}
XSI_TYPE = "{http://www.w3.org/2001/XMLSchema-instance}type"


def main():
    ours, theirs, user, password, accepted = sys.argv[1:6]
    sides = [Shape(calls.session(url, user, password)) for url in (ours, theirs)]
    found = differences(*sides)
    accepted = read_accepted(accepted)
    used = set()
    new = []
    for difference in found:
        fits = [pattern for pattern in accepted if fnmatch.fnmatchcase(difference, pattern)]
        used.update(fits)
        if not fits:
            new.append(difference)
    for difference in new:
        print(f"NEW    {difference}")
    stale = [pattern for pattern in accepted if pattern not in used]
    for pattern in stale:
        print(f"STALE  {pattern}")
    print(f"{len(sides[0].calls)} calls, {len(found)} differences, {len(new)} new, {len(stale)} stale")
    sys.exit(bool(new or stale))


def read_accepted(path):
    """The patterns of the list. Each stands below its reason: one paragraph, one reason."""
    patterns = []
    for paragraph in open(path, encoding="utf-8").read().split("\n\n"):
        lines = paragraph.strip().splitlines()
        reasons = [line for line in lines if line.startswith("#")]
        patterns += [line for line in lines if not line.startswith("#")]
        if lines and not reasons:
            raise SystemExit(f"{path}: no reason for {lines[0]}")
    # In these lines brackets are what they are.
    return [re.sub(r"\[", "[[]", pattern) for pattern in patterns]


class Shape:
    """What one side tells."""

    def __init__(self, answers):
        # By the name of the call: what is answered, in a word.
        self.calls = {}
        # By type: the names of calls that tell it; by type and field: the same, and the types of values.
        self.types = defaultdict(set)
        self.fields = defaultdict(set)
        self.values = defaultdict(set)
        self.wrong = set()
        for name, method, inside in answers:
            self.call = name
            self.answer(method, inside)

    def answer(self, method, inside):
        if local(inside) == "Fault":
            detail = inside.find("detail")
            fault = detail[0] if detail is not None and len(detail) else None
            kind = "none" if fault is None else fault.get(XSI_TYPE)
            self.calls[self.call] = f"fault {kind}"
            if fault is not None:
                if local(fault) != f"{kind}Fault":
                    self.wrong.add(f"{self.call}: {local(fault)} holds a {kind}")
                self.look(fault, declared(kind))
            return
        self.calls[self.call] = f"{local(inside)} {'with' if len(inside) else 'without'} a value"
        if method == "Fetch":
            result = object
        else:
            result = VmomiSupport.GetWsdlMethod("urn:vim25", method).info.result
        for returned in inside:
            self.value(returned, item_of(result), f"{method}()")

    def look(self, element, kind):
        """One data object."""
        if kind is vmodl.LocalizedMethodFault or kind is vmodl.MethodFault and element.find(FAULT) is not None:
            # For pyvmomi this is the fault itself.
            self.value(element.find(FAULT), vmodl.MethodFault, "LocalizedMethodFault.fault")
            return
        name = wsdl_name(kind)
        self.types[name].add(self.call)
        order = [info.name for info in kind._GetPropertyList()]
        at = 0
        for child in element:
            field = local(child)
            if field not in order:
                self.wrong.add(f"{name}.{field} is not declared")
                continue
            if order.index(field) < at:
                self.wrong.add(f"{name}.{field} is out of its place")
            at = max(at, order.index(field))
            self.fields[name, field].add(self.call)
            self.value(child, item_of(kind._GetPropertyInfo(field).type), f"{name}.{field}")
        if name in ("ObjectContent", "ObjectUpdate"):
            self.properties(element)

    def properties(self, element):
        """What is told of a managed object, as if each path were a field of its type."""
        name = element.find(calls.VIM + "obj").get("type")
        self.types[name].add(self.call)
        for told in (*element.iter(calls.VIM + "propSet"), *element.iter(calls.VIM + "changeSet")):
            path = told.findtext(calls.VIM + "name")
            value = told.find(calls.VIM + "val")
            self.fields[name, path].add(self.call)
            self.values[name, path].add("nothing" if value is None else kind_of(value, object)[0])

    def value(self, element, kind, place):
        name, kind = kind_of(element, kind)
        holder, _, field = place.partition(".")
        self.values[holder, field].add(name)
        if kind is None:
            return
        if isinstance(kind, type) and issubclass(kind, list):
            for item in element:
                self.value(item, item_of(kind), f"{holder}.{field}")
        elif isinstance(kind, type) and issubclass(kind, (VmomiSupport.DataObject, Exception)):
            self.look(element, kind)


def local(element):
    return re.sub("{.*}", "", element.tag)


def declared(name):
    return VmomiSupport.GetWsdlType("urn:vim25", name)


def wsdl_name(kind):
    return VmomiSupport.GetWsdlName(kind)


def item_of(kind):
    return kind.Item if isinstance(kind, type) and issubclass(kind, list) and hasattr(kind, "Item") else kind


def kind_of(element, kind):
    """The name of the type that an element has, and the type where there is something in it."""
    told = element.get(XSI_TYPE)
    target = element.get("type")
    if target is not None and (told in (None, "ManagedObjectReference")):
        return f"@{target}", None
    if told is None:
        if kind is object:
            return "untyped", None
        return wsdl_name(kind), kind
    if re.match("xsd?:", told) or told == "ArrayOfManagedObjectReference":
        return told, None
    return told, declared(told)


def differences(ours, theirs):
    """Lines, each naming a difference."""
    found = []
    for call in ours.calls:
        if ours.calls[call] != theirs.calls.get(call):
            found.append(f"call {call}: ours {ours.calls[call]}, theirs {theirs.calls.get(call)}")
    for side, shape in (("ours", ours), ("theirs", theirs)):
        found += [f"wrong {what}, {side}" for what in shape.wrong]
    for side, shape, other in (("ours", ours, theirs), ("theirs", theirs, ours)):
        for name in shape.types:
            if name not in other.types:
                found.append(f"type {name}, only {side}")
        for name, field in shape.fields:
            here = shape.fields[name, field]
            there = other.fields.get((name, field), set())
            # Only what both could have told counts: calls in which both have the type.
            lacking = (here - there) & shape.types[name] & other.types.get(name, set())
            if lacking and not there:
                found.append(f"field {name}.{field}, only {side}")
            elif lacking:
                found += [f"field {name}.{field} in {call}, only {side}" for call in lacking]
    for holder, field in (ours.values.keys() & theirs.values.keys()) - ANY_VALUE:
        place = f"{holder}.{field}".rstrip(".")
        for side, one, other in (("ours", ours, theirs), ("theirs", theirs, ours)):
            for kind in one.values[holder, field] - other.values[holder, field]:
                # A type that the other side has nowhere was told above.
                if kind in other.types or kind not in one.types:
                    found.append(f"value {place} is {kind}, only {side}")
    return sorted(found)


if __name__ == "__main__":
    main()
