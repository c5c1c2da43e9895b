"""Figures: what was measured, the goal, and the verdict. The rules are in README.md."""

import dataclasses
import statistics

MET = "met"
MISSED = "missed"
TOO_NOISY = "too noisy"
REPORTED = "reported"

# The samples of a figure are steady if their middle half spans at most this part of their median.
STEADY_SPREAD = 0.15
# The machine is quiet if other programs use at most this part of its processors.
QUIET_SHARE = 0.10


@dataclasses.dataclass(frozen=True)
class Goal:
    """A limit for a value, for its ratio to the yardstick, or for its difference from it."""

    of: str  # "value", "ratio" or "difference"
    bound: str  # "at least" or "at most"
    limit: float
    text: str

    def is_met_by(self, sample):
        return sample >= self.limit if self.bound == "at least" else sample <= self.limit


@dataclasses.dataclass
class Figure:
    """The samples of otter and of its yardstick, one pair for each turn."""

    row: int
    name: str
    unit: str
    otter: list
    yardstick_name: str = ""
    yardstick: list = dataclasses.field(default_factory=list)
    goal: Goal | None = None
    # Whether other programs on the machine can change it. They do not change the use of memory.
    is_timed: bool = True

    def ratios(self):
        return [ours / theirs for ours, theirs in zip(self.otter, self.yardstick)]

    def samples(self):
        """The numbers to which the goal applies."""
        if self.goal is not None and self.goal.of == "difference":
            return [ours - theirs for ours, theirs in zip(self.otter, self.yardstick)]
        judges_ratio = self.goal is None or self.goal.of == "ratio"
        return self.ratios() if self.yardstick and judges_ratio else self.otter

    def judged(self, share_of_others):
        """The figure as the report has it."""
        samples = self.samples()
        ratios = self.ratios()
        return {
            "row": self.row,
            "figure": self.name,
            "unit": self.unit,
            "goal": self.goal.text if self.goal else "",
            "measured": statistics.median(self.otter),
            "judged": statistics.median(samples),
            "yardstick": self.yardstick_name,
            "yardstick_measured": statistics.median(self.yardstick) if self.yardstick else None,
            "ratio": statistics.median(ratios) if ratios else None,
            "spread": spread(samples),
            "others": share_of_others,
            "verdict": verdict(self.goal, samples, share_of_others if self.is_timed else 0.0),
            "samples": {"otter": self.otter, "yardstick": self.yardstick},
        }


def verdict(goal, samples, share_of_others):
    """Judges samples. Noise can hide that a goal is met or missed, but not all quartiles of it."""
    if goal is None:
        return REPORTED
    low, median, high = quartiles(samples)
    worst = low if goal.bound == "at least" else high
    if goal.is_met_by(worst):
        return MET
    is_steady = spread(samples) <= STEADY_SPREAD and share_of_others <= QUIET_SHARE
    if not is_steady:
        return TOO_NOISY
    return MET if goal.is_met_by(median) else MISSED


def spread(samples):
    """The width of the middle half of the samples, as a part of their median."""
    low, median, high = quartiles(samples)
    return (high - low) / abs(median) if median else 0.0


def quartiles(samples):
    if len(samples) == 1:
        return (samples[0],) * 3
    return tuple(statistics.quantiles(samples, n=4, method="inclusive"))


def percentile(samples, percent):
    """The smallest sample that is not less than this percentage of all samples."""
    ordered = sorted(samples)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def at_least(limit, text, of="ratio"):
    return Goal(of, "at least", limit, text)


def at_most(limit, text, of="value"):
    return Goal(of, "at most", limit, text)
