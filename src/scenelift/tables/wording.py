"""How figures of a table are written, the same for the terminal, Markdown and HTML."""

from __future__ import annotations

from collections.abc import Iterator

from scenelift.report.data import difference, finite, percent
from scenelift.tables.results import Cell, Check, TableResult, Verdict
from scenelift.tables.rows import Kind
from scenelift.tables.statistics import RESAMPLES, Difference

MISSING = "—"
"""Where nothing was measured, or not yet."""

SIGNIFICANT = "*"


def points(share: float | None) -> str:
    """``0.032`` as ``+3.2``."""
    return difference(share, 0.0) or MISSING


def share(value: float | None) -> str:
    """``0.284`` as ``28.4``."""
    return MISSING if finite(value) is None else percent(value)


def interval(gap: Difference | None) -> str:
    """``[−4.1, −2.2]``, or nothing."""
    if gap is None or gap.low is None or gap.high is None:
        return ""
    return f"[{points(gap.low)}, {points(gap.high)}]"


def to_reference(gap: Difference | None) -> str:
    """``−3.2*``."""
    return MISSING if gap is None else points(gap.mean) + (SIGNIFICANT if gap.significant else "")


def reference_name(result: TableResult) -> str:
    """The reference row's title, without what stands in brackets."""
    return result.title_of(result.table.reference).partition(" (")[0]


def to_baseline(cell: Cell, with_paper: bool) -> str:
    """``+5.2``, followed by the paper's difference in brackets if asked for."""
    theirs = f" ({points(cell.paper_to_baseline)})" if with_paper and cell.paper_to_baseline else ""
    return points(cell.to_baseline) + theirs


def memory(size: int | None) -> str:
    """Bytes in GiB."""
    return MISSING if size is None else f"{size / 2**30:.1f} GiB"


def paper_heading(result: TableResult, kind: Kind) -> str:
    """``paper``, with the data it was measured on where these are others."""
    name, same = result.columns[kind]
    return "paper" if same else f"paper ({name.split()[0]})"


def has_paper(result: TableResult, kind: Kind) -> bool:
    """Whether the paper has any value for this column."""
    return any(row.cells[kind].paper is not None for row in result.rows)


def has_baseline(result: TableResult) -> bool:
    """Whether there is a baseline to differ from that is not the reference."""
    return result.table.baseline != result.table.reference


def progress(result: TableResult) -> str:
    """How many of the runs are done; empty if all are."""
    return "" if result.done == result.total else f"{result.done} of {result.total} runs done."


def seeds(result: TableResult) -> str:
    """``3 seeds (0, 1, 2)``."""
    numbers = result.setting.seeds
    return f"{len(numbers)} seed{'s' if len(numbers) > 1 else ''} ({', '.join(map(str, numbers))})"


def gains(result: TableResult) -> Iterator[tuple[Kind, str, str]]:
    """For each kind: what the reference row reached, and against the baseline row."""
    for row in result.rows:
        if row.recipe != result.table.reference:
            continue
        for kind in result.kinds:
            cell = row.cells[kind]
            if cell.mean is None:
                continue
            against = ""
            if cell.to_baseline is not None:
                theirs = cell.paper_to_baseline
                paper = "" if theirs is None else f" ({paper_heading(result, kind)}: {points(theirs)})"
                base = result.title_of(result.table.baseline)
                against = f", {points(cell.to_baseline)} points against {base}{paper}"
            yield kind, f"{kind}: {share(cell.mean)} % mIoU", f" with {row.title}{against}."


def ranks(result: TableResult) -> str:
    """How far the order of the rows is the paper's; empty where the paper has no values."""
    told = [
        f"{kind} {MISSING if rho is None else f'{rho:.2f}'.replace('-', chr(0x2212))} over {rows} rows"
        for kind, (rho, rows) in result.rank.items()
        if has_paper(result, kind)
    ]
    return f"Rank correlation with the paper's rows (Spearman): {'; '.join(told)}." if told else ""


def tally(result: TableResult) -> str:
    """How many expectations hold."""
    verdicts = [check.verdict for check in result.checks]
    several: dict[Verdict, str] = {
        "holds": "hold",
        "does not hold": "do not hold",
        "within noise": "within noise",
        "not run": "not run",
    }
    counts = [(name, verdicts.count(name)) for name in several]
    told = [f"{count} {name if count == 1 else several[name]}" for name, count in counts if count]
    return f"Of {len(verdicts)} expectations from the paper: {', '.join(told)}." if told else ""


def check_value(check: Check) -> str:
    """The figure behind a verdict, points."""
    if check.value is None:
        return MISSING
    if check.low is None or check.high is None:
        return _signed(check.value)
    return f"{_signed(check.value)} [{_signed(check.low)}, {_signed(check.high)}]"


def check_paper(check: Check) -> str:
    """The same figure of the paper, with a word where its own values break the expectation."""
    if check.paper is None:
        return MISSING
    return _signed(check.paper) + ("" if check.paper_holds else ", does not hold")


def _signed(in_points: float) -> str:
    return points(in_points / 100)


def partial(cell: Cell, result: TableResult) -> str:
    """``1 of 3 seeds`` for a row that is not complete."""
    done, asked = len(cell.by_seed), len(result.setting.seeds)
    return "" if done in (0, asked) else f"{done} of {asked} seeds"


def method(result: TableResult) -> list[str]:
    """Sentences on how the figures came about."""
    over = (
        "over scenes; with one seed the noise of training is not in them"
        if len(result.setting.seeds) == 1
        else "over scenes and seeds; with few seeds they tell the noise of training only roughly"
    )
    figures = "mIoU in %, from one confusion matrix over all scenes; mean ± sample standard deviation over"
    sure = f"{SIGNIFICANT} = 0 lies outside, not corrected for the number of rows."
    sampled = f"95 % of a paired bootstrap, {RESAMPLES:,} resamples {over}."
    notes = [
        f"{figures} {seeds(result)}; differences in points.",
        f"Intervals of differences to {reference_name(result)}: {sampled} {sure}",
    ]
    if any(not same for name, same in result.columns.values()) and any(
        has_paper(result, kind) for kind in result.kinds
    ):
        notes.append(
            "The paper's values are of other data and stand here for orientation: compare orders and gaps."
        )
    if result.checks:
        notes.append(
            "An expectation holds or does not when the whole interval says so; else it is within noise. "
            "Its figure is how far the right side stands above the left."
        )
    return [*notes, *result.setting.notes]
