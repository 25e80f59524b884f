"""Run the teachers and the pairing over a data set, into the cache.

Everything is content-addressed: the key of a result names the frame's bytes, the teacher's identity
and the settings. Work that was done is found again after a crash, in another run and by another user
of the same cache, and a new class list re-runs only the text side.

A frame's way: read and hashed ahead of the networks; left alone if the cache knows all about it; claimed, so
that no other process does it too; put into a batch, whichever scene it is of; asked about; written behind the
networks. Frames that another process has claimed are looked at again at the end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from scenelift.annotations import Annotations, FrameKeys, SceneKeys
from scenelift.answers import Answers, Job, text_embeddings, view_digest
from scenelift.cache import Cache, Key, array_digest
from scenelift.claims import Claims
from scenelift.classes import ClassTable
from scenelift.config import PairingConfig, PseudoLabelConfig
from scenelift.errors import DataError
from scenelift.frame_stream import READERS, Writers, frames_per_batch, prefetch
from scenelift.progress import Advance, Progress, silent
from scenelift.scenes import SceneSource
from scenelift.teachers import LabelTeacher, MaskTeacher
from scenelift.types import F16, F32, Frames, Masks, Pairs, Scene

SECONDS_BETWEEN_LOOKS = 0.5
"""How often frames that other processes are working on are looked for."""
PATIENCE_S = 600.0
"""How long none of them may be finished before they are done here too. A machine that died can hold its locks
on a network file system for good; a frame that is done twice comes out the same."""

_log = logging.getLogger(__name__)


def annotate(
    source: SceneSource,
    names: Sequence[str],
    classes: ClassTable,
    label_teacher: LabelTeacher,
    mask_teacher: MaskTeacher,
    pairing: PairingConfig,
    cache: Cache,
    *,
    pseudo: PseudoLabelConfig | None = None,
    features: Literal["full", "paired"] = "full",
    device: str = "cpu",
    batch_size: int | None = None,
    progress: Progress = silent,
) -> Annotations:
    """Ask the teachers about every frame of these scenes, and pair pixels with points.

    What the cache holds already is not done again. Stopping loses at most the frames in flight. Any number of
    processes may do this on one cache at a time: each frame is asked about once.

    Args:
        source: where the scenes come from.
        names: the scenes.
        classes: what to segment.
        label_teacher: CLIP or its like.
        mask_teacher: SAM or its like.
        pairing: method step 4.
        cache: where results go.
        pseudo: from scores to labels; ``None`` = the defaults.
        features: what is kept of the mask teacher's features, `LatentConfig.features`.
        device: for the projection of points.
        batch_size: frames a teacher is asked for at once; ``None`` = what suits the device.
        progress: told of every frame that is finished.

    Raises:
        DataError: a scene or frame cannot be read, or a teacher cannot answer for it; what was read before
            it is finished first.
        CacheError: the cache cannot be written.
    """
    cache.hold()
    text = text_embeddings(cache, label_teacher, classes)
    answers = Answers(
        cache, label_teacher, mask_teacher, text, pairing, pseudo or PseudoLabelConfig(), device
    )
    size = batch_size or frames_per_batch(device)
    total = sum(source.frame_count(name) for name in names)
    with progress("annotate", total, 0) as advance, Claims(cache.root) as claims, Writers() as writers:
        run = _Run(answers, features == "paired", claims, writers, size, advance)
        return Annotations(cache, text, run.scenes(source, names))


@dataclass(eq=False)
class _SceneWork:
    """A scene on its way.

    Attributes:
        name: of the scene.
        scene: it and its cloud, until all its frames are read.
        pairs_key: once it is paired.
        pairs: while its frames are read, where features are kept for pairs only.
        views: what its pairs depend on, of the frames read so far.
        frames: keys of the frames read so far, in order.
    """

    name: str
    scene: Scene | None
    pairs_key: Key | None = None
    pairs: Pairs | None = None
    views: list[str] = field(default_factory=list)
    frames: dict[str, FrameKeys] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Read:
    """A frame that has been read."""

    work: _SceneWork
    frame: str
    view: str
    job: Job


class _Run:
    """One call of `annotate`."""

    def __init__(
        self,
        answers: Answers,
        paired: bool,
        claims: Claims,
        writers: Writers,
        batch_size: int,
        advance: Advance,
    ) -> None:
        self._answers, self._paired = answers, paired
        self._claims, self._writers = claims, writers
        self._batch_size, self._advance = batch_size, advance
        self._batch: list[Job] = []
        self._deferred: list[Job] = []
        self._recent_pairs: tuple[Key, Pairs] | None = None
        self._first_asked_s: float | None = None
        self._asked, self._found = 0, 0

    def scenes(self, source: SceneSource, names: Sequence[str]) -> dict[str, SceneKeys]:
        """Everything about these scenes."""
        done: dict[str, SceneKeys] = {}
        reads = self._reads(source, names, done)
        with closing(prefetch(reads, READERS, READERS + self._batch_size)) as stream:
            try:
                for number, read in enumerate(stream, 1):
                    work, scene = read.work, read.work.scene
                    work.views.append(read.view)
                    work.frames[read.frame] = read.job.keys
                    self._offer(read.job)
                    if scene is not None and len(work.views) == len(scene.frames):
                        pairs_key = work.pairs_key or self._answers.pair(scene, work.views)
                        done[work.name] = SceneKeys(pairs_key, work.frames)
                        work.scene = work.pairs = None
                    if number % self._batch_size == 0:
                        self._look_again()  # or what waits would keep its scene in memory until the end
            except DataError:
                self._ask_teachers()  # what was read before is finished
                raise
        self._come_back()
        return {name: done[name] for name in names}

    # --- ahead of the networks -----------------------------------------------------------------------

    def _reads(
        self, source: SceneSource, names: Sequence[str], done: dict[str, SceneKeys]
    ) -> Iterator[Callable[[], _Read]]:
        """What to read, frame by frame. Scenes without frames are done at once."""
        for name in names:
            scene = source.scene(name)
            frames, work = scene.frames, _SceneWork(name, scene)
            if self._paired or not len(frames):
                looks = (partial(_view_of, frames, index) for index in range(len(frames)))
                work.pairs_key = self._answers.pair(scene, list(prefetch(looks, READERS, 2 * READERS)))
                work.pairs = self._answers.pairs(work.pairs_key)
            if not len(frames) and work.pairs_key is not None:
                done[name] = SceneKeys(work.pairs_key, {})
            for index in range(len(frames)):
                yield partial(self._read, work, frames, index)

    def _read(self, work: _SceneWork, frames: Frames, index: int) -> _Read:
        """Decode a frame and look what the cache knows of it."""
        frame = frames[index]
        image, size = array_digest(frame.image), (frame.height, frame.width)
        of_scene = None if work.pairs_key is None else (work.pairs_key, index)
        pixel_uv = None if work.pairs is None else work.pairs.pixel_uv[work.pairs.of_frame(index)].copy()
        keys, whole = self._answers.frame_keys(image, size, pixel_uv)
        job = Job(
            name=frame.key,
            image=image,
            size=size,
            keys=keys,
            whole=whole,
            pairs=of_scene,
            missing=self._answers.missing(keys),
            read=partial(frames.__getitem__, index),
            frame=frame,
            pixel_uv=pixel_uv,
        )
        view = view_digest(frame) if work.pairs_key is None else ""
        if not job.missing:
            job.rest()
        return _Read(work, frame.name, view, job)

    # --- the networks --------------------------------------------------------------------------------

    def _offer(self, job: Job, wait: bool = True) -> None:
        """Do what is missing of a frame, with the rest of a batch; later, if another process does it."""
        if not job.missing:
            self._finish(job)
        elif not self._claims.take(job.image, force=not wait):
            job.rest()
            self._deferred.append(job)
        else:
            job.missing = self._answers.missing(job.keys)  # another process may have been faster
            self._batch.append(job)
            if len(self._batch) >= self._batch_size:
                self._ask_teachers()

    def _look_again(self, wait: bool = True) -> None:
        """Offer the frames again whose claim somebody had."""
        waiting, self._deferred = self._deferred, []
        for job in waiting:
            job.missing = self._answers.missing(job.keys)
            self._offer(job, wait)

    def _come_back(self) -> None:
        """Finish what is left, and look after the frames that others have claimed until all are done."""
        told, since_s = False, time.monotonic()
        while True:
            self._ask_teachers()
            self._writers.finish()
            if not self._deferred:
                return
            waiting = len(self._deferred)
            self._look_again(wait=time.monotonic() - since_s <= PATIENCE_S)
            if len(self._deferred) < waiting:
                since_s = time.monotonic()
            else:
                if not told:
                    _log.warning("waiting for %d frames that other processes are working on", waiting)
                told = True
                time.sleep(SECONDS_BETWEEN_LOOKS)

    def _ask_teachers(self) -> None:
        """Ask about the frames of the batch, and hand the answers to the writers as they come."""
        batch, self._batch = self._batch, []
        for_labels = [job for job in batch if "features" in job.missing]
        for_masks = [job for job in batch if self._answers.needs_mask_teacher(job)]
        for job in (*for_labels, *for_masks):
            job.asked = True
            self._first_asked_s = self._first_asked_s or time.monotonic()
        features: dict[Job, F16] = {}
        if for_labels:
            found = self._answers.label_teacher.image_features([job.pixels() for job in for_labels])
            features = dict(zip(for_labels, found, strict=True))
        for job in batch:
            if job.missing & {"features", "labels"}:
                keep = partial(self._answers.keep_labels, job, features.get(job))
                self._writers.submit(keep, _nothing)
        masks: dict[Job, Masks] = {}
        if for_masks:
            answers = self._answers.mask_teacher.masks([job.pixels() for job in for_masks])
            masks = dict(zip(for_masks, answers, strict=True))
        for job in batch:
            job.frame = None
            if "mask_features" in job.missing and job.pixel_uv is None:
                job.pixel_uv = self._pixel_uv(job)
            keep = partial(self._answers.keep_masks, job, masks.get(job))
            self._writers.submit(keep, partial(self._release, job))

    def _pixel_uv(self, job: Job) -> F32 | None:
        """The pairs of a frame that had to wait; those of the last scene stay in memory."""
        if job.pairs is None:
            return None
        key, index = job.pairs
        if self._recent_pairs is None or self._recent_pairs[0] != key:
            self._recent_pairs = (key, self._answers.pairs(key))
        pairs = self._recent_pairs[1]
        return pairs.pixel_uv[pairs.of_frame(index)]

    def _release(self, job: Job) -> None:
        self._claims.release(job.image)
        self._finish(job)

    def _finish(self, job: Job) -> None:
        """Count a frame, and tell how fast the teachers are (since the first was asked about)."""
        self._asked += job.asked
        self._found += not job.asked
        notes = []
        if self._asked and self._first_asked_s is not None:
            rate = self._asked / max(time.monotonic() - self._first_asked_s, 1e-9)
            notes.append(f"{rate:.1f} images/s" if rate >= 1 else f"{rate:.2g} images/s")
        if self._found:
            notes.append(f"{self._found} from the cache")
        if self._answers.mask_teacher.summary:
            notes.append(self._answers.mask_teacher.summary)
        self._advance(", ".join(notes))


def _nothing() -> None:
    """Nothing to do after a task."""


def _view_of(frames: Frames, index: int) -> str:
    return view_digest(frames[index])
