"""What Ray workers start with in `test_ray_annotate`: tiny scenes, teachers that note what they are asked."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from fixtures_scenes import FakeLabelTeacher, FakeMaskTeacher, tiny_source
from scenelift import pipeline
from scenelift.types import Masks

SCENES, FRAMES = 2, 16
SECONDS_A_FRAME = 0.15


class NotingMaskTeacher(FakeMaskTeacher):
    """Slow, and appends ``process frame`` to a file for every frame it is asked about."""

    def masks(self, frames: Any) -> list[Masks]:
        with Path(os.environ["SCENELIFT_ASKED"]).open("a", encoding="utf-8") as log:
            for frame in frames:
                print(os.getpid(), frame.key, file=log)
        time.sleep(SECONDS_A_FRAME * len(frames))
        return super().masks(frames)


def setup() -> None:
    """Run by Ray in each worker process."""
    source = tiny_source(num_scenes=SCENES, frames=FRAMES)

    def open_teachers(*args: Any) -> Any:
        assert source.truth is not None
        return FakeLabelTeacher(source.truth), NotingMaskTeacher(source.truth)

    pipeline.open_source = lambda config: source  # type: ignore[assignment]
    pipeline.open_teachers = open_teachers
