"""--preset: readings of what the paper leaves open, below the recipe's own keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures_cli import Command
from fixtures_cli import scenelift as scenelift
from scenelift.options import Choices, resolve_config
from scenelift.recipes import load, load_resolved

SMALL = [
    "data.train_rooms=1",
    "data.val_rooms=1",
    "data.frames_per_room=2",
    "data.width=48",
    "data.height=36",
]


@pytest.mark.parametrize("preset", ["paper", "derived"])
def test_it_changes_keys_below_the_recipe(preset: str) -> None:
    def config(recipe: str, *overrides: str, preset: str | None = preset) -> object:
        return resolve_config(
            Choices("synthetic", recipe, overrides=overrides, device="cpu", preset=preset)
        ).model_dump(exclude={"recipe"})

    assert config("cns") == load("cns", preset=preset, data="synthetic").model_dump(exclude={"recipe"})
    assert config("cns") != config("cns", preset=None)
    resolved = load("cns", preset=preset, data="synthetic")
    assert resolved.latent.target_map == "trainable"
    assert resolved.switch.clip == {"paper": 0.5, "derived": 0.2}[preset]
    assert resolved.refine.points == (preset == "paper")
    assert load("wo_clip", preset=preset).switch.clip == 0
    assert load("wo_refine", preset=preset).refine.clip is False
    assert load("cns", ["switch.clip=0.9"], preset=preset).switch.clip == 0.9


def test_the_command_records_the_keys(scenelift: Command, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: derived\nswitch: {granularity: pixel}\n")
    sets = [word for text in SMALL for word in ("--set", text)]
    ended = scenelift("annotate", "synthetic", "--out", tmp_path / "run", "--preset", mine, *sets)
    assert ended.code == 0, ended.err
    config = load_resolved(tmp_path / "run" / "config.yaml")
    assert (config.recipe, config.switch.clip, config.switch.granularity) == ("cns", 0.2, "pixel")
    assert config.latent.target_map == "trainable"


@pytest.mark.parametrize("command", ["annotate", "train", "fit"])
def test_an_unknown_one_is_told(command: str, scenelift: Command, tmp_path: Path) -> None:
    ended = scenelift(command, "synthetic", "--out", tmp_path / "run", "--preset", "derivd")
    assert "recipe 'derivd' is not known; did you mean 'derived'?" in ended.error
    assert not (tmp_path / "run").exists()
