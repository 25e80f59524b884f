"""What networks are worth before labels are switched, and after.

    python benchmarks/before_switch.py RUN [RUN ...] [--cache CACHE] [--classes]

RUN is the folder of a run with its data and cache in place; it may still be training. Printed: mIoU of the
networks at the end of stage 1, and of the finished run where there is one, both predicting as the run's
``predict`` section says: Post-Refine votes before the switch already. With ``--classes`` the IoU of each
class too.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import torch

from scenelift import checkpoint, pipeline
from scenelift.annotations import Annotations
from scenelift.cotrain import Trainer
from scenelift.evaluate import Evaluation, evaluate
from scenelift.files import read_json
from scenelift.models.networks import Networks
from scenelift.options import reopen_session
from scenelift.pipeline import Session
from scenelift.predict import NetworkPair, Predictor
from scenelift.runfolder import RunFolder
from scenelift.store import SceneStore


def at_switch(session: Session, annotations: Annotations) -> NetworkPair | None:
    """The networks at the end of stage 1, from the cache."""
    config, names = session.config, session.names("train")
    target = config.latent.target if config.latent.weight > 0 else None
    store = SceneStore(session.source, names, annotations, target)
    dim = annotations.text.shape[1]
    networks = Networks(config.networks, config.latent, dim, store.target_dim(), config.seed)
    start = checkpoint.fingerprint(networks.state_dict())
    entry = session.cache.get(pipeline.stage1_key(session, annotations, start))
    if entry is None:
        return None
    text = torch.from_numpy(annotations.text)
    trainer = Trainer(networks, config, text, 1, session.device)
    tensors = {key: torch.from_numpy(value) for key, value in entry.arrays.items()}
    checkpoint.unpack(trainer, tensors, "stage 1")
    return NetworkPair(networks, text, config, session.device)


def _line(what: str, evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return f"  {what:<8} not there"
    in_2d, in_3d = evaluation.confusion_2d.compute(), evaluation.confusion_3d.compute()
    return f"  {what:<8} 2D {100 * in_2d.miou:5.1f}   3D {100 * in_3d.miou:5.1f}"


def _by_class(session: Session, before: Evaluation, after: Evaluation) -> list[str]:
    columns = [
        confusion.compute().iou
        for evaluation in (before, after)
        for confusion in (evaluation.confusion_2d, evaluation.confusion_3d)
    ]
    lines = [f"  {'class':<20}" + "".join(f"{what:>12}" for what in ("2D before", "3D", "2D after", "3D"))]
    for index, name in enumerate(session.classes.names):
        lines.append(f"  {name:<20}" + "".join(f"{100 * column[index]:12.1f}" for column in columns))
    return lines


def measure(path: Path, cache: Path | None, by_class: bool) -> None:
    """Print the figures of one run."""
    with tempfile.TemporaryDirectory() as temp:  # the run's own folder may be in use
        shutil.copy(path / "config.yaml", temp)
        session = reopen_session(Path(temp), "auto", cache or path / "cache", download=False)
        annotations = Annotations.load(path / "annotations.json", session.cache)
        pair, names = at_switch(session, annotations), session.names("val")
        before = after = None
        if pair is not None:
            predictor = Predictor(session.config, pair, annotations)
            before = evaluate(session.source, names, session.classes, predictor)
        if RunFolder(path).evaluation.is_file():
            after = Evaluation.from_json(read_json(RunFolder(path).evaluation))
        print(f"{path}\n{_line('before', before)}\n{_line('after', after)}")
        if by_class and before is not None and after is not None:
            print("\n".join(_by_class(session, before, after)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--classes", action="store_true")
    asked = parser.parse_args()
    for path in asked.runs:
        measure(path, asked.cache, asked.classes)


if __name__ == "__main__":
    main()
