"""Class tables: names, prompts, colours, and the maps from raw dataset ids to training ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scenelift.errors import ConfigError
from scenelift.palette import distinct_colors
from scenelift.types import IGNORE, U8


@dataclass(frozen=True, eq=False)
class ClassTable:
    """The classes a run segments, in the order of their ids.

    Attributes:
        names: one display name a class.
        prompts: for each class the phrases its text embedding is averaged over (synonyms); at least one.
        colors: (C, 3) uint8, RGB.
    """

    names: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]
    colors: U8

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def from_names(cls, names: Sequence[str]) -> ClassTable:
        """A table for a user's own list; ``"sofa / couch"`` is one class with two prompts.

        Raises:
            ConfigError: fewer than two classes, more than 254, an empty or a repeated name.
        """
        cleaned = [" ".join(name.split()) for name in names]
        cleaned = [name for name in cleaned if name]
        if not cleaned:
            raise ConfigError('classes: expected at least two names such as "wall, floor, chair", found none')
        prompts = tuple(tuple(part.strip() for part in name.split("/") if part.strip()) for name in cleaned)
        phrases = [phrase.casefold() for row in prompts for phrase in row]
        repeated = sorted({phrase for phrase in phrases if phrases.count(phrase) > 1})
        if repeated:
            raise ConfigError(
                f"classes: each name may stand once, found {', '.join(repeated)} again; remove the copies"
            )
        if len(cleaned) == 1:
            raise ConfigError(
                f"classes: one class ({cleaned[0]}) leaves nothing to tell apart; "
                'add at least one more, for instance "other"'
            )
        if len(cleaned) >= IGNORE:
            raise ConfigError(f"classes: at most {IGNORE - 1} are supported, found {len(cleaned)}")
        for name, row in zip(cleaned, prompts, strict=True):
            if not row:
                raise ConfigError(f"classes: {name!r} holds no word; write a name or remove it")
        return cls(tuple(row[0] for row in prompts), prompts, distinct_colors(len(cleaned)))

    @classmethod
    def parse(cls, text: str) -> ClassTable:
        """A table from a comma-separated list, as the command line takes it."""
        return cls.from_names(text.split(","))


_SCANNET20: tuple[tuple[str, int, tuple[int, int, int]], ...] = (
    # name, nyu40 id, colour of the ScanNet benchmark
    ("wall", 1, (174, 199, 232)),
    ("floor", 2, (152, 223, 138)),
    ("cabinet", 3, (31, 119, 180)),
    ("bed", 4, (255, 187, 120)),
    ("chair", 5, (188, 189, 34)),
    ("sofa", 6, (140, 86, 75)),
    ("table", 7, (255, 152, 150)),
    ("door", 8, (214, 39, 40)),
    ("window", 9, (197, 176, 213)),
    ("bookshelf", 10, (148, 103, 189)),
    ("picture", 11, (196, 156, 148)),
    ("counter", 12, (23, 190, 207)),
    ("desk", 14, (247, 182, 210)),
    ("curtain", 16, (219, 219, 141)),
    ("refrigerator", 24, (255, 127, 14)),
    ("shower curtain", 28, (158, 218, 229)),
    ("toilet", 33, (44, 160, 44)),
    ("sink", 34, (112, 128, 144)),
    ("bathtub", 36, (227, 119, 194)),
    ("other furniture", 39, (82, 84, 163)),
)

SCANNET20 = ClassTable(
    names=tuple(name for name, _, _ in _SCANNET20),
    prompts=tuple((name,) for name, _, _ in _SCANNET20),
    colors=np.array([color for _, _, color in _SCANNET20], dtype=np.uint8),
)
"""The 20 classes of the ScanNet benchmark."""


def scannet20_from_nyu40() -> U8:
    """(256,) uint8 look-up table from nyu40 ids to the 20 training ids, `IGNORE` elsewhere."""
    table = np.full(256, IGNORE, dtype=np.uint8)
    for train_id, (_, nyu40, _) in enumerate(_SCANNET20):
        table[nyu40] = train_id
    return table
