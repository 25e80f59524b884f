"""Every recipe, from data to figures in three steps; and that each does what tells it from the others."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fixtures_bench import Bench
from scenelift import checkpoint, pipeline
from scenelift.annotations import Annotations
from scenelift.batches import Batch, SceneStore, draw_batch, stream
from scenelift.config import Config
from scenelift.errors import ConfigError
from scenelift.evaluate import Evaluation
from scenelift.fusion import fused_features
from scenelift.models.networks import Networks
from scenelift.pipeline import Session
from scenelift.predict import NetworkPair, Predictor
from scenelift.recipes import METHODS, load, recipe_names
from scenelift.runfolder import RunFolder
from scenelift.scenes import SceneSource
from scenelift.scenes.registry import open_source
from scenelift.switching import SOURCES, Sources, draw_targets
from scenelift.types import IGNORE, U8, Scene
from test_images_alone import images_alone

RECIPES = [name for group in METHODS for name in recipe_names(group)]
LABEL_DIM, MASK_DIM = 24, 8
TINY = (
    "train.epochs=3", "train.switch_after=1", "train.steps_per_epoch=1", "train.scenes_per_step=1",
    "train.frames_per_scene=2", "train.lr=0.01", "latent.dim=8", "latent.max_pairs=256",
)  # fmt: skip
ROOMS = (
    *TINY, "data.train_rooms=1", "data.val_rooms=1", "data.frames_per_room=4", "data.width=48",
    "data.height=36", "networks.points.voxel_m=0.3",
    f"teachers.labels.dim={LABEL_DIM}", f"teachers.masks.dim={MASK_DIM}",
)  # fmt: skip


@dataclass
class Ran:
    """A finished run of a recipe, and those of others to compare it with."""

    config: Config
    annotations: Annotations
    pair: NetworkPair | None
    evaluation: Evaluation
    log: list[dict[str, Any]]
    source: SceneSource
    other: Callable[[str], Ran]

    @property
    def networks(self) -> str:
        assert self.pair is not None
        return checkpoint.fingerprint(self.pair.networks.state_dict())

    @property
    def scene(self) -> Scene:
        """The one that is judged by."""
        return self.source.scene(self.source.names("val")[0])

    @cached_property
    def frames(self) -> U8:
        """Predicted labels of its frames."""
        predictor = Predictor(self.config, self.pair, self.annotations)
        return np.stack([prediction.labels for _, prediction in predictor.frames(self.scene)])

    @cached_property
    def points(self) -> U8:
        """Predicted labels of its points."""
        return Predictor(self.config, self.pair, self.annotations).points(self.scene).labels

    def target_dim(self) -> int:
        """Channels of what the latent features follow; 0 without."""
        assert self.pair is not None
        map_ = getattr(self.pair.networks, "target_latent", None)
        return 0 if map_ is None else int(map_.weight.shape[1])

    def batch(self) -> Batch:
        names = self.source.names("train")
        return draw_batch(SceneStore(self.source, names, self.annotations, None), self.config, 0)

    def shares(self, network: str, stage: int) -> list[dict[str, float]]:
        return [record[f"source_{network}"] for record in self.log if record["stage"] == stage]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Ran]:
    """Runs a recipe on two small rooms with simulated teachers, once."""
    root = tmp_path_factory.mktemp("recipes")
    source = open_source(load("cns", ROOMS, "synthetic").data)
    done: dict[str, Ran] = {}

    def ran(name: str) -> Ran:
        if name not in done:
            config = load(name, ROOMS, "synthetic")
            session = Session(config, RunFolder(root / name), root / "cache", opened=source)
            annotations = pipeline.annotate(session)
            pair = pipeline.train(session, annotations)
            evaluation = pipeline.evaluate(session, annotations, pair)
            log = session.folder.read_log()
            done[name] = Ran(config, annotations, pair, evaluation, log, source, ran)
        return done[name]

    return ran


# --- what a configuration asks of stage 2 --------------------------------------------------------------


class Marked:
    """Sources that say where a label comes from, instead of what it is."""

    def on_image(self, source: str) -> Tensor:
        return torch.full((4, 2, 2), SOURCES.index(source))

    def on_pairs(self, source: str) -> Tensor:
        return torch.full((8,), SOURCES.index(source))


def draws(config: Config, count: int = 80) -> tuple[Tensor, Tensor]:
    """(count, 4, 2, 2) and (count, 8): the source of every pixel and pair in that many steps of stage 2."""
    batch: Any = SimpleNamespace(
        images=torch.zeros(4), labels=torch.zeros(4, 2, 2), pair_image=torch.arange(4).repeat_interleave(2)
    )
    marked: Any = Marked()
    drawn = [draw_targets(marked, batch, config.switch, stream(config.seed, 2, i)) for i in range(count)]
    return torch.stack([d.image for d in drawn]), torch.stack([d.pairs for d in drawn])


def sources(config: Config) -> tuple[set[str], set[str]]:
    """What the 2D and what the 3D network may learn from in stage 2."""
    in_2d, in_3d = ({SOURCES[i] for i in choice.unique().tolist()} for choice in draws(config))
    return in_2d, in_3d


def refined(config: Config) -> set[str]:
    """Sources whose labels are voted on in masks: one mask over three pixels, two of one opinion."""
    three = torch.arange(3)
    batch: Any = SimpleNamespace(
        images=torch.zeros(1), labels=torch.tensor([[[0, 0, 1]]]), pair_voxel=three,
        mask_ids=torch.ones(1, 1, 3, dtype=torch.int32),
        pair_image=three * 0, pair_row=three * 0, pair_col=three,
    )  # fmt: skip
    known = Sources(batch, torch.tensor([[[2, 2, 1]]]), torch.tensor([3, 3, 1]), config.refine, 4)
    return {source for source in SOURCES if len(known.on_pairs(source).unique()) == 1}


ALL, CLIP, OWN = {*SOURCES}, {"clip"}, ({"clip", "image"}, {"clip", "points"})


def learns(ran: Ran, in_2d: set[str], in_3d: set[str], refines: set[str], latent: int) -> bool:
    """Labels from these sources, refined or not, and a latent target of this many channels.

    Stage 1 is CLIP's labels alone whatever comes after; no step of stage 2 uses another source.
    """
    allowed = {"image": in_2d, "points": in_3d}
    return (
        ran.pair is not None
        and sources(ran.config) == (in_2d, in_3d)
        and refined(ran.config) & (in_2d | in_3d | CLIP) == refines & (in_2d | in_3d | CLIP)
        and ran.target_dim() == latent
        and all((record["loss_latent"] is not None) == (latent > 0) for record in ran.log)
        and all(share["clip"] == 1 for network in allowed for share in ran.shares(network, 1))
        and all(
            sum(share[source] for source in ok) == pytest.approx(1)
            for network, ok in allowed.items()
            for share in ran.shares(network, 2)
        )
    )


def changed(ran: Ran, *others: str) -> bool:
    """Networks unlike those of these recipes."""
    return ran.networks not in {ran.other(name).networks for name in others}


def teacher_alone(ran: Ran, refines: bool) -> bool:
    known = [ran.annotations.labels(ran.scene.name, name) for name in ran.scene.frames.names]
    same = np.array_equal(ran.frames, np.stack(known))
    return ran.pair is None and ran.log == [] and same != refines


def is_openscene(ran: Ran) -> bool:
    """Both networks' embeddings come nearer to the teacher's features, and nothing else pulls at them."""
    distances = [record["loss_distill"] for record in ran.log]
    alone = all(record["loss"] == pytest.approx(record["loss_distill"]) for record in ran.log)
    return alone and distances[-1] < distances[0] and ran.target_dim() == 0


def is_fusion(ran: Ran) -> bool:
    scene = ran.scene
    fused = fused_features(ran.annotations, scene.name, len(scene.points_world)).astype(np.float32)
    want = np.where(fused.any(1), (fused @ ran.annotations.text.T).argmax(1), IGNORE)
    return teacher_alone(ran, False) and np.array_equal(ran.points, want)


def is_fusion_and_networks(ran: Ran) -> bool:
    """The networks of the distilled row; each answer is one of the two, and both occur."""
    alone, fused = ran.other("openscene"), ran.other("openscene_fusion")
    seen = fused.points != IGNORE
    one_of_both = (ran.points == alone.points) | (ran.points == fused.points)
    return (
        ran.networks == alone.networks
        and one_of_both.all()
        and np.array_equal(ran.points[~seen], alone.points[~seen])
        and not np.array_equal(ran.points, alone.points)
        and not np.array_equal(ran.frames, alone.frames)
    )


def is_post_refine(ran: Ran) -> bool:
    plain = ran.other("cns")
    return (
        ran.networks == plain.networks
        and not np.array_equal(ran.frames, plain.frames)
        and not np.array_equal(ran.evaluation.confusion_2d.counts, plain.evaluation.confusion_2d.counts)
    )


def shares(config: Config) -> list[float]:
    """How often a network draws each source, over many steps."""
    both = torch.cat([part.flatten(1)[:, 0] for part in draws(config, 400)])
    return (torch.bincount(both, minlength=3) / len(both)).tolist()


def draws_by(config: Config) -> str:
    """Within what the source is the same."""
    in_2d, _ = draws(config)
    if (in_2d == in_2d[:, :1, :1, :1]).all():
        return "step"
    return "image" if (in_2d == in_2d[:, :, :1, :1]).all() else "pixel"


def moved_map(ran: Ran) -> bool:
    """Whether the map of the latent target is another one than it was drawn as."""
    assert ran.pair is not None
    drawn = Networks(ran.config.networks, ran.config.latent, LABEL_DIM, ran.target_dim(), ran.config.seed)
    return not torch.equal(ran.pair.networks.target_latent.weight, drawn.target_latent.weight)


WHAT_TELLS_IT: dict[str, Callable[[Ran], bool]] = {
    # Table 1
    "maskclip": lambda r: teacher_alone(r, False),
    "maskclip_plus": lambda r: learns(r, {"clip", "image"}, CLIP, set(), 0),
    "openscene": is_openscene,
    "openscene_fusion": is_fusion,
    "openscene_ensemble": is_fusion_and_networks,
    "clip2scene": lambda r: learns(r, *OWN, set(), LABEL_DIM) and not moved_map(r),
    "cns": lambda r: learns(r, ALL, ALL, ALL, MASK_DIM) and draws_by(r.config) == "step" and not moved_map(r),
    "cns_balanced": lambda r: learns(r, ALL, ALL, ALL, MASK_DIM) and r.config.switch.balance == 0.75,
    # Table 2
    "wo_cns": lambda r: teacher_alone(r, True),
    "base_clip": lambda r: learns(r, CLIP, CLIP, set(), 0),
    "base_clip_lsc": lambda r: learns(r, CLIP, CLIP, set(), MASK_DIM),
    "wo_refine": lambda r: learns(r, ALL, ALL, set(), MASK_DIM),
    "post_refine": is_post_refine,
    "wo_ct": lambda r: learns(r, *OWN, ALL, MASK_DIM),
    "wo_sct": lambda r: learns(r, CLIP, CLIP, ALL, MASK_DIM),
    "wo_clip": lambda r: learns(r, {"image", "points"}, {"image", "points"}, ALL, MASK_DIM),
    "w_2d": lambda r: learns(r, {"image"}, {"image"}, ALL, MASK_DIM),
    "w_3d": lambda r: learns(r, {"points"}, {"points"}, ALL, MASK_DIM),
    "lsc_clip": lambda r: learns(r, ALL, ALL, ALL, LABEL_DIM),
    "lsc_sam_clip": lambda r: learns(r, ALL, ALL, ALL, MASK_DIM + LABEL_DIM),
    "lsc_none": lambda r: learns(r, ALL, ALL, ALL, 0),
    "images_8": lambda r: (len(r.batch().images), len(r.other("cns").batch().images)) == (1, 2),
    "images_32": lambda r: (len(r.batch().images), len(r.other("cns").batch().images)) == (4, 2),
    # readings
    "eval_labels": lambda r: learns(r, ALL, ALL, ALL, MASK_DIM) and changed(r, "cns"),
    "grey_points": lambda r: r.batch().inputs.shape[1] == 1 and changed(r, "cns"),
    "points_only_switch": lambda r: learns(r, {"clip", "points"}, {"clip", "points"}, ALL, MASK_DIM),
    "points_unrefined": lambda r: learns(r, ALL, ALL, {"clip", "image"}, MASK_DIM),
    "refine_only": lambda r: learns(r, CLIP, CLIP, ALL, 0),
    "switch_derived": lambda r: shares(r.config) == pytest.approx([0.2, 0.4, 0.4], abs=0.05),
    "switch_image": lambda r: draws_by(r.config) == "image" and changed(r, "cns", "switch_pixel"),
    "switch_pixel": lambda r: draws_by(r.config) == "pixel" and changed(r, "cns", "switch_image"),
    "target_trainable": lambda r: learns(r, ALL, ALL, ALL, MASK_DIM) and moved_map(r),
}


def test_none_is_forgotten() -> None:
    assert sorted(WHAT_TELLS_IT) == sorted(RECIPES)


@pytest.mark.parametrize("recipe", RECIPES)
def test_three_steps_and_figures(recipe: str, run: Callable[[str], Ran]) -> None:
    ran = run(recipe)
    for confusion in (ran.evaluation.confusion_2d, ran.evaluation.confusion_3d):
        assert confusion.counts.sum() > 0
        assert math.isfinite(confusion.compute().miou)
    assert len(ran.log) == (3 if pipeline.trains(ran.config) else 0)
    for record in ran.log:
        assert all(math.isfinite(value) for key, value in record.items() if key.startswith("loss") and value)
    assert WHAT_TELLS_IT[recipe](ran)


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name != "cns"])
def test_what_tells_a_recipe_is_not_true_of_the_method(recipe: str, run: Callable[[str], Ran]) -> None:
    assert not WHAT_TELLS_IT[recipe](run("cns"))


def test_the_published_shares() -> None:
    assert shares(load("cns")) == pytest.approx([0.5, 0.25, 0.25], abs=0.05)
    assert sources(load("maskclip_plus", preset="derived")) == sources(load("maskclip_plus"))
    for recipe in ("maskclip_plus", "clip2scene"):  # half and half of their own, whatever is read elsewhere
        config = load(recipe, preset="derived")
        assert shares(config)[0] == pytest.approx(0.75 if recipe == "maskclip_plus" else 0.5, abs=0.05)
    assert load("clip2scene", preset="derived").latent.target_map == "frozen"


# --- images alone --------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES)
def test_on_images_alone(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path, monkeypatch)
    bench.source = images_alone(bench.source)
    few = ("train.epochs=2", "train.scenes_per_step=2", "train.frames_per_scene=1", "pairing.depth_test=none")
    config = load(recipe, (*TINY, *few), "synthetic")
    session = Session(config, RunFolder(tmp_path / "run"), tmp_path / "cache")
    annotations = pipeline.annotate(session)
    pair = pipeline.train(session, annotations)
    evaluation = pipeline.evaluate(session, annotations, pair)
    assert math.isfinite(evaluation.confusion_2d.compute().miou)
    assert evaluation.confusion_2d.counts.sum() > 0
    assert evaluation.confusion_3d.counts.sum() == 0
    log = session.folder.read_log()
    assert len(log) == (2 if pipeline.trains(config) else 0)
    assert all(
        math.isfinite(r["loss"]) and r["loss"] > 0 and r["loss_points"] == r["pairs"] == 0 for r in log
    )


@pytest.mark.parametrize("recipe", ["maskclip", "wo_cns", "openscene_fusion", "openscene_ensemble"])
def test_an_average_of_networks_needs_networks(recipe: str) -> None:
    with pytest.raises(ConfigError, match=r"predict: ensemble averages .* set predict\.ensemble=false"):
        load(recipe, ["predict.ensemble=true"])
