"""Finished runs as they lie on disk, read back to report on them; nothing is trained or annotated here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from scenelift import pipeline
from scenelift.annotations import Annotations
from scenelift.api import TrainedRun
from scenelift.classes import ClassTable
from scenelift.colors import distinct_colors
from scenelift.config import Config
from scenelift.device import resolve_device
from scenelift.errors import RunError, SceneLiftError
from scenelift.evaluate import Evaluation, saved_evaluation
from scenelift.files import read_json
from scenelift.pipeline import Session
from scenelift.predict import NetworkPair
from scenelift.predictions import saved_shares
from scenelift.progress import Progress, silent
from scenelift.recipes import load_resolved
from scenelift.report import ReportData, ReportRow, write_report
from scenelift.runfolder import RunFolder
from scenelift.summary import report_notes, run_row


@dataclass(frozen=True)
class SavedRun:
    """A run that came to its end.

    Attributes:
        folder: where it lies.
        config: all of it.
        evaluation: against ground truth; ``None`` where there was none.
        log: a record for each training step.
        class_names: as they were evaluated; ``None`` where nobody kept them.
    """

    folder: RunFolder
    config: Config
    evaluation: Evaluation | None
    log: list[dict[str, Any]]
    class_names: list[str] | None

    @property
    def name(self) -> str:
        """For messages."""
        return str(self.folder.path)

    @cached_property
    def classes(self) -> ClassTable:
        """Its classes, from the run itself or else from its data.

        Raises:
            DataError: the run is of a version that did not keep them, and the data are gone.
        """
        names = self.class_names
        if names is None or self.config.classes is not None:
            return Session(self.config, self.folder, self.folder.cache).classes
        try:
            known = Session(self.config, self.folder, self.folder.cache).source.classes
        except SceneLiftError:
            known = None
        if known is not None and list(known.names) == names:
            return known
        return ClassTable(tuple(names), tuple((name,) for name in names), distinct_colors(len(names)))

    def row(self) -> ReportRow:
        """Its line in a table."""
        return run_row(self.config, self.evaluation, self.classes, self.log)

    def session(self, cache: Path | None, device: str, progress: Progress = silent) -> Session:
        """The run opened again; ``cache`` as on the command line."""
        found = cache or self.folder.nearest_cache() or self.folder.cache
        return Session(self.config, self.folder, found, resolve_device(device), progress)

    def networks(self, device: str) -> NetworkPair | None:
        """Its trained networks, ``None`` if it trains none. Raises `RunError` if they are gone."""
        return TrainedRun(self.folder.path, device).pair if pipeline.trains(self.config) else None

    def annotations(self, session: Session) -> Annotations:
        """The teachers' answers. Raises `DataError` if the index is gone."""
        return Annotations.load(self.folder.annotations, session.cache)


def open_runs(paths: Sequence[Path]) -> list[SavedRun]:
    """Runs in these folders; a folder that holds runs stands for all of them.

    Raises:
        RunError: one is no folder of a run, or of one that has no results yet; or a run is named twice.
    """
    folders = [found for path in paths for found in _folders(path)]
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise RunError(f"{folder}: expected every run once, found it named again; leave one out")
        seen.add(folder.resolve())
    return [open_run(folder) for folder in folders]


def _folders(path: Path) -> list[Path]:
    """The folder itself, or the runs in it, in the order of its ``results.json`` where it has one."""
    if (path / "config.yaml").is_file() or not path.is_dir():
        return [path]
    held = sorted(item for item in path.iterdir() if (item / "config.yaml").is_file())
    results = path / "results.json"
    if held and results.is_file():
        order = [row.get("recipe") for row in read_json(results).get("rows", [])]
        held.sort(key=lambda item: order.index(item.name) if item.name in order else len(order))
    return held or [path]


def open_run(path: Path) -> SavedRun:
    """What a run left. Raises `RunError` as `open_runs` does."""
    folder = RunFolder(path)
    if not folder.config.is_file():
        raise RunError(
            f"{path}: expected the folder of a run, with config.yaml in it, found none; "
            "give what --out named, or a folder that holds runs"
        )
    config = load_resolved(folder.config)
    done = folder.predictions / "done.json"
    if not folder.evaluation.is_file() and not done.is_file():
        raise RunError(
            f"{path}: expected results, found a run that has none yet; run `scenelift evaluate {path}`, "
            "or `scenelift fit` where there is no ground truth, and then again"
        )
    saved = saved_evaluation(folder.evaluation)
    if saved is None and folder.evaluation.is_file():
        raise RunError(
            f"{folder.evaluation}: expected an evaluation of this version, found a damaged one or one of "
            f"another version; run `scenelift evaluate {path}` to measure it again"
        )
    evaluation, names = (None, None) if saved is None else (saved.evaluation, saved.classes)
    return SavedRun(folder, config, evaluation, folder.read_log(), names)


def rebuild_report(
    run: SavedRun, page: Path, command: str, cache: Path | None, device: str, progress: Progress = silent
) -> None:
    """Write the page of one run again; without pictures, and it says why, where data or cache are gone.

    Args:
        run: which.
        page: where to.
        command: for the page.
        cache: of the annotations; ``None`` = the nearest above the run.
        device: where networks compute.
        progress: told of what takes long.
    """
    rows = [run.row()]
    shares = None if run.evaluation is not None else saved_shares(run.folder.predictions, run.classes)
    try:
        session = run.session(cache, device, progress)
        annotations, pair = run.annotations(session), run.networks(session.device)
        data = pipeline.report_data(session, annotations, pair, rows, command, shares)
    except SceneLiftError as error:
        data = figures_alone(run, rows, command, str(error))
    write_report(page, data)


def figures_alone(run: SavedRun, rows: Sequence[ReportRow], command: str, why: str) -> ReportData:
    """A page of what the folder alone tells. Raises `DataError` if it does not even name the classes."""
    config, has_truth = run.config, run.evaluation is not None
    scenes = 0 if run.evaluation is None else len(run.evaluation.scenes)
    return ReportData(
        title=f"scenelift: {config.recipe} on {config.data.source}",
        dataset=f"{config.data.source}; scenes: {scenes} to judge by",
        command=command,
        classes=run.classes,
        rows=rows,
        notes=[*report_notes(config, has_truth, False), left_out(why)],
        config_yaml=config.to_yaml(),
        has_truth=has_truth,
        label_shares=None if has_truth else saved_shares(run.folder.predictions, run.classes),
        facts=[("Recipe", config.recipe), ("Seed", str(config.seed)), ("Classes", str(len(run.classes)))],
    )


def left_out(why: str) -> str:
    """The note on a page without pictures."""
    return f"Pictures and the teacher's own rows are left out: {why}"
