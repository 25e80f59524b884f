"""Label-free 2D and 3D segmentation: two networks from unlabelled frames, clouds and class names.

Example::

    import scenelift

    run = scenelift.load("run/")
    labels = run.segment_points(xyz, rgb).labels
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from scenelift.api import TrainedRun

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(run: str | Path, device: str = "auto") -> TrainedRun:
    """Open a finished run and its two networks.

    Args:
        run: folder given to ``--out``.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"``.

    Raises:
        RunError: there are no trained networks in it, or they are damaged.
    """
    from scenelift.api import TrainedRun

    return TrainedRun(run, device)
