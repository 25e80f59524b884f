"""What a check found, and how it is said: in lines for a terminal, as JSON, as one exception."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

from scenelift.errors import DataError
from scenelift.scenes import Problem

T = TypeVar("T")


@dataclass(frozen=True)
class FrameCoverage:
    """One frame that was read and what it sees of its scene's cloud.

    Attributes:
        scene: the scene's name.
        frame: the frame's name within the scene.
        points: points of the (thinned) cloud that it sees.
        share: the same as a share of that cloud, in [0, 1].
    """

    scene: str
    frame: str
    points: int
    share: float

    @property
    def key(self) -> str:
        """``scene/frame``."""
        return f"{self.scene}/{self.frame}"


@dataclass(frozen=True)
class CheckReport:
    """What `check_source` found.

    Attributes:
        counts: scenes, scenes_checked, frames (of the checked scenes), frames_read, points, and what the
            source itself counted, such as lost_frames.
        facts: measured properties by name, numbers or text; those that could not be measured are absent.
        problems: errors first.
        coverage: for the frames that were read, in order; empty for images alone, and where errors made
            it pointless to project the cloud.
    """

    counts: dict[str, int]
    facts: dict[str, float | str]
    problems: tuple[Problem, ...]
    coverage: tuple[FrameCoverage, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.errors

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that forbid to go on."""
        return tuple(problem for problem in self.problems if problem.severity == "error")


@dataclass(eq=False)
class Notes:
    """A report in the making: each part of the check adds what it finds."""

    counts: dict[str, int] = field(default_factory=dict)
    facts: dict[str, float | str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    coverage: list[FrameCoverage] = field(default_factory=list)

    def add(self, severity: Literal["error", "warning"], what: str, where: str, mend: str) -> None:
        """Note a problem unless it is noted already: a bad file of intrinsics is told once, not per frame."""
        if not any((problem.severity, problem.what) == (severity, what) for problem in self.problems):
            self.problems.append(Problem(severity, what, where, mend))

    def add_error(self, error: DataError, where: str) -> None:
        """A `DataError` as a problem: its last clause, after a semicolon, says what to do."""
        what, _, mend = str(error).rpartition("; ")
        self.add("error", what or mend, where, mend if what else "see docs of this data source")

    def count(self, name: str, number: int) -> None:
        """Add to a count."""
        self.counts[name] = self.counts.get(name, 0) + number

    @property
    def has_errors(self) -> bool:
        """Whether an error was noted."""
        return any(problem.severity == "error" for problem in self.problems)

    def report(self) -> CheckReport:
        """What was found so far, errors first."""
        ranked = sorted(self.problems, key=lambda problem: problem.severity != "error")
        return CheckReport(dict(self.counts), dict(self.facts), tuple(ranked), tuple(self.coverage))


def raise_if_bad(report: CheckReport) -> None:
    """Raise one `DataError` with the first error and the number of others, if there are errors."""
    if report.errors:
        first, *others = report.errors
        more = f" (and {len(others)} more; `scenelift check` lists them)" if others else ""
        raise DataError(f"{first.where}: {first.what}; {first.mend}{more}")


def summary_lines(report: CheckReport, max_problems: int = 12) -> list[str]:
    """The report for a terminal: counts, facts, problems with their mends, verdict."""
    lines = [counts_line(report)]
    for name, value in report.facts.items():
        lines.append(f"{name.replace('_', ' ')}: {value if isinstance(value, str) else f'{value:.3g}'}")
    for problem in report.problems[:max_problems]:
        lines.append(f"{problem.severity}: {problem.where}: {problem.what}")
        lines.append(f"    -> {problem.mend}")
    if len(report.problems) > max_problems:
        lines.append(f"... and {len(report.problems) - max_problems} more")
    return [*lines, verdict(report)]


def counts_line(report: CheckReport) -> str:
    """All counts in one line."""
    return ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in report.counts.items())


def verdict(report: CheckReport) -> str:
    """``ok`` or the number of errors, and the number of warnings."""
    warnings = len(report.problems) - len(report.errors)
    said = "ok" if report.ok else f"{len(report.errors)} error(s)"
    return f"{said}, {warnings} warning(s)" if warnings else said


def to_json(report: CheckReport) -> dict[str, Any]:
    """The report as a plain tree for ``json.dumps``."""
    return {"ok": report.ok, **asdict(report)}


def spread(items: Sequence[T], limit: int) -> list[T]:
    """At most ``limit`` items, evenly spread, the first one always among them."""
    return [items[i * len(items) // min(limit, len(items))] for i in range(min(limit, len(items)))]
