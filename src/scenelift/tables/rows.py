"""The paper's tables as data: which recipe each row is, what the paper measured, what should come out.

Source of rows and values: Chen et al., "Towards Label-free Scene Understanding by Vision Foundation Models",
NeurIPS 2023, Tables 1 and 2, mIoU in %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from scenelift.errors import ConfigError
from scenelift.recipes import recipe_names

Kind = Literal["2D", "3D"]


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        title: as the paper prints it.
        recipe: by name.
        paper: the paper's mIoU in % by column, as far as it has any.
    """

    title: str
    recipe: str
    paper: Mapping[str, float]


@dataclass(frozen=True)
class Relation:
    """``low < factor * right - left < high``, bounds in mIoU points."""

    factor: float
    low: float
    high: float


BELOW = Relation(1.0, 0.0, math.inf)
FAR_BELOW = Relation(0.5, 0.0, math.inf)
"""Less than half."""
CLOSE = Relation(1.0, -1.0, 1.0)


@dataclass(frozen=True)
class Expectation:
    """What the paper's table shows and ours should: ``left`` and ``right`` are recipes.

    Attributes:
        text: the statement for a reader.
        left: the recipe it is about.
        relation: how its mIoU stands to that of ``right``.
        right: the recipe it is compared with.
        kinds: in which columns.
    """

    text: str
    left: str
    relation: Relation
    right: str
    kinds: tuple[Kind, ...] = ("2D", "3D")


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: as the command line takes it.
        title: for people.
        rows: in the paper's order.
        baseline: recipe that differences are to.
        reference: recipe that every row is tested against.
        expectations: what should come out.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    baseline: str
    reference: str
    expectations: tuple[Expectation, ...] = ()

    @property
    def recipes(self) -> tuple[str, ...]:
        """The rows' recipes."""
        return tuple(row.recipe for row in self.rows)

    def only(self, recipes: Sequence[str]) -> Table:
        """The table with these rows alone, in its own order.

        Raises:
            ConfigError: one of them is no row of it, or there is none.
        """
        unknown = [name for name in recipes if name not in self.recipes]
        if unknown or not recipes:
            raise ConfigError(
                f"{self.name}: expected rows of {', '.join(self.recipes)}; "
                f"found {repr(unknown[0]) if unknown else 'none'}"
            )
        return replace(self, rows=tuple(row for row in self.rows if row.recipe in recipes))


TABLE1_COLUMNS = ("ScanNet 2D", "ScanNet 3D", "nuImages 2D", "nuScenes 3D")
TABLE2_COLUMNS = ("ScanNet 2D", "ScanNet 3D")

_COLUMN_OF: Mapping[tuple[str, Kind], str] = {
    ("nuimages", "2D"): "nuImages 2D",
    ("nuscenes", "3D"): "nuScenes 3D",
}


def paper_column(table: Table, source: str, kind: Kind) -> tuple[str, bool]:
    """The paper's column to show beside ours, and whether it was measured on these data.

    For other data than the paper's the ScanNet column stands there for orientation.

    Args:
        table: whose rows.
        source: name of the data source, as in ``data.source``.
        kind: of our column.
    """
    own = _COLUMN_OF.get((source, kind))
    if own is not None and any(own in row.paper for row in table.rows):
        return own, True
    return f"ScanNet {kind}", source == "scannet"


def _row1(title: str, recipe: str, *values: float) -> Row:
    return Row(title, recipe, dict(zip(TABLE1_COLUMNS, values, strict=True)) if values else {})


def _row2(title: str, recipe: str, *values: float) -> Row:
    return Row(title, recipe, dict(zip(TABLE2_COLUMNS, values, strict=True)))


def _first(best: str, others: Mapping[str, str]) -> tuple[Expectation, ...]:
    return tuple(Expectation(f"{title} below CNS", recipe, BELOW, best) for recipe, title in others.items())


TABLE1 = Table(
    "table1",
    "Table 1: methods",
    (
        _row1("MaskCLIP", "maskclip", 17.3, 14.2, 14.1, 12.8),
        _row1("MaskCLIP+", "maskclip_plus", 20.3, 21.6, 17.3, 15.3),
        _row1("OpenScene", "openscene", 14.2, 16.8, 12.4, 14.6),
        _row1("OpenScene, 2D fusion", "openscene_fusion"),
        _row1("OpenScene, 2D-3D ensemble", "openscene_ensemble"),
        _row1("CLIP2Scene", "clip2scene", 23.7, 25.6, 18.6, 20.8),
        _row1("CNS", "cns", 28.4, 33.5, 22.1, 26.8),
        _row1("CNS, balanced self-labels (ours)", "cns_balanced"),
    ),
    baseline="maskclip",
    reference="cns",
    expectations=_first(
        "cns",
        {
            "maskclip": "MaskCLIP",
            "maskclip_plus": "MaskCLIP+",
            "openscene": "OpenScene",
            "clip2scene": "CLIP2Scene",
        },
    ),
)

TABLE2 = Table(
    "table2",
    "Table 2: ablations",
    (
        _row2("Baseline", "maskclip", 17.3, 14.2),
        _row2("w/o CNS", "wo_cns", 24.5, 19.4),
        _row2("Base+CLIP", "base_clip", 20.4, 23.8),
        _row2("Base+CLIP+LSC", "base_clip_lsc", 22.5, 28.7),
        _row2("w/o Refine", "wo_refine", 23.7, 30.6),
        _row2("Post-Refine", "post_refine", 28.1, 33.2),
        _row2("w/o CT", "wo_ct", 27.7, 31.0),
        _row2("w/o SCT", "wo_sct", 24.7, 30.6),
        _row2("w/o CLIP", "wo_clip", 4.7, 5.1),
        _row2("w 2D", "w_2d", 6.9, 8.8),
        _row2("w 3D", "w_3d", 4.8, 6.4),
        _row2("LSC CLIP", "lsc_clip", 27.3, 32.4),
        _row2("LSC SAM+CLIP", "lsc_sam_clip", 27.8, 32.5),
        _row2("LSC None", "lsc_none", 27.1, 32.0),
        _row2("Images 8", "images_8", 27.9, 33.0),
        _row2("Images 32", "images_32", 28.3, 33.3),
        _row2("Full (images 16)", "cns", 28.4, 33.5),
    ),
    baseline="maskclip",
    reference="cns",
    expectations=(
        Expectation("Baseline below w/o CNS", "maskclip", BELOW, "wo_cns"),
        Expectation("Baseline below Base+CLIP", "maskclip", BELOW, "base_clip"),
        Expectation("Base+CLIP below Base+CLIP+LSC", "base_clip", BELOW, "base_clip_lsc"),
        Expectation("Base+CLIP+LSC below Full", "base_clip_lsc", BELOW, "cns"),
        Expectation("w/o Refine below Full", "wo_refine", BELOW, "cns"),
        Expectation("w/o SCT below Full", "wo_sct", BELOW, "cns"),
        Expectation("w/o CT below Full", "wo_ct", BELOW, "cns"),
        Expectation("LSC None below Full", "lsc_none", BELOW, "cns"),
        Expectation("LSC CLIP below Full", "lsc_clip", BELOW, "cns"),
        Expectation("w/o CLIP far below Baseline: less than half", "wo_clip", FAR_BELOW, "maskclip"),
        Expectation("w 2D far below Baseline: less than half", "w_2d", FAR_BELOW, "maskclip"),
        Expectation("w 3D far below Baseline: less than half", "w_3d", FAR_BELOW, "maskclip"),
        Expectation("Post-Refine within a point of Full", "post_refine", CLOSE, "cns"),
        Expectation("Images 8 within a point of Full", "images_8", CLOSE, "cns"),
        Expectation("Images 32 within a point of Full", "images_32", CLOSE, "cns"),
    ),
)

REDUCED = ("maskclip", "wo_cns", "base_clip", "base_clip_lsc", "wo_ct", "wo_sct", "cns")
"""Rows of the second table that tell the most in the least time."""


def _readings() -> Table:
    rows = [Row("CNS", "cns", {})]
    rows += [Row(name.replace("_", " "), name, {}) for name in recipe_names("readings")]
    return Table("readings", "Readings of what the paper leaves open", tuple(rows), "cns", "cns")


TABLES = {"table1": TABLE1, "table2": TABLE2, "readings": _readings()}
"""Every table by name."""
