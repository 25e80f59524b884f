"""Made-up outcomes of runs, for the tests of tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scenelift.classes import ClassTable
from scenelift.config import Config
from scenelift.evaluate import Evaluation
from scenelift.metrics import Confusion
from scenelift.runfolder import RunFolder
from scenelift.runs import Outcome, Run
from scenelift.tables import Setting, Table

NAMES = ("wall", "floor", "chair", "sofa", "table")


def sample_setting(seeds: Sequence[int] = (0, 1, 2), names: Sequence[str] = NAMES, **changes: str) -> Setting:
    return Setting(
        **{"source": "synthetic", "dataset": "made-up rooms", "command": "scenelift table table2", **changes},
        classes=ClassTable.from_names(names),
        seeds=tuple(seeds),
        notes=("Teachers are simulated.",),
    )


def sample_counts(right: float, seed: int, scenes: int, classes: int = len(NAMES)) -> np.ndarray:
    """(scenes, C, C + 1): a share of about ``right`` on the diagonal, every scene with classes of its own."""
    truth = np.random.default_rng(99).integers(0, 400, (scenes, classes))  # the same for every run
    rng = np.random.default_rng((seed, int(1e6 * right)))
    counts = np.zeros((scenes, classes, classes + 1), np.int64)
    for scene in range(scenes):
        for of in range(classes):
            shares = rng.dirichlet(np.ones(classes + 1)) * (1 - right)
            shares[of] += right
            counts[scene, of] = rng.multinomial(truth[scene, of], shares)
    return counts


def outcome_of(
    recipe: str, seed: int, counts_2d: np.ndarray, counts_3d: np.ndarray, seconds: float = 90.0
) -> Outcome:
    scenes = {
        f"room_{place}": (Confusion.from_counts(in_2d), Confusion.from_counts(in_3d))
        for place, (in_2d, in_3d) in enumerate(zip(counts_2d, counts_3d, strict=True))
    }
    totals = [Confusion.from_counts(counts.sum(0)) for counts in (counts_2d, counts_3d)]
    run = Run(recipe, seed, Config(), RunFolder(Path(f"seed{seed}") / recipe))
    return Outcome(run, Evaluation(*totals, 1.0, scenes), seconds, 3 << 29, [])


def sample_outcomes(
    table: Table,
    seeds: Sequence[int] = (0, 1, 2),
    scenes: int = 8,
    points: bool = True,
    classes: int = len(NAMES),
) -> list[Outcome]:
    """A run for each row and seed, the better the better it is in the paper."""
    found = []
    for place, row in enumerate(table.rows):
        right = 0.2 + row.paper.get("ScanNet 2D", 10 + place) / 60
        for seed in seeds:
            in_2d = sample_counts(right, seed, scenes, classes)
            in_3d = sample_counts(right + 0.1, seed, scenes, classes) if points else np.zeros_like(in_2d)
            found.append(outcome_of(row.recipe, seed, in_2d, in_3d, 30.0 + 60 * place))
    return found
