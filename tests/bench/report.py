"""The report: a JSON document, its table, and the exit code that follows from it."""

import json

from figures import MET, MISSED, QUIET_SHARE, REPORTED, STEADY_SPREAD, TOO_NOISY

COLUMNS = ("row", "figure", "goal", "measured", "ratio", "spread", "verdict")


def table(report):
    """The table of a report, one line for each figure."""
    lines = [COLUMNS] + [cells(figure) for figure in report["figures"]]
    widths = [max(len(line[at]) for line in lines) for at in range(len(COLUMNS))]
    rule = tuple("-" * width for width in widths)
    lines.insert(1, rule)
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)


def cells(figure):
    measured = quantity(figure["measured"], figure["unit"])
    if figure["yardstick"]:
        theirs = quantity(figure["yardstick_measured"], figure["unit"])
        measured += f" ({figure['yardstick']} {theirs})"
    ratio = "" if figure["ratio"] is None else number(figure["ratio"])
    return (
        str(figure["row"]),
        figure["figure"],
        figure["goal"],
        measured,
        ratio,
        f"{figure['spread']:.0%}",
        figure["verdict"],
    )


def quantity(value, unit):
    return f"{number(value)} {unit}".strip()


def number(value):
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def exit_code(report):
    """1 if a goal is missed, 2 if the machine was too noisy to judge one, otherwise 0."""
    verdicts = {figure["verdict"] for figure in report["figures"]}
    if MISSED in verdicts:
        return 1
    return 2 if TOO_NOISY in verdicts else 0


def last_line(report):
    """The outcome in one line."""
    by_verdict = {}
    for figure in report["figures"]:
        by_verdict.setdefault(figure["verdict"], []).append(figure)
    judged = sum(len(found) for name, found in by_verdict.items() if name != REPORTED)
    line = f"{len(by_verdict.get(MET, []))} of {judged} goals are met"
    for name in (MISSED, TOO_NOISY):
        if found := by_verdict.get(name):
            line += f"; {name}: " + ", ".join(f"{f['row']} {f['figure']}" for f in found)
    return line


def noise(report):
    """What the noise was, in one line."""
    others = max((figure["others"] for figure in report["figures"]), default=0.0)
    loud = others > QUIET_SHARE
    line = f"Other programs used up to {others:.0%} of the processors during a row"
    if loud:
        line += f": the machine was noisy (more than {QUIET_SHARE:.0%})"
    if unsteady := sum(figure["spread"] > STEADY_SPREAD for figure in report["figures"]):
        line += f"; {unsteady} figures vary by more than {STEADY_SPREAD:.0%}"
    return line + "."


def show(report):
    """Prints the table, the noise and the outcome. Returns the exit code."""
    machine = report["machine"]
    print(
        f"otter {report['commit']}, {report['date']}, {machine['processor']},"
        f" {machine['processors']} processors, Linux {machine['kernel']}"
    )
    print(table(report))
    print(noise(report))
    print(last_line(report))
    return exit_code(report)


def save(report, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
