#!/usr/bin/env python3
"""Makes the same calls on otter's simulator and on govmomi's, and compares the shapes of the
answers: the kind of answer of each call, the fields of each type, the types of their values, and
the order of fields in the declarations. Each difference must be in the list of accepted
differences, and each line of the list must match a difference.

Usage: compare.py OURS THEIRS USER PASSWORD ACCEPTED
"""

import fnmatch
import re
import sys
from collections import defaultdict

from pyVmomi import VmomiSupport, vmodl

import calls

FAULT = calls.VIM + "fault"
# Fields that hold any property of any object. Each property is compared as a field of its object
# instead.
ANY_VALUE = {
    ("DynamicProperty", "val"),
    ("PropertyChange", "val"),
    ("ObjectContent", "obj"),
    ("ObjectUpdate", "obj"),
}
XSI_TYPE = "{http://www.w3.org/2001/XMLSchema-instance}type"


def main():
    ours, theirs, user, password, accepted = sys.argv[1:6]
    sides = [Shape(calls.session(url, user, password)) for url in (ours, theirs)]
    found = differences(*sides)
    accepted = read_accepted(accepted)
    matched = set()
    new = []
    for difference in found:
        fits = [pattern for pattern in accepted if fnmatch.fnmatchcase(difference, pattern)]
        matched.update(fits)
        if not fits:
            new.append(difference)
    for difference in new:
        print(f"NEW    {difference}")
    stale = [pattern for pattern in accepted if pattern not in matched]
    for pattern in stale:
        print(f"STALE  {pattern}")
    print(
        f"{len(sides[0].calls)} calls, {len(found)} differences, {len(new)} new, {len(stale)} stale"
    )
    sys.exit(bool(new or stale))


def read_accepted(path):
    """Reads the patterns of the list. Each paragraph has a reason and the patterns below it."""
    patterns = []
    for paragraph in open(path, encoding="utf-8").read().split("\n\n"):
        lines = paragraph.strip().splitlines()
        reasons = [line for line in lines if line.startswith("#")]
        patterns += [line for line in lines if not line.startswith("#")]
        if lines and not reasons:
            raise SystemExit(f"{path}: no reason for {lines[0]}")
    # fnmatch treats brackets as a set of characters, so they are escaped.
    return [re.sub(r"\[", "[[]", pattern) for pattern in patterns]


class Shape:
    """The shape of all answers of one simulator."""

    def __init__(self, answers):
        # By the name of the call: the kind of answer.
        self.calls = {}
        # By type, and by type and field: the names of the calls whose answers have it. By type and
        # field: the types of values.
        self.types = defaultdict(set)
        self.fields = defaultdict(set)
        self.values = defaultdict(set)
        self.wrong = set()
        for name, method, inside in answers:
            self.call = name
            self.record_answer(method, inside)

    def record_answer(self, method, inside):
        if local(inside) == "Fault":
            detail = inside.find("detail")
            fault = detail[0] if detail is not None and len(detail) else None
            kind = "none" if fault is None else fault.get(XSI_TYPE)
            self.calls[self.call] = f"fault {kind}"
            if fault is not None:
                if local(fault) != f"{kind}Fault":
                    self.wrong.add(f"{self.call}: {local(fault)} holds a {kind}")
                self.record_object(fault, declared(kind))
            return
        self.calls[self.call] = f"{local(inside)} {'with' if len(inside) else 'without'} a value"
        if method == "Fetch":
            result = object
        else:
            result = VmomiSupport.GetWsdlMethod("urn:vim25", method).info.result
        for returned in inside:
            self.record_value(returned, item_of(result), f"{method}()")

    def record_object(self, element, kind):
        """Records one data object."""
        if (
            kind is vmodl.LocalizedMethodFault
            or kind is vmodl.MethodFault
            and element.find(FAULT) is not None
        ):
            # pyvmomi treats LocalizedMethodFault as the fault itself.
            self.record_value(element.find(FAULT), vmodl.MethodFault, "LocalizedMethodFault.fault")
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
                self.wrong.add(f"{name}.{field} is in the wrong order")
            at = max(at, order.index(field))
            self.fields[name, field].add(self.call)
            self.record_value(child, item_of(kind._GetPropertyInfo(field).type), f"{name}.{field}")
        if name in ("ObjectContent", "ObjectUpdate"):
            self.record_properties(element)

    def record_properties(self, element):
        """Records the properties of a managed object, as if each path were a field of its type."""
        name = element.find(calls.VIM + "obj").get("type")
        self.types[name].add(self.call)
        for row in (*element.iter(calls.VIM + "propSet"), *element.iter(calls.VIM + "changeSet")):
            path = row.findtext(calls.VIM + "name")
            value = row.find(calls.VIM + "val")
            self.fields[name, path].add(self.call)
            self.values[name, path].add("nothing" if value is None else kind_of(value, object)[0])

    def record_value(self, element, kind, place):
        name, kind = kind_of(element, kind)
        holder, _, field = place.partition(".")
        self.values[holder, field].add(name)
        if kind is None:
            return
        if isinstance(kind, type) and issubclass(kind, list):
            for item in element:
                self.record_value(item, item_of(kind), f"{holder}.{field}")
        elif isinstance(kind, type) and issubclass(kind, (VmomiSupport.DataObject, Exception)):
            self.record_object(element, kind)


def local(element):
    return re.sub("{.*}", "", element.tag)


def declared(name):
    return VmomiSupport.GetWsdlType("urn:vim25", name)


def wsdl_name(kind):
    return VmomiSupport.GetWsdlName(kind)


def item_of(kind):
    return (
        kind.Item
        if isinstance(kind, type) and issubclass(kind, list) and hasattr(kind, "Item")
        else kind
    )


def kind_of(element, kind):
    """The name of the type of an element, and the type itself if the element has content to look
    at.
    """
    own_type = element.get(XSI_TYPE)
    target = element.get("type")
    if target is not None and (own_type in (None, "ManagedObjectReference")):
        return f"@{target}", None
    if own_type is None:
        if kind is object:
            return "untyped", None
        return wsdl_name(kind), kind
    if re.match("xsd?:", own_type) or own_type == "ArrayOfManagedObjectReference":
        return own_type, None
    return own_type, declared(own_type)


def differences(ours, theirs):
    """Returns one line for each difference."""
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
            # Only calls count in which both answers have the type.
            lacking = (here - there) & shape.types[name] & other.types.get(name, set())
            if lacking and not there:
                found.append(f"field {name}.{field}, only {side}")
            elif lacking:
                found += [f"field {name}.{field} in {call}, only {side}" for call in lacking]
    for holder, field in (ours.values.keys() & theirs.values.keys()) - ANY_VALUE:
        place = f"{holder}.{field}".rstrip(".")
        for side, one, other in (("ours", ours, theirs), ("theirs", theirs, ours)):
            for kind in one.values[holder, field] - other.values[holder, field]:
                # A type that the other side never has is reported above.
                if kind in other.types or kind not in one.types:
                    found.append(f"value {place} is {kind}, only {side}")
    return sorted(found)


if __name__ == "__main__":
    main()
