"""A data set in shares: ``--shard 3/8`` of a job array annotates the third of eight.

The deal follows from the scenes and their numbers of frames alone, so processes that see the same data
agree on it without talking. Each leaves a note of how far it is, ``root/shards/<digest>/<i>.json`` in the
cache, from which any of them can say how much is left. Notes decide nothing: what is done is what the cache
holds, and one call without a shard finds it there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from scenelift import pipeline
from scenelift.cache import cache_key
from scenelift.errors import ConfigError, DataError, OutputError
from scenelift.files import read_json, write_json
from scenelift.pipeline import Session
from scenelift.progress import Advance

SECONDS_BETWEEN_NOTES = 5.0
MOST_SHARDS = 100_000


@dataclass(frozen=True)
class Shard:
    """One of ``count`` shares; ``index`` counts from 1."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From ``"3/8"``. Raises `ConfigError` if that is none."""
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
        index, count = map(int, found.groups()) if found else (0, 0)
        if not 1 <= index <= count <= MOST_SHARDS:
            raise ConfigError(
                f"--shard: expected i/n with 1 <= i <= n <= {MOST_SHARDS:,}, such as 3/8, found {text!r}"
            )
        return cls(index, count)

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


@dataclass(frozen=True)
class ShardResult:
    """How far all shards are when one ends.

    Attributes:
        shard: the one that ends.
        frames: of its scenes; all are in the cache.
        done: frames of all shards that are in the cache, as far as their last notes tell.
        total: frames of all shards.
    """

    shard: Shard
    frames: int
    done: int
    total: int

    def __str__(self) -> str:
        head = f"shard {self.shard} done: {self.frames:,} frames; "
        if self.done < self.total:
            return f"{head}{self.done:,} of {self.total:,} frames of all shards are in the cache"
        return f"{head}all {self.total:,} frames are in the cache: go on without --shard"


def deal(frames: Mapping[str, int], count: int) -> list[tuple[str, ...]]:
    """Scenes dealt to ``count`` shards of nearly the same number of frames.

    The largest scenes first, each to the shard with the fewest frames so far: the fullest shard gets at most
    4/3 of what it would in the best deal (Graham 1969). A scene is never cut: pairs are made scene by scene.

    Args:
        frames: number of frames by scene name.
        count: of shards; those beyond the number of scenes get none.

    Returns:
        Names by shard, each in the order they were given in.
    """
    chosen: dict[str, int] = {}
    loads = [(0, 0, index) for index in range(count)]  # frames, scenes, number
    for name in sorted(frames, key=lambda name: (-frames[name], name)):
        load = min(loads)
        chosen[name] = load[2]
        loads[load[2]] = (load[0] + frames[name], load[1] + 1, load[2])
    shares: list[list[str]] = [[] for _ in range(count)]
    for name in frames:
        shares[chosen[name]].append(name)
    return [tuple(share) for share in shares]


def annotate_shard(session: Session, shard: Shard) -> ShardResult:
    """Annotate one share of the scenes, into the cache. No index is written: that needs all shares.

    Raises:
        RunError: the run's folder holds another run.
        DataError, CacheError: as `pipeline.annotate` raises them.
    """
    names = session.names("train", "val")
    frames = {name: session.source.frame_count(name) for name in names}
    mine = deal(frames, shard.count)[shard.index - 1]
    teachers = pipeline.teachers_of(session)
    session.folder.claim(session.config)
    notes, of_mine = _notes_folder(session, frames, shard.count), sum(frames[name] for name in mine)
    with _noted(notes / f"{shard.index}.json") as count:

        @contextmanager
        def counting(what: str, total: int, done: int = 0) -> Iterator[Advance]:
            with session.progress(f"{what} {shard}", total, done) as advance:

                def both(note: str) -> None:
                    count()
                    advance(note)

                yield both

        pipeline.annotate_scenes(session, teachers, mine, counting)
    done = sum(_frames_done(notes / f"{number}.json") for number in range(1, shard.count + 1))
    return ShardResult(shard, of_mine, min(done, sum(frames.values())), sum(frames.values()))


def _notes_folder(session: Session, frames: Mapping[str, int], count: int) -> Path:
    """Where processes that share out the same work leave their notes."""
    config = session.config
    work = config.digest("data", "teachers", "pairing", "pseudo_labels", "latent.features", "classes")
    # the key of no entry: only its digest is used
    digest = cache_key("labels", work=work, frames=list(map(list, frames.items())), shards=count).digest
    return session.cache_root / "shards" / digest[:16]


@contextmanager
def _noted(path: Path) -> Iterator[Callable[[], None]]:
    """Call what this gives for each frame; ``path`` says how many there were, now and then and at the end."""
    done, written_s = 0, time.monotonic()

    def write() -> None:
        nonlocal written_s
        written_s = time.monotonic()
        with suppress(OutputError):  # a full disk stops the work itself soon enough
            write_json(path, {"frames_done": done})

    def count() -> None:
        nonlocal done
        done += 1
        if time.monotonic() - written_s >= SECONDS_BETWEEN_NOTES:
            write()

    try:
        yield count
    finally:
        write()


def _frames_done(path: Path) -> int:
    try:
        found = read_json(path)
        return max(0, int(found["frames_done"]))
    except (DataError, KeyError, TypeError, ValueError):
        return 0  # not begun, or a damaged note
