"""A run that was killed goes on to the very bytes of one that was not."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from kill_points import STAGES, Ended, outcome, start

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names open files as Linux does")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    with mock.patch.dict(os.environ, OMP_NUM_THREADS="1"):
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Ended]:
    """What an uninterrupted run leaves, and how many moments it has."""
    root = tmp_path_factory.mktemp("whole")
    ended = start(root)
    assert (ended.code, ended.stage) == (0, "done")
    return outcome(root), ended


def compare(found: dict[str, Any], wanted: dict[str, Any], when: Ended) -> None:
    different = [name for name in wanted if found[name] != wanted[name]]
    assert not different, f"{different} differ after a kill in {when.stage} before {when.moment}"


def test_runs_repeat(whole: tuple[dict[str, Any], Ended], tmp_path: Path) -> None:
    assert start(tmp_path).code == 0
    compare(outcome(tmp_path), whole[0], whole[1])


@pytest.mark.parametrize(
    "share", [pytest.param(0.2, marks=pytest.mark.slow), 0.77, pytest.param(0.9, marks=pytest.mark.slow)]
)
def test_killed_once(whole: tuple[dict[str, Any], Ended], tmp_path: Path, share: float) -> None:
    killed = start(tmp_path, die_at=int(share * whole[1].moments))
    assert killed.code == -9
    assert start(tmp_path).code == 0
    compare(outcome(tmp_path), whole[0], killed)


@pytest.mark.slow
def test_killed_again_and_again(whole: tuple[dict[str, Any], Ended], tmp_path: Path) -> None:
    """Every start lives a fifth of the moments; together they finish."""
    starts = 0
    while (ended := start(tmp_path, die_at=whole[1].moments // 5)).code:
        starts += 1
        assert starts < 20
    assert starts >= 3
    compare(outcome(tmp_path), whole[0], ended)


@pytest.mark.slow
def test_killed_at_every_moment(whole: tuple[dict[str, Any], Ended], tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    for number in range(whole[1].moments):
        root = tmp_path / str(number)
        root.mkdir()
        killed = start(root, die_at=number)
        assert killed.code == -9
        seen[killed.stage] += 1
        assert start(root).code == 0
        compare(outcome(root), whole[0], killed)
    print(f"killed at every moment: {dict(seen)}, all equal")
    assert set(seen) == set(STAGES)


@pytest.mark.slow
def test_killed_at_random_times(whole: tuple[dict[str, Any], Ended], tmp_path: Path) -> None:
    """30 kills from outside, at times spread over the whole run."""
    rng = random.Random(0)
    seen: Counter[str] = Counter()
    took_s, number = 1.0, 0
    while sum(seen.values()) < 30:
        root = tmp_path / str(number)
        root.mkdir()
        number += 1
        killed = start(root, after_s=rng.uniform(0, took_s))
        if killed.code == 0:  # it was faster: aim earlier
            took_s *= 0.9
            continue
        took_s *= 1.1
        seen[killed.stage] += 1
        assert start(root).code == 0
        compare(outcome(root), whole[0], killed)
    print(f"killed at random times: {dict(seen)}, all equal")
