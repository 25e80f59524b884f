"""What each stage costs, measured on a few frames: the real stages, one by one, in a cache of their own.

Nothing runs beside anything else here, so that each stage's time is its own. What the first batch of a
teacher or the first training step takes longer (kernels are chosen, memory is reserved) does not count where
others follow.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import torch

from scenelift import pipeline
from scenelift.annotations import Annotations, FrameKeys, SceneKeys
from scenelift.answers import Answers, Job, keep_paired, text_embeddings, view_digest
from scenelift.batches import Batch, batches, frames_a_scene, steps_per_epoch
from scenelift.cache import Key, array_digest
from scenelift.cotrain import Trainer, cotrain
from scenelift.device import peak_bytes_of, reset_peak
from scenelift.entries import encode
from scenelift.errors import DataError
from scenelift.frame_stream import frames_per_batch
from scenelift.fusion import fuse
from scenelift.models.image import fetch_weights
from scenelift.models.networks import Networks
from scenelift.pipeline import Session
from scenelift.scenes import Findings, SceneSource, TruthSource
from scenelift.shares import workers_of
from scenelift.store import SceneStore
from scenelift.teachers import LabelTeacher, MaskTeacher
from scenelift.types import F32, Frame, Scene

STEPS = 3
"""Training steps of each stage that are measured at most, after one that is not."""


@dataclass(frozen=True)
class Measured:
    """What a probe found.

    Attributes:
        scenes: how many were looked into.
        frames: how many frames were annotated.
        seconds: of each annotation stage, a frame: ``reading``, ``label teacher``, ``mask teacher``,
            ``pairing``, ``encoding`` and, where the recipe wants it, ``fusion``; of ``opening``, a scene.
        bytes: in the cache by its stages, a frame; those of ``fused`` a scene.
        files: in the cache, a frame.
        paired_bytes: of mask features, a frame, if they were kept for pairs only.
        step_seconds: of a training step, by stage 1 and 2, as far as the recipe has them.
        steps: training steps measured.
        step_images: images of a measured step.
        images: images of a step of the real training.
        peak_bytes: the most memory that was held, on CUDA of the device; ``None`` where unknown.
    """

    scenes: int
    frames: int
    seconds: dict[str, float]
    bytes: dict[str, float]
    files: float
    paired_bytes: float | None
    step_seconds: dict[int, float]
    steps: int
    step_images: float
    images: float
    peak_bytes: int | None


class FewFrames:
    """A data set of some frames of some scenes of another one (a `SceneSource`)."""

    def __init__(self, source: SceneSource, chosen: dict[str, tuple[int, ...]]) -> None:
        self._source, self._chosen = source, chosen
        self.classes = source.classes

    @property
    def truth(self) -> TruthSource | None:
        """The whole data set's."""
        return self._source.truth

    def names(self, split: str) -> tuple[str, ...]:
        """The chosen scenes, for every split."""
        return tuple(self._chosen)

    def frame_count(self, name: str) -> int:
        """Of the chosen frames."""
        return len(self._chosen[name])

    def scene(self, name: str) -> Scene:
        """A scene with the chosen frames; the cloud is whole."""
        scene = self._source.scene(name)
        names = [scene.frames.names[index] for index in self._chosen[name]]
        return Scene(scene.name, scene.points_world, scene.rgb, scene.frames.only(names), scene.up_world)

    def findings(self) -> Findings:
        """Nothing: the whole was checked."""
        return Findings()


def scattered(frames: dict[str, int], wanted: int, each: int) -> dict[str, tuple[int, ...]]:
    """Frames to look into: ``wanted`` in all, ``each`` of a scene, evenly over scenes and over their frames.

    Args:
        frames: number of frames by scene.
        wanted: in all, at least 1.
        each: of one scene.
    """
    names = [name for name, count in frames.items() if count]
    scenes = min(len(names), max(1, round(wanted / each)))
    chosen = {}
    for name in (names[i * len(names) // scenes] for i in range(scenes)):
        count = min(frames[name], -(-wanted // scenes))
        chosen[name] = tuple(i * frames[name] // count for i in range(count))
    return chosen


class _Clock:
    """Seconds by stage, each time for so many frames."""

    def __init__(self, device: str) -> None:
        self._cuda = device.startswith("cuda")
        self._samples: dict[str, list[tuple[float, int]]] = defaultdict(list)

    @contextmanager
    def time(self, stage: str, frames: int = 1) -> Iterator[None]:
        self._wait()
        start = time.perf_counter()
        yield
        self._wait()
        self._samples[stage].append((time.perf_counter() - start, frames))

    def _wait(self) -> None:
        if self._cuda:
            torch.cuda.synchronize()

    def seconds(self) -> dict[str, float]:
        """By stage, a frame; the first sample of several is a warm-up."""
        kept = {stage: of[1:] or of for stage, of in self._samples.items()}
        return {stage: sum(s for s, _ in of) / sum(n for _, n in of) for stage, of in kept.items()}


def probe(session: Session, frames: int = 20, budget_s: float = 240.0) -> Measured:
    """Run the real stages on some frames, and measure them.

    Args:
        session: the run that is planned; its folder and its cache are left alone.
        frames: to annotate at most.
        budget_s: seconds for the teachers, and again for training, after which no other batch or step begins.

    Raises:
        WeightsError: a teacher's or the 2D network's weights are missing.
        DataError: the data cannot be read, or have no frames.
    """
    teachers = pipeline.teachers_of(session)
    counts = {name: session.source.frame_count(name) for name in session.names("train", "val")}
    chosen = scattered(counts, frames, min(frames_a_scene(session.config), max(1, frames // 2)))
    if not chosen:
        raise DataError("plan: expected frames, found none in any scene; nothing can be measured")
    reset_peak(session.device)
    with tempfile.TemporaryDirectory(prefix="scenelift-plan-") as folder:
        few = FewFrames(session.source, chosen)
        part = Session(
            session.config, session.folder, Path(folder), session.device, session.progress, opened=few,
            download=session.download,
        )  # fmt: skip
        clock = _Clock(session.device)
        annotations, thin = _annotate(part, teachers, clock, time.monotonic() + budget_s)
        del teachers
        part.opened = few = FewFrames(
            session.source, {name: chosen[name][: len(of.frames)] for name, of in annotations.scenes.items()}
        )
        part.__dict__.pop("source")  # what the time did not suffice for is left out
        done = sum(len(keys.frames) for keys in annotations.scenes.values())
        fused = pipeline.names_to_fuse(session)
        if fused:
            with clock.time("fusion", done):
                fuse(annotations, few, tuple(annotations.scenes))
        stats = part.cache.stats()
        of_frames = {stage: of for stage, of in stats.items() if stage not in ("text", "fused")}
        sizes = {stage: of.bytes / done for stage, of in of_frames.items()}
        if "fused" in stats:
            sizes["fused"] = stats["fused"].bytes / stats["fused"].entries
        steps, images = (
            _train(part, annotations, time.monotonic() + budget_s, len(session.names("train")))
            if pipeline.trains(session.config)
            else ({}, 1.0)
        )
    train = session.config.train
    return Measured(
        scenes=len(annotations.scenes),
        frames=done,
        seconds=clock.seconds(),
        bytes=sizes,
        files=sum(of.entries for of in of_frames.values()) / done,
        paired_bytes=mean(thin) if thin else None,
        step_seconds={stage: mean(of) for stage, of in steps.items()},
        steps=sum(map(len, steps.values())),
        step_images=images,
        images=train.scenes_per_step * _mean_frames(session, counts),
        peak_bytes=peak_bytes_of(session.device),
    )


def _mean_frames(session: Session, counts: dict[str, int]) -> float:
    """Frames that a step draws of a scene, on the mean."""
    return mean(min(counts[name], frames_a_scene(session.config)) for name in session.names("train"))


def _annotate(
    part: Session, teachers: tuple[LabelTeacher, MaskTeacher], clock: _Clock, until_s: float
) -> tuple[Annotations, list[int]]:
    """What `annotate` does, one thing at a time, until the time is up.

    Returns:
        The annotations of the first frames of the first scenes; bytes of each frame's mask features if they
        were kept for pairs only.
    """
    config, source = part.config, part.source
    text = text_embeddings(part.cache, teachers[0], part.classes)
    answers = Answers(part.cache, *teachers, text, config.pairing, config.pseudo_labels, part.device)
    scenes: dict[str, SceneKeys] = {}
    paired = config.latent.features == "paired"
    thin: list[int] = []
    names = source.names("train")
    with part.progress("probe: annotate", sum(map(source.frame_count, names)), 0) as advance:
        for name in names:
            with clock.time("opening"):
                scene = source.scene(name)
            frames = []
            for index in range(len(scene.frames)):
                with clock.time("reading"):
                    frame = scene.frames[index]
                    array_digest(frame.image)
                frames.append(frame)
            with clock.time("pairing", len(frames)):
                key = answers.pair(scene, [view_digest(frame) for frame in frames])
            done: dict[str, FrameKeys] = {}
            for frame_name, found, packed in _ask(answers, frames, key, paired, clock, until_s, bool(scenes)):
                done[frame_name] = found
                thin.append(packed)
                advance("")
            if done:
                scenes[name] = SceneKeys(key, done)
            if time.monotonic() > until_s:
                break
    return Annotations(part.cache, text, scenes), thin


def _ask(
    answers: Answers,
    frames: Sequence[Frame],
    pairs_key: Key,
    paired: bool,
    clock: _Clock,
    until_s: float,
    enough: bool,
) -> Iterator[tuple[str, FrameKeys, int]]:
    """Ask the teachers about frames, batch by batch, and keep the answers: name, keys, bytes if thinned."""
    pairs, size = answers.pairs(pairs_key), frames_per_batch(answers.device)
    for first in range(0, len(frames), size):
        if time.monotonic() > until_s and (enough or first):
            return
        batch = frames[first : first + size]
        with clock.time("label teacher", len(batch)):
            features = answers.label_teacher.image_features(batch)
        with clock.time("mask teacher", len(batch)):
            masks = answers.mask_teacher.masks(batch)
        for index, frame in enumerate(batch):
            seen = pairs.pixel_uv[pairs.of_frame(first + index)]
            job = _job(answers, frame, seen if paired else None)
            with clock.time("encoding"):
                answers.keep_labels(job, features[index])
                answers.keep_masks(job, masks[index])
            thinned = keep_paired(masks[index].features, seen, *job.size)
            teacher = answers.mask_teacher
            meta = {"frame": job.name, "teacher": teacher.identity, "weights": teacher.weights}
            packed = encode(job.whole, {"features": thinned}, meta, {"features": "grid"})
            yield frame.name, job.keys, len(packed)


def _job(answers: Answers, frame: Frame, pixel_uv: F32 | None) -> Job:
    image, size = array_digest(frame.image), (frame.height, frame.width)
    keys, whole = answers.frame_keys(image, size, pixel_uv)
    return Job(
        name=frame.key, image=image, size=size, keys=keys, whole=whole, pairs=None,
        missing=answers.missing(keys), read=lambda: frame, frame=frame, pixel_uv=pixel_uv,
    )  # fmt: skip


def _train(
    part: Session, annotations: Annotations, until_s: float, scenes: int
) -> tuple[dict[int, list[float]], float]:
    """Seconds of some steps of each stage, and the mean number of their images; ``scenes`` to learn from."""
    config, device = part.config, part.device
    target = config.latent.target if config.latent.weight > 0 else None
    names = tuple(annotations.scenes)
    store = SceneStore(part.source, names, annotations, target, distill=config.distill.weight > 0)
    dim = store.target_dim()
    if part.download:
        fetch_weights(config.networks.image)
    networks = Networks(config.networks, config.latent, annotations.text.shape[1], dim, config.seed)
    text = torch.from_numpy(annotations.text)
    trainer = Trainer(networks, config, text, steps_per_epoch(config, scenes), device)
    found: dict[int, list[float]] = {}
    images: list[int] = []

    def noted(first: int, last: int) -> Iterator[Batch]:
        for batch in batches(store, config, first, last, workers_of(config, device)):
            images.append(len(batch.images))
            yield batch

    switch, total = trainer.stage1_steps, trainer.total_steps
    with part.progress("probe: train", min(STEPS + 1, switch) + min(STEPS + 1, total - switch), 0) as advance:
        for stage, first, last in ((1, 0, switch), (2, switch, total)):
            if first == last:
                continue
            trainer.step, seconds = first, []
            for result in cotrain(trainer, noted(first, min(first + STEPS + 1, last))):
                seconds.append(result.seconds)
                advance("")
                if time.monotonic() > until_s:
                    break
            found[stage] = seconds[1:] or seconds
    return found, mean(images)
