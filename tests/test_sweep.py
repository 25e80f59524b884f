"""Sweeps: what is run, what is shared, and what the curves are said to mean."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fixtures_cli import Command, scenelift
from report_samples import Page
from scenelift import recipes
from scenelift.config import Config, SimulatedLabels, SimulatedMasks
from scenelift.errors import ConfigError
from scenelift.evaluate import Evaluation
from scenelift.files import read_json
from scenelift.metrics import Confusion
from scenelift.runs import Outcome, Run
from scenelift.sweep import Key, Plan, folder_name, make_plan, parse_key
from scenelift.sweep_results import (
    LEVEL,
    Results,
    axis_of,
    contrasts,
    sentences,
    sign,
    to_html,
    to_json,
    to_markdown,
    write_sweep,
)

__all__ = ["scenelift"]  # the fixture


def configure(recipe: str, overrides: Sequence[str]) -> Config:
    return recipes.load(recipe, overrides, "synthetic_small")


def plan_of(keys: str, names: str = "base_clip,wo_sct,cns", seeds: Sequence[int] = (0, 1, 2)) -> Plan:
    wanted = [parse_key(key) for key in keys.split()]
    return make_plan(wanted, names.split(","), seeds, Path("out"), configure)


# --- what is run -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("switch.clip=0.2,0.5", (0.2, 0.5)),
        ("switch.granularity=step, image", ("step", "image")),
        ("data.image_size=[120, 160],null", ([120, 160], None)),
        ("refine.points=true,false", (True, False)),
    ],
)
def test_values_are_yaml(text: str, values: tuple[Any, ...]) -> None:
    assert parse_key(text) == Key(text.partition("=")[0], values)


@pytest.mark.parametrize("text", ["switch.clip", "=1,2", "noise=", "noise=[1,2", "seed=0,1"])
def test_no_key_with_values(text: str) -> None:
    with pytest.raises(ConfigError, match="sweep "):
        parse_key(text)


def test_every_value_reaches_the_configuration() -> None:
    plan = plan_of("train.epochs=3,5 noise=0,2", "cns", (4,))
    found = {run.folder.path: run for run in plan.runs}
    epochs = {n: found[Path(f"out/train.epochs={n}/seed4/cns")].config for n in (3, 5)}
    assert {n: config.train.epochs for n, config in epochs.items()} == {3: 3, 5: 5}
    assert all(config.seed == 4 for config in epochs.values())
    loud = found[Path("out/noise=2/seed4/cns")].config
    assert isinstance(loud.teachers.labels, SimulatedLabels)
    assert isinstance(loud.teachers.masks, SimulatedMasks)
    assert loud.teachers.labels.token_noise == 2 * SimulatedLabels().token_noise
    assert loud.teachers.masks.merge == 2 * SimulatedMasks().merge
    assert loud.train == configure("cns", ()).train  # the other key is at rest


def test_equal_runs_are_done_once() -> None:
    plan = plan_of("switch.clip=0.2,0.5,0.8", "base_clip,wo_sct,cns")
    runs = [(run.recipe, run.seed) for run in plan.runs]
    assert sorted(runs) == sorted(
        [("maskclip", 0), ("wo_cns", 0)]  # neither the seed nor the switch is anything to them
        + [(recipe, seed) for recipe in ("base_clip", "wo_sct") for seed in range(3)]
        + [("cns", seed) for seed in range(3)] * 3
    )
    assert set(plan.kept["switch.clip"]) == {"base_clip", "wo_sct"}
    assert plan.runs[0].config.switch == configure("maskclip", ["switch.clip=0.2"]).switch
    again = plan_of("noise=0,1 switch.clip=0.5", "cns", (0,))  # 1 and 0.5 are the values at rest
    assert [run.folder.path.parts[1] for run in again.runs if run.recipe == "cns"] == ["noise=0", "noise=1"]
    noisy = plan_of("noise=0,1", "cns", (0, 1))
    assert len([run for run in noisy.runs if run.recipe == "maskclip"]) == 2  # what they see changes


def test_a_recipe_keeps_the_key_it_sets() -> None:
    plan = plan_of("latent.weight=0.5,1,2", "base_clip,cns", (0,))
    weights = {place.value: place.runs["base_clip", 0].config.latent.weight for place in plan.places}
    assert weights == {0.5: 0.0, 1.0: 0.0, 2.0: 0.0}
    assert [place.runs["cns", 0].config.latent.weight for place in plan.places] == [0.5, 1.0, 2.0]
    with pytest.raises(ConfigError, match=r"every recipe sets it itself \(base_clip\)"):
        plan_of("latent.weight=0.5,1", "base_clip")


@pytest.mark.parametrize(
    ("keys", "names", "message"),
    [
        ("switch.clipp=1,2", "cns", r"unknown key switch\.clipp; did you mean 'clip'"),
        ("switch.clip=-1", "cns", r"switch\.clip: .* found -1"),
        ("switch=1", "cns", "switch"),
        ("noise.tokn=1", "cns", "did you mean 'noise.token'"),
        ("noise=much", "cns", "expected a factor such as 0.5, found 'much'"),
        ("switch.clip=0.5,0.50", "cns", r"found switch\.clip=0\.5 twice"),
        ("noise=1 noise=2", "cns", "one twice"),
        ("noise=1", "cns,cns", "one twice"),
        ("noise=1", "maskclip,wo_cns", "at least one recipe that is trained"),
        ("noise=1", "cns,wo_ct,wo_sct,wo_clip,w_2d,w_3d,wo_refine", "at most 6 that are trained, found 7"),
        ("noise=1", "cnss", "did you mean 'cns'"),
    ],
)
def test_wrong_sweeps_are_told_before_anything_runs(keys: str, names: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_of(keys, names)


def test_noise_needs_simulated_teachers() -> None:
    with pytest.raises(ConfigError, match="simulated teacher of labels, found clip"):
        make_plan([Key("noise", (1,))], ["cns"], (0,), Path("out"), recipes.load)


def test_folders_have_safe_names() -> None:
    assert folder_name("switch.granularity", "pixel") == "switch.granularity=pixel"
    assert folder_name("noise", 0.5) == "noise=0.5"
    odd = {folder_name("classes", value) for value in (["a/b"], ["a b"], "../..")}
    assert len(odd) == 3
    assert all("/" not in name and not name.startswith(".") for name in odd)


# --- what comes out ----------------------------------------------------------------------------------


def confusion(miou: float | None) -> Confusion:
    """Of two classes of 1000 samples each, or of none; wrong ones have no prediction."""
    counts = np.zeros((2, 3), np.int64)
    if miou is not None:
        hits = round(1000 * miou)
        counts[[0, 1], [0, 1]] = hits
        counts[:, 2] = 1000 - hits
    return Confusion.from_counts(counts)


def results_of(plan: Plan, miou: Any, *, points: bool = True) -> Results:
    """``miou(recipe, value, seed)`` on images, and half of it on points; ``None`` = not finished yet."""
    outcomes: dict[Path, Outcome] = {}
    for place in plan.places:
        for (recipe, seed), run in place.runs.items():
            value = miou(recipe, place.value, seed)
            if value is not None and run.folder.path not in outcomes:
                on_points = confusion(value / 2 if points else None)
                evaluation = Evaluation(confusion(value), on_points, 0.0)
                outcomes[run.folder.path] = outcome_of(run, evaluation)
    return Results(plan, outcomes, "scenelift sweep <again>", "made-up rooms")


def outcome_of(run: Run, evaluation: Evaluation) -> Outcome:
    return Outcome(run, evaluation, 1.0, None, [])


TABLE = {"maskclip": 0.10, "wo_cns": 0.20, "base_clip": 0.22, "wo_sct": 0.30, "cns": 0.30}


def noisy(recipe: str, value: float, seed: int) -> float:
    """cns gains at 0.5 and loses at 2; wo_sct falls below the refined teacher at 2."""
    gain = {("cns", 0.5): 0.05, ("cns", 2.0): -0.15, ("wo_sct", 2.0): -0.12}.get((recipe, value), 0.0)
    trained = recipe not in ("maskclip", "wo_cns")
    return (
        TABLE[recipe] + gain + (0.001 * seed if trained else 0.0) + (0.002 if seed == 1 and trained else 0.0)
    )


def test_pairs_that_differ_in_one_thing_are_found() -> None:
    plan = plan_of("noise=1", "base_clip,refine_only,wo_sct,cns,wo_refine,lsc_none", (0,))
    found = {(one.topic.split()[0], one.having, one.lacking) for one in contrasts(plan)}
    assert found == {
        ("Label", "cns", "wo_sct"),
        ("Label", "lsc_none", "refine_only"),
        ("Refinement", "refine_only", "base_clip"),
        ("Refinement", "cns", "wo_refine"),
        ("Latent", "wo_sct", "refine_only"),
        ("Latent", "cns", "lsc_none"),
        *[("Training", name, "wo_cns") for name in ("refine_only", "wo_sct", "cns", "lsc_none")],
        *[("Training", name, "maskclip") for name in ("base_clip", "wo_refine")],
    }


def test_sentences_say_what_the_numbers_say() -> None:
    told = sentences(results_of(plan_of("noise=0.5,1,2"), noisy), "noise")
    by_start = {sentence.partition(": ")[0]: sentence.partition(": ")[2] for sentence in told}
    assert by_start["Label switching, 2D (cns − wo_sct)"] == (
        "+5.0 ± 0.0 at 0.5, +0.0 ± 0.0 at 1, −3.0 ± 0.0 at 2. Helps at 0.5; hurts at 2; open at 1."
    )
    beyond = by_start["Training beyond the teacher, 2D (wo_sct − wo_cns)"]
    assert "Helps at 0.5, 1; ends below it at 2." in beyond
    assert "−1.8 ± 0.2 at 2" in beyond
    assert not any("wo_sct − base_clip" in sentence for sentence in told)  # they differ in two things


def test_one_seed_gives_no_verdict() -> None:
    told = sentences(results_of(plan_of("noise=1", seeds=(0,)), noisy), "noise")
    assert told
    assert all(sentence.endswith("One seed, no verdict at 1.") for sentence in told)
    assert not any("±" in sentence for sentence in told)


@given(st.lists(st.floats(-1, 1).map(lambda x: round(x, 3)), min_size=2, max_size=6))
def test_sign_against_a_t_test(paired: list[float]) -> None:
    if len(set(paired)) == 1:
        assert sign(paired) in (0, math.copysign(1, paired[0]))
        return
    found = stats.ttest_1samp(paired, 0.0)
    if abs(found.pvalue - (1 - LEVEL)) > 1e-6:
        assert sign(paired) == (int(np.sign(found.statistic)) if found.pvalue < 1 - LEVEL else 0)


def test_axes() -> None:
    def axis(key: str, names: str = "cns") -> list[tuple[float, str]]:
        places, found = axis_of(plan_of(key, names, (0,)).places)
        assert found.name == key.partition("=")[0]
        assert len(places) == len(found.ticks)
        return list(found.ticks)

    assert axis("noise=2,0,0.5") == [(0.0, "0"), (0.5, "0.5"), (2.0, "2")]
    assert axis("switch.granularity=step,image,pixel") == [(0.0, "step"), (1.0, "image"), (2.0, "pixel")]
    assert axis("refine.points=true,false") == [(0.0, "true"), (1.0, "false")]
    assert axis("train.lr=0.1,0.001") == [(-3.0, "0.001"), (-1.0, "0.1")]
    assert axis("train.clip_norm=null,5") == [(0.0, "null"), (1.0, "5")]


def test_the_page_draws_every_key_and_network() -> None:
    results = results_of(plan_of("noise=0.5,1,2 switch.clip=0.3,0.7"), lambda r, v, s: noisy(r, v, s))
    html = to_html(results)
    page = Page(html)
    assert page.count("svg") == 4  # two keys, two networks
    assert page.count("polyline") == 4 * 5
    assert sum("broken" in str(have["class"]) for have in page.find("polyline")) == 4 * 2
    assert "base_clip, wo_sct set switch.clip themselves and keep it" in page.words
    assert "scenelift sweep <again>" in page.words
    assert "http" not in html.replace("http-equiv", "")
    for sentence in sentences(results, "noise"):
        assert sentence in page.words


def test_images_alone_have_one_panel() -> None:
    results = results_of(plan_of("noise=1,2"), noisy, points=False)
    assert Page(to_html(results)).count("svg") == 1
    assert "3D" not in to_markdown(results)


def test_half_a_sweep_is_shown_as_far_as_it_is(tmp_path: Path) -> None:
    plan = plan_of("noise=0,1,2")
    some = results_of(plan, lambda r, v, s: noisy(r, v, s) if v < 1.5 and (r, s) != ("cns", 2) else None)
    write_sweep(tmp_path, some)
    tree = read_json(tmp_path / "sweep.json")
    assert (tree["schema"], tree["finished"], tree["runs"]) == (1, 2 * (2 + 8), 3 * (2 + 9))
    assert "20 of 33 runs are finished so far" in Page((tmp_path / "sweep.html").read_text()).words
    rows = {row["recipe"]: row for row in tree["keys"][0]["recipes"]}
    assert tree["keys"][0]["values"] == [0.0, 1.0, 2.0]
    assert [len([x for x in at if x is not None]) for at in rows["cns"]["miou_2d"]] == [2, 2, 0]
    assert rows["wo_sct"]["miou_2d"][0] == [pytest.approx(noisy("wo_sct", 0, s), abs=1e-3) for s in range(3)]
    assert rows["maskclip"]["trained"] is False
    markdown = (tmp_path / "sweep.md").read_text()
    assert "| cns | 30.1 ± 0.2 | 30.1 ± 0.2 | – |" in markdown
    assert "| wo_cns | 20.0 | 20.0 | – |" in markdown  # one run for all seeds spreads nowhere
    nothing = Results(plan, {}, "again", "rooms")
    assert "No run is finished yet" in to_html(nothing)
    json.dumps(to_json(nothing), allow_nan=False)


# --- the command -------------------------------------------------------------------------------------

SMALL = [
    "data.train_rooms=2", "data.val_rooms=1", "data.width=48", "data.height=36", "data.frames_per_room=2",
    "train.epochs=2", "train.switch_after=1", "train.steps_per_epoch=1", "train.scenes_per_step=1",
    "train.frames_per_scene=2", "latent.dim=8", "networks.points.voxel_m=0.4",
]  # fmt: skip


def test_the_command_from_end_to_end(scenelift: Command, tmp_path: Path) -> None:
    keys = [part for key in SMALL for part in ("--set", key)]
    out = tmp_path / "out"
    ask = ["sweep", "noise=0,2", "--recipes", "cns", "--seeds", 1, "--data-recipe", "synthetic_small"]
    first = scenelift(*ask, *keys, "--out", out)
    assert first.code == 0, first.err
    assert (out / "noise=2" / "seed0" / "cns" / "networks.safetensors").is_file()
    tree = read_json(out / "sweep.json")
    rows = {row["recipe"]: row["miou_2d"] for row in tree["keys"][0]["recipes"]}
    assert (tree["finished"], tree["runs"]) == (6, 6)
    assert all(value is not None for row in rows.values() for at in row for value in at)
    assert rows["wo_cns"][0][0] > rows["wo_cns"][1][0] + 0.1  # a teacher without errors is the better one
    log = out / "noise=2" / "seed0" / "cns" / "log.jsonl"
    before = log.stat().st_mtime_ns
    again = scenelift(*ask, *keys, "--out", out)
    assert again.code == 0, again.err
    assert log.stat().st_mtime_ns == before  # nothing is trained twice
    assert read_json(out / "sweep.json") == tree


def test_the_command_refuses_what_cannot_be_swept(scenelift: Command, tmp_path: Path) -> None:
    out = tmp_path / "out"
    told = scenelift("sweep", "noise.tokenn=1,2", "--out", out).error
    assert "did you mean 'noise.token'" in told
    assert (
        "teacher"
        in scenelift("sweep", "noise=1", "--set", "teachers.masks.kind=embedded", "--out", out).error
    )
    assert not out.exists()
