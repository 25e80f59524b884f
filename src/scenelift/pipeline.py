"""check -> annotate -> train -> evaluate -> predict -> report: read this first.

A `Session` is one run: a configuration, a folder, a cache. Each stage below finds what an earlier start has
finished and does the rest, so every one may be called alone, again, or after a kill.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from scenelift import annotate as annotating
from scenelift import checkpoint
from scenelift import evaluate as evaluating
from scenelift.annotations import Annotations
from scenelift.batches import steps_per_epoch
from scenelift.cache import Cache, Key, cache_key
from scenelift.check import CheckReport, check_source, raise_if_bad
from scenelift.classes import ClassTable
from scenelift.collapse import Monitor
from scenelift.config import Config
from scenelift.cotrain import Trainer, cotrain
from scenelift.dependence import ANSWERS, STAGE1, TRAINING, depends_on
from scenelift.errors import ConfigError
from scenelift.evaluate import Evaluation, save_evaluation, saved_evaluation
from scenelift.files import write_json
from scenelift.formats import DEFAULT_FORMATS
from scenelift.fusion import fuse
from scenelift.models.image import fetch_weights
from scenelift.models.networks import Networks
from scenelift.predict import NetworkPair, Predictor
from scenelift.predictions import write_predictions
from scenelift.progress import Progress, silent
from scenelift.report import ReportData, ReportRow, results_json, write_report
from scenelift.reporting import run_page
from scenelift.resume import resume, share_stage1
from scenelift.runfolder import LogFile, RunFolder, digest_of
from scenelift.scenes import SceneSource
from scenelift.scenes.registry import open_source
from scenelift.shares import share_of, shared_batches, workers_of
from scenelift.store import SceneStore
from scenelift.summary import report_row, run_row
from scenelift.teachers import LabelTeacher, MaskTeacher
from scenelift.teachers.registry import open_teachers
from scenelift.tracking import Tracker, tracking
from scenelift.waiting import WINDOW, waiting_advice, waiting_share
from scenelift.world import ALONE, World

_log = logging.getLogger(__name__)


@dataclass
class Session:
    """One run and what it needs.

    Attributes:
        config: what to do.
        folder: where its results go.
        cache_root: where annotations go; shared between runs.
        device: where networks compute, ``"cpu"`` or ``"cuda"``.
        progress: how progress is shown.
        opened: the data set, when another session or a program of yours has opened it already.
        teachers: both, when a program of yours brings them.
        download: may weights be fetched that are not on this machine? No part of the configuration: a run is
            the same with and without.
        world: the processes that work on the run together, each with a session; the first writes its files.
        trackers: told of every training step and of the result; no part of the configuration either.
    """

    config: Config
    folder: RunFolder
    cache_root: Path
    device: str = "cpu"
    progress: Progress = silent
    opened: SceneSource | None = None
    download: bool = False
    world: World = ALONE
    teachers: tuple[LabelTeacher, MaskTeacher] | None = None
    trackers: tuple[Tracker, ...] = ()

    @cached_property
    def cache(self) -> Cache:
        """The stage cache."""
        return Cache(self.cache_root)

    @cached_property
    def source(self) -> SceneSource:
        """The scenes."""
        return open_source(self.config.data) if self.opened is None else self.opened

    @cached_property
    def classes(self) -> ClassTable:
        """The classes to segment: the configured ones, or the data set's own."""
        if self.config.classes is not None:
            return ClassTable.from_names(self.config.classes)
        if self.source.classes is None:
            raise ConfigError(
                'classes: this data set brings none; name them, e.g. --classes "wall, floor, chair"'
            )
        return self.source.classes

    def names(self, *splits: str) -> tuple[str, ...]:
        """Scene names of these splits, each once.

        Where nothing is set apart to judge by, as in a part of a data set, ``"val"`` is what was learned
        from: no label was used there either.
        """
        found = tuple(dict.fromkeys(name for split in splits for name in self.source.names(split)))
        return found or self.source.names("train")


def check(session: Session) -> CheckReport:
    """Look at the data before any work.

    Raises:
        DataError: something is wrong with them; what, where, and how to mend it.
    """
    report = check_source(session.source, session.config)
    raise_if_bad(report)
    return report


def annotate(session: Session) -> Annotations:
    """Teachers' answers and pairs of every scene; from the cache where it has them.

    Raises:
        RunError: the folder holds another run, or files that are not ours.
    """
    teachers = teachers_of(session)
    if trains(session.config) and not session.folder.networks.is_file():
        share_of(session.config, session.world)  # complains before hours of work
    # not before: a wrong option leaves no folder that its correction meets
    session.world.first_does(lambda: session.folder.claim(session.config))
    names = session.names("train", "val")
    return keep_annotations(session, annotate_scenes(session, teachers, names, session.progress))


def teachers_of(session: Session) -> tuple[LabelTeacher, MaskTeacher]:
    """The teachers, loaded. Raises `WeightsError` if their weights are not there."""
    config, truth = session.config.teachers, session.source.truth
    return session.teachers or open_teachers(config, truth, session.device, session.download)


def annotate_scenes(
    session: Session, teachers: tuple[LabelTeacher, MaskTeacher], names: Sequence[str], progress: Progress
) -> Annotations:
    """Teachers' answers and pairs of these scenes, into the cache; the run's folder is left alone."""
    return annotating.annotate(
        session.source,
        names,
        session.classes,
        *teachers,
        session.config.pairing,
        session.cache,
        pseudo=session.config.pseudo_labels,
        features=session.config.latent.features,
        device=session.device,
        progress=progress,
    )


def keep_annotations(session: Session, annotations: Annotations) -> Annotations:
    """Save the index to all scenes; fuse features over views where the recipe wants them."""
    session.world.first_does(lambda: annotations.save(session.folder.annotations))
    if fused := names_to_fuse(session):
        fuse(annotations, session.source, fused, session.progress)
    return annotations


def names_to_fuse(session: Session) -> tuple[str, ...]:
    """Scenes whose points get features fused over views: to be distilled, or to answer."""
    config = session.config
    learns = trains(config) and config.distill.weight > 0
    answers = config.predict.source in ("fusion", "fusion+networks")
    splits = [split for split, wanted in (("train", learns), ("val", answers)) if wanted]
    return session.names(*splits) if splits else ()


def trains(config: Config) -> bool:
    """Whether the configuration asks for trained networks."""
    return config.train.epochs > 0 and config.predict.source in ("networks", "fusion+networks")


def train(session: Session, annotations: Annotations) -> NetworkPair | None:
    """Both networks, trained; ``None`` for a recipe that lets the teacher answer, or trains 0 epochs.

    Goes on from the last checkpoint of this run, or from the end of stage 1 of any run that shares it.
    """
    config, folder = session.config, session.folder
    if not trains(config):
        return None
    target, distill = config.latent.target if config.latent.weight > 0 else None, config.distill.weight > 0
    store = SceneStore(session.source, session.names("train"), annotations, target, distill=distill)
    target_dim = store.target_dim()
    if session.download:
        fetch_weights(config.networks.image)
    text = torch.from_numpy(annotations.text)
    networks = Networks(config.networks, config.latent, text.shape[1], target_dim, config.seed)
    start = checkpoint.fingerprint(networks.state_dict())
    digest = depends_on(config, TRAINING, annotations, store.names, start)
    if folder.networks.is_file():
        state, _, about = checkpoint.read_networks(folder.networks)
        if about["digest"] == digest:
            folder.read_log(about.get("log"))  # complains of damage
            networks.load_state_dict(state)
            knows_points = about.get("knows_points", True)
            return NetworkPair(networks, text, config, session.device, digest, knows_points)
    steps, world = steps_per_epoch(config, len(store.names)), session.world
    trainer = Trainer(networks, config, text, steps, session.device, world)
    with folder.training(world.first):
        knows_points, log = _learn(session, store, trainer, digest, stage1_key(session, annotations, start))
        about = checkpoint.about_networks(digest, config, session.classes, target_dim, knows_points, log)
        world.first_does(lambda: checkpoint.save_networks(folder.networks, networks, text, about))
    return NetworkPair(networks, text, config, session.device, digest, knows_points)


def _learn(
    session: Session, store: SceneStore, trainer: Trainer, digest: str, stage1: Key
) -> tuple[bool, str]:
    """All steps that are left; whether any of all steps saw points, and the digest of the log."""
    config, folder, world = session.config, session.folder, session.world
    records = resume(folder, session.cache, trainer, digest, stage1)
    first, total, monitor = trainer.step, trainer.total_steps, Monitor()
    for record in records:  # what an earlier start was told of is not told again
        monitor.add(record)
    knows_points = any(record.get("pairs", 1) for record in records)
    recent: deque[dict[str, Any]] = deque(maxlen=WINDOW)
    workers = workers_of(config, session.device)
    drawn = shared_batches(store, config, share_of(config, world), first, total, workers)
    log_file = LogFile(folder.log if world.first else None, records)
    told = tracking(session.trackers if world.first else (), config, folder.path)
    with session.progress("train", total, first) as advance, log_file as log, told as track:
        records.clear()
        for result in cotrain(trainer, drawn):
            record = result.record()  # not kept: memory shall not grow with the number of steps
            log.add(record)
            track.step(record)
            knows_points = knows_points or result.pairs > 0
            found = monitor.add(record)
            for collapse in found + (monitor.end() if trainer.step == total else []):
                words = collapse.words(session.classes.names)
                _log.warning("%s, seed %d: %s", config.recipe, config.seed, words)
            if world.first and trainer.step == trainer.stage1_steps and trainer.step < total:
                share_stage1(session.cache, stage1, trainer, folder.read_log(log.keep()))
            due = trainer.step % config.train.checkpoint_every == 0 or trainer.step == total
            if world.first and due:
                checkpoint.save_training(folder.checkpoint, trainer, digest, log.keep())
            recent.append(record)
            advance(f"loss {result.loss:.2f}, {100 * (waiting_share(recent) or 0):.0f} % waiting")
        kept = log.keep()
    if advice := waiting_advice(recent):
        _log.warning("%s, seed %d: %s", config.recipe, config.seed, advice)
    return knows_points, kept


def stage1_key(session: Session, annotations: Annotations, start: str) -> Key:
    """Where the cache holds the end of stage 1; ``start`` is the fingerprint of the untrained networks."""
    of = depends_on(session.config, STAGE1, annotations, session.names("train"), start)
    return cache_key("stage1", of=of)


def evaluate(session: Session, annotations: Annotations, pair: NetworkPair | None) -> Evaluation:
    """Confusion matrices of the run's predictions on the validation scenes."""
    folder, names = session.folder, session.names("val")
    digest = _predictions_digest(session, annotations, pair)
    if (saved := saved_evaluation(folder.evaluation, digest)) is not None:
        folder.read_log(saved.log, times=True)  # complains of damage
        return saved.evaluation
    predictor = Predictor(session.config, pair, annotations)
    evaluation = evaluating.evaluate(
        session.source, names, session.classes, predictor, progress=session.progress, world=session.world
    )
    log, classes = digest_of(folder.read_log(), times=True), session.classes.names
    session.world.first_does(lambda: save_evaluation(folder.evaluation, evaluation, digest, log, classes))
    return evaluation


def evaluate_elsewhere(session: Session, pair: NetworkPair) -> ReportRow:
    """Networks of another run against the ground truth of this session's data; writes ``results.json``.

    Raises:
        DataError: something is wrong with the data, or they have no ground truth.
        ConfigError: its classes and the run's share no name.
    """
    check(session)
    predictor = Predictor(session.config, pair, None)
    names, classes, config = session.names("val"), session.classes, session.config
    found = evaluating.evaluate(session.source, names, classes, predictor, progress=session.progress)
    measured = report_row(config.recipe, found, classes, found.seconds, [])
    results = results_json(config.recipe, config.data.source, config.seed, [measured])
    write_json(session.folder.results, results)
    return measured


def fit(session: Session, command: str) -> None:
    """Everything, on data that may have no ground truth: labelled clouds and frames, and the report.

    Args:
        session: the run.
        command: for the report.
    """
    check(session)
    annotations = annotate(session)
    pair = train(session, annotations)
    has_truth = session.source.truth is not None
    evaluation = evaluate(session, annotations, pair) if has_truth else None
    if not session.world.first:
        return
    shares = predict(session, annotations, pair, session.folder.predictions)
    config, rows = session.config, [row(session, evaluation)]
    with tracking(session.trackers, config, session.folder.path) as track:
        track.result(results_json(config.recipe, config.data.source, config.seed, rows)["rows"][0])
    report(session, annotations, pair, rows, session.folder, command, None if has_truth else shares)


def row(session: Session, evaluation: Evaluation | None) -> ReportRow:
    """The run's line in a table, see `run_row`."""
    return run_row(session.config, evaluation, session.classes, session.folder.read_log())


def predict(
    session: Session,
    annotations: Annotations,
    pair: NetworkPair | None,
    out: Path,
    formats: Sequence[str] = DEFAULT_FORMATS,
) -> dict[str, dict[str, float]]:
    """Label every point and frame of the validation scenes, as files below ``out``.

    Returns:
        For ``2D`` and ``3D`` the share of each class among the labels that were given.
    """
    predictor = Predictor(session.config, pair, annotations)
    digest = _predictions_digest(session, annotations, pair)
    names, classes = session.names("val"), session.classes
    return write_predictions(
        session.source, names, classes, predictor, digest, out, session.progress, formats
    )


def report(
    session: Session,
    annotations: Annotations,
    pair: NetworkPair | None,
    rows: Sequence[ReportRow],
    folder: RunFolder,
    command: str,
    label_shares: Mapping[str, Mapping[str, float]] | None = None,
) -> None:
    """Write ``results.json`` and ``report.html`` into ``folder``; other arguments as for `report_data`."""
    config = session.config
    write_json(folder.results, results_json(config.recipe, config.data.source, config.seed, rows))
    write_report(folder.report, report_data(session, annotations, pair, rows, command, label_shares))


def report_data(
    session: Session,
    annotations: Annotations,
    pair: NetworkPair | None,
    rows: Sequence[ReportRow],
    command: str,
    label_shares: Mapping[str, Mapping[str, float]] | None = None,
) -> ReportData:
    """Everything on a run's page, the teacher's own rows among it.

    Args:
        session: the run whose pictures are shown.
        annotations: of its validation scenes.
        pair: its networks, if it has any.
        rows: of the table, this run's among them.
        command: that makes the report again.
        label_shares: what `predict` returned, where there is no ground truth to measure by.
    """
    config, learned, judged = session.config, session.names("train"), session.names("val")
    digest = depends_on(config, ("data",), annotations, judged, "")
    return run_page(
        session.source, session.classes, config, annotations, pair, learned, judged,
        rows, command, session.folder, digest, session.progress, label_shares,
    )  # fmt: skip


def _predictions_digest(session: Session, annotations: Annotations, pair: NetworkPair | None) -> str:
    """What the predictions of the validation scenes depend on."""
    start = "" if pair is None else pair.digest
    return depends_on(session.config, ANSWERS, annotations, session.names("val"), start)
