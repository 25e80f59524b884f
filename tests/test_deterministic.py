"""`--deterministic`: the same bytes each time, and on one CPU thread the same as without it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from fixtures_bench import Bench
from fixtures_cli import Command
from scenelift import pipeline
from scenelift.config import ImageNetworkConfig
from scenelift.device import repeat_exactly
from scenelift.errors import DataError
from scenelift.losses import image_cross_entropy
from scenelift.models.image import build_image_network
from scenelift.types import IGNORE

EVERY_LOSS = {
    "latent": {"target": "masks+labels", "group_m": 0.5, "target_map": "trainable"},
    "distill": {"weight": 0.5},
    "switch": {"granularity": "pixel", "predictions": "eval"},
    "train": {"epochs": 2, "clip_norm": 1.0},
}


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


# two threads where others use the cores mostly wait for each other
@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_two_runs_are_equal_to_the_byte(bench: Bench, threads: int) -> None:
    torch.set_num_threads(threads)
    repeat_exactly()
    first, second = (bench.train(name, f"cache of {name}") for name in ("a", "b"))
    assert first.networks.read_bytes() == second.networks.read_bytes()
    assert first.checkpoint.read_bytes() == second.checkpoint.read_bytes()


def test_it_changes_nothing_on_one_thread_of_a_cpu(bench: Bench) -> None:
    torch.set_num_threads(1)
    plain = bench.train("plain", **EVERY_LOSS)
    repeat_exactly()
    exact = bench.train("exact", "another cache", **EVERY_LOSS)  # every loss and switch can be done so
    assert exact.networks.read_bytes() == plain.networks.read_bytes()


@pytest.mark.parametrize(
    "name", ["deeplabv3_mobilenet_v3_large", pytest.param("deeplabv3_resnet50", marks=pytest.mark.slow)]
)
def test_the_published_networks_can_be_trained_so(name: str) -> None:
    repeat_exactly()
    torch.manual_seed(0)
    network = build_image_network(ImageNetworkConfig.model_validate({"name": name, "weights": "none"}))
    network.train()
    images = torch.rand(2, 3, 32, 32)

    def gradients() -> list[torch.Tensor]:
        network.zero_grad(set_to_none=True)
        torch.manual_seed(1)  # dropout
        F.interpolate(network(images), size=(32, 32), mode="bilinear").square().sum().backward()
        return [p.grad.clone() for p in network.parameters() if p.grad is not None]

    for one, other in zip(gradients(), gradients(), strict=True):
        assert torch.equal(one, other)


def test_the_loss_that_other_devices_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """Summed outside the kernel; the meta device stands for all that are no CPU."""
    reductions: list[str] = []
    real = F.cross_entropy

    def recorded(*args: object, reduction: str, **keys: object) -> torch.Tensor:
        reductions.append(reduction)
        return real(*args, reduction=reduction, **keys)  # type: ignore[arg-type]

    monkeypatch.setattr(F, "cross_entropy", recorded)
    logits, labels = torch.randn(2, 4, 5, 6), torch.randint(0, 4, (2, 5, 6))
    labels[0, :2] = IGNORE
    for exactly in (False, True):
        torch.use_deterministic_algorithms(exactly)
        image_cross_entropy(logits, labels)
        image_cross_entropy(logits.to("meta"), labels.to("meta"))
    assert reductions == ["sum", "sum", "sum", "none"]
    whole = real(logits, labels, ignore_index=IGNORE, reduction="sum")
    each = real(logits, labels, ignore_index=IGNORE, reduction="none")
    torch.testing.assert_close(each.sum(), whole)


class TestOption:
    COMMANDS = (
        ("train", "synthetic", "--out", "OUT"),
        ("fit", "synthetic", "--out", "OUT"),
        ("evaluate", "OUT"),
        ("demo", "--size", "no such size"),
    )

    @pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
    @pytest.mark.parametrize("asked", [True, False])
    def test_is_heard(
        self,
        scenelift: Command,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        command: tuple[str, ...],
        asked: bool,
    ) -> None:
        def stop(session: object) -> None:
            raise DataError("that is all")

        monkeypatch.setattr(pipeline, "check", stop)
        monkeypatch.setattr(pipeline, "fit", lambda session, command: stop(session))
        words = [str(tmp_path / "out") if word == "OUT" else word for word in command]
        assert scenelift(*words, *(["--deterministic"] if asked else [])).code == 2
        assert torch.are_deterministic_algorithms_enabled() is asked
        assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == (":4096:8" if asked else None)

    def test_what_cannot_be_done_is_one_line(
        self,
        scenelift: Command,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def refuse(session: object) -> None:
            raise RuntimeError(
                "some_cuda_op does not have a deterministic implementation, but you set "
                "'torch.use_deterministic_algorithms(True)'.\nMore of it."
            )

        monkeypatch.setattr(pipeline, "check", refuse)
        ended = scenelift("train", "synthetic", "--out", tmp_path / "out", "--deterministic")
        assert re.fullmatch(r"error: --deterministic: some_cuda_op .*; leave it out", ended.error)

    def test_other_errors_stay_as_they_are(
        self,
        scenelift: Command,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def fail(session: object) -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(pipeline, "check", fail)
        with pytest.raises(RuntimeError, match="a bug"):
            scenelift("train", "synthetic", "--out", tmp_path / "out")
