"""Confusion matrices for the page's own table: counts as JSON, as many rows as fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from scenelift.report.data import KINDS, ReportRow
from scenelift.report.markup import Markup, data_block, join, tag
from scenelift.types import I64

_BYTES = 1_500_000
"""Most bytes for the counts of all rows."""


def confusion_tables(names: Sequence[str], rows: Sequence[ReportRow]) -> Markup | None:
    """The table with its data; ``None`` if no row has counts.

    Args:
        names: of the classes.
        rows: later ones come first where not all fit.
    """
    blocks: list[dict[str, Any]] = []
    left = _BYTES
    counted = [row for row in rows if any(row.on(kind).confusion is not None for kind in KINDS)]
    for row in reversed(counted):
        counts = {
            kind: sparse_counts(confusion)
            for kind in KINDS
            if (confusion := row.on(kind).confusion) is not None and confusion.any()
        }
        left -= sum(len(str(lists)) for lists in counts.values())
        if blocks and left < 0:
            break
        blocks.insert(0, {"name": row.recipe, "counts": counts})
    if not blocks:
        return None
    words = "Each row is a true class, each column what its pixels or points were called."
    if len(blocks) < len(counted):
        words += f" Of {len(counted)} rows of the table above the last {len(blocks)} are here."
    none = tag("p", "This table needs scripts.", class_="muted")
    return join(
        tag("p", words),
        data_block("confusions", {"names": list(names), "runs": blocks}),
        tag("div", none, class_="confusions"),
    )


def sparse_counts(counts: I64) -> list[list[int]]:
    """Places, row by row, and counts of what is not 0 in (C, C + 1) int64."""
    flat = counts.reshape(-1)
    places = np.flatnonzero(flat)
    return [places.tolist(), flat[places].tolist()]
