"""Checkpoints: going on is as if nothing had happened, and a damaged file is never believed."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fixtures_scenes import annotated, tiny_config
from scenelift import checkpoint
from scenelift.batches import SceneStore, batches
from scenelift.config import Config
from scenelift.cotrain import Trainer, cotrain
from scenelift.errors import OutputError, RunError
from scenelift.files import is_temp
from scenelift.models.networks import Networks

STEPS = 4


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SceneStore:
    source, annotations = annotated(tmp_path_factory.mktemp("checkpoint"))
    return SceneStore(source, source.names("train"), annotations, "masks")


def fresh(config: Config, store: SceneStore) -> Trainer:
    networks = Networks(config.networks, config.latent, 8, store.target_dim(), config.seed)
    return Trainer(networks, config, torch.eye(4, 8), STEPS // config.train.epochs)


def advance(trainer: Trainer, store: SceneStore, until: int) -> list[dict[str, Any]]:
    records = [r.record() for r in cotrain(trainer, batches(store, trainer.config, trainer.step, until))]
    for record in records:
        assert record.pop("wait_seconds") < record.pop("seconds")
    return records


def state(trainer: Trainer) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in checkpoint.pack(trainer).items()}


def assert_same(have: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    assert have.keys() == want.keys()
    assert [key for key in want if not torch.equal(have[key], want[key])] == []


@pytest.mark.parametrize("train", [{"optimizer": "sgd"}, {"optimizer": "sgd", "momentum": 0.0}, {}])
def test_going_on_at_any_step_is_bit_equal(train: dict[str, Any], store: SceneStore, tmp_path: Path) -> None:
    config = tiny_config(train=train, switch={"granularity": "image", "balance": 0.5})
    whole, straight = fresh(config, store), []
    for step in range(STEPS):
        checkpoint.save_training(tmp_path / f"{step}.safetensors", whole, "d")
        straight += advance(whole, store, step + 1)
    assert {record["stage"] for record in straight} == {1, 2}
    for step in range(STEPS):
        resumed = fresh(config, store)
        checkpoint.load_training(tmp_path / f"{step}.safetensors", resumed, "d")
        assert resumed.step == step
        assert advance(resumed, store, STEPS) == straight[step:]
        assert_same(state(resumed), state(whole))


@pytest.fixture
def saved(store: SceneStore, tmp_path: Path) -> tuple[Path, Trainer]:
    trainer = fresh(tiny_config(), store)
    advance(trainer, store, 1)
    checkpoint.save_training(tmp_path / "last.safetensors", trainer, "digest")
    return tmp_path / "last.safetensors", trainer


def test_what_is_loaded_is_what_was_saved(saved: tuple[Path, Trainer], store: SceneStore) -> None:
    path, trainer = saved
    other = fresh(tiny_config(seed=9), store)
    checkpoint.load_training(path, other, "digest")
    assert_same(state(other), state(trainer))
    assert any(key.startswith("optimizer.") for key in state(trainer))


def test_another_digest_is_refused_and_changes_nothing(
    saved: tuple[Path, Trainer], store: SceneStore
) -> None:
    path, _ = saved
    other = fresh(tiny_config(seed=9), store)
    before = state(other)
    with pytest.raises(RunError, match="another configuration"):
        checkpoint.load_training(path, other, "other")
    assert_same(state(other), before)


def test_a_missing_file(tmp_path: Path, store: SceneStore) -> None:
    path = tmp_path / "none.safetensors"
    with pytest.raises(RunError, match=r"none\.safetensors: no such file; train first"):
        checkpoint.load_training(path, fresh(tiny_config(), store), "digest")
    with pytest.raises(RunError, match="no such file"):
        checkpoint.read_networks(path)


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_a_truncated_file(keep: int, saved: tuple[Path, Trainer], store: SceneStore) -> None:
    path, _ = saved
    path.write_bytes(path.read_bytes()[:keep])
    other = fresh(tiny_config(seed=9), store)
    before = state(other)
    with pytest.raises(RunError, match=r"is damaged") as caught:
        checkpoint.load_training(path, other, "digest")
    assert "\n" not in str(caught.value)
    assert_same(state(other), before)


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "networks.safetensors"
    checkpoint.save_networks(path, nn.Linear(3, 2), torch.eye(2, 3), {"digest": "abc", "n": [1, 2]})
    return path


@given(data=st.data())
@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_flipped_bit_goes_unseen(data: st.DataObject, small_file: Path, tmp_path: Path) -> None:
    """Wherever it is: in the tensors, in their names, in the facts beside them."""
    content = bytearray(small_file.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    (tmp_path / "flipped.safetensors").write_bytes(content)
    try:
        read = checkpoint.read_networks(tmp_path / "flipped.safetensors")
    except RunError:
        return
    # JSON has bits that mean nothing: an escape's case or white space; then all that was read is right
    assert read[2] == {"digest": "abc", "n": [1, 2]}
    want_state, want_text, _ = checkpoint.read_networks(small_file)
    assert_same({**read[0], "text": read[1]}, {**want_state, "text": want_text})


@pytest.mark.parametrize("fact", [{"step": 2}, {"digest": "other"}])
def test_a_header_that_was_changed_is_not_believed(
    fact: dict[str, Any], saved: tuple[Path, Trainer], store: SceneStore
) -> None:
    path, _ = saved
    rewrite(path, fact)
    with pytest.raises(RunError, match="checksum differs"):
        checkpoint.load_training(path, fresh(tiny_config(), store), fact.get("digest", "digest"))


def rewrite(path: Path, changes: dict[str, Any]) -> None:
    with safetensors.safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["scenelift"])
    save_file(load_file(path), path, metadata={"scenelift": json.dumps({**header, **changes})})


def test_another_version_is_refused(saved: tuple[Path, Trainer], store: SceneStore) -> None:
    path, _ = saved
    rewrite(path, {"format": 99})
    with pytest.raises(RunError, match=r"expected training of format 1, found training of format 99"):
        checkpoint.load_training(path, fresh(tiny_config(), store), "digest")


def test_files_of_other_kinds_are_refused(saved: tuple[Path, Trainer], tmp_path: Path) -> None:
    path, _ = saved
    with pytest.raises(RunError, match="expected networks of format 1, found training"):
        checkpoint.read_networks(path)
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(RunError, match="is damaged"):
        checkpoint.read_networks(tmp_path / "foreign.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "odd.safetensors", metadata={"scenelift": "[1]"})
    with pytest.raises(RunError, match="is damaged"):
        checkpoint.read_networks(tmp_path / "odd.safetensors")


def test_networks_of_another_shape_are_refused(saved: tuple[Path, Trainer], store: SceneStore) -> None:
    path, _ = saved
    other = fresh(tiny_config(latent={"dim": 4}), store)
    with pytest.raises(RunError, match=r"last\.safetensors does not fit these networks") as caught:
        checkpoint.load_training(path, other, "digest")
    assert "\n" not in str(caught.value)


def test_a_kill_while_writing_leaves_the_old_file(
    saved: tuple[Path, Trainer], store: SceneStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, trainer = saved
    before = path.read_bytes()
    advance(trainer, store, 2)
    for error, expected in ((KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, "full"), OutputError)):

        def die(source: object, target: object, error: BaseException = error) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", die)
            with pytest.raises(expected):
                checkpoint.save_training(path, trainer, "digest")
        assert path.read_bytes() == before
        assert not [item for item in path.parent.iterdir() if is_temp(item)]
    checkpoint.save_training(path, trainer, "digest")


def test_networks_come_back_with_their_facts(store: SceneStore, tmp_path: Path) -> None:
    networks = fresh(tiny_config(), store).networks
    text = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32))
    about = {"classes": ["a", "ü"], "nested": {"x": [1, 2.5, None]}}
    checkpoint.save_networks(tmp_path / "deep" / "n.safetensors", networks, text, about)
    read, read_text, read_about = checkpoint.read_networks(tmp_path / "deep" / "n.safetensors")
    assert_same(read, networks.state_dict())
    assert torch.equal(read_text, text)
    assert read_about == about


# --- last and previous ---------------------------------------------------------------------------------


@pytest.fixture
def kept(store: SceneStore, tmp_path: Path) -> tuple[Path, dict[int, dict[str, Tensor]]]:
    """Checkpoints of steps 1 and 2, and what they hold."""
    trainer, path, states = fresh(tiny_config(), store), tmp_path / "last.safetensors", {}
    for step in (1, 2):
        advance(trainer, store, step)
        checkpoint.save_training(path, trainer, "digest")
        states[step] = state(trainer)
    return path, states


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 4
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def age(path: Path) -> None:
    rewrite(path, {"format": 99})


FAULTS = {flip: "is damaged", cut: "is damaged", age: "found training of format 99"}


def restored(path: Path, store: SceneStore) -> tuple[Path | None, dict[str, Tensor]]:
    trainer = fresh(tiny_config(seed=9), store)
    return checkpoint.restore_training(path, trainer, "digest"), state(trainer)


def test_the_last_one_is_taken(kept: tuple[Path, dict[int, dict[str, Tensor]]], store: SceneStore) -> None:
    path, states = kept
    found, have = restored(path, store)
    assert found == path
    assert_same(have, states[2])
    assert {item.name for item in path.parent.iterdir()} == {"last.safetensors", "previous.safetensors"}


@pytest.mark.parametrize("fault", FAULTS)
def test_of_a_faulty_last_one_the_previous_is_taken(
    fault: Any,
    kept: tuple[Path, dict[int, dict[str, Tensor]]],
    store: SceneStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path, states = kept
    fault(path)
    found, have = restored(path, store)
    assert found == checkpoint.previous_of(path)
    assert_same(have, states[1])
    (told,) = caplog.messages
    assert FAULTS[fault] in told
    assert told.endswith("going on from previous.safetensors, step 1")


def test_a_lost_last_one(kept: tuple[Path, dict[int, dict[str, Tensor]]], store: SceneStore) -> None:
    path, states = kept
    path.unlink()
    assert_same(restored(path, store)[1], states[1])


@pytest.mark.parametrize("fault", FAULTS)
def test_two_faulty_ones_are_told(
    fault: Any, kept: tuple[Path, dict[int, dict[str, Tensor]]], store: SceneStore
) -> None:
    path, _ = kept
    flip(checkpoint.previous_of(path))
    fault(path)
    with pytest.raises(RunError, match=r"last\.safetensors and previous\.safetensors.*delete both") as caught:
        restored(path, store)
    assert FAULTS[fault] in str(caught.value)
    assert "\n" not in str(caught.value)
    checkpoint.previous_of(path).unlink()
    with pytest.raises(RunError, match=r"last\.safetensors.*delete it to train from the start"):
        restored(path, store)


def test_none_of_this_configuration(
    kept: tuple[Path, dict[int, dict[str, Tensor]]], store: SceneStore
) -> None:
    path, _ = kept
    assert checkpoint.restore_training(path, fresh(tiny_config(), store), "other") is None
    assert checkpoint.restore_training(path.parent / "no" / "last", fresh(tiny_config(), store), "x") is None


@pytest.mark.parametrize("at", [1, 2])
def test_a_kill_between_the_renames_loses_nothing(
    at: int,
    kept: tuple[Path, dict[int, dict[str, Tensor]]],
    store: SceneStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first makes the last one the previous, the second the new one the last."""
    path, states = kept
    trainer = fresh(tiny_config(), store)
    checkpoint.load_training(path, trainer, "digest")
    advance(trainer, store, 3)
    real, seen = os.replace, 0

    def die(source: Any, target: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == at:
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save_training(path, trainer, "digest")
    found, have = restored(path, store)
    assert found == path
    assert_same(have, states[2])
    assert checkpoint._read(checkpoint.previous_of(path), "training")[1]["step"] == at


def test_without_hard_links_it_is_copied(
    kept: tuple[Path, dict[int, dict[str, Tensor]]], store: SceneStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(1, "no such thing here")

    path, states = kept
    trainer = fresh(tiny_config(), store)
    checkpoint.load_training(path, trainer, "digest")
    advance(trainer, store, 3)
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    checkpoint.save_training(path, trainer, "digest")
    path.unlink()
    assert_same(restored(path, store)[1], states[2])


def test_a_disk_that_takes_no_more_is_one_line(tmp_path: Path) -> None:
    """safetensors tells of the system's errors in a kind of its own."""
    path = tmp_path / "networks.safetensors"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(OutputError, match=r"file larger than the system allows: needs [\d,]+ bytes"):
            checkpoint.save_networks(path, nn.Linear(1024, 1024), torch.eye(4, 8), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
