"""Recipes: shipped ones, own files, overrides; and a core that never asks which one it runs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

import scenelift
from scenelift import recipes
from scenelift.config import CaptureData, Config, EmbeddedLabels, SamMasks, SimulatedLabels, SyntheticData
from scenelift.errors import ConfigError
from scenelift.recipes import build, load, load_resolved, merge, recipe_names

PACKAGE = Path(scenelift.__file__).parent
METHODS = [name for group in recipes.METHODS for name in recipe_names(group)]
TELLERS = {
    *("compare.py", "runs.py", "summary.py", "pipeline.py", "report", "recipes"),
    *("tables", "sweep.py", "sweep_results.py", "cli.py", "cli_annotate.py", "cli_data.py", "cli_plan.py"),
    *(
        "cli_doctor.py",
        "cli_options.py",
        "cli_results.py",
        "opened.py",
        "reporting.py",
        "saved.py",
        "side_by_side.py",
    ),
}
"""What chooses recipes or names them in results."""
ATTENTION = {"config_teachers.py", "clip_dense.py", "clip.py"}
"""Where ``"maskclip"`` is a kind of attention, as it is called in print, and no recipe."""


class TestShipped:
    def test_names(self) -> None:
        assert {"maskclip", "cns"} <= set(recipe_names("methods"))
        assert {"wo_cns", "base_clip", "wo_sct"} <= set(recipe_names("ablations"))
        assert {"synthetic", "synthetic_small", "capture", "capture_cpu"} <= set(recipe_names("data"))
        assert recipe_names("nothing") == []

    @pytest.mark.parametrize("data", [None, *recipe_names("data")])
    @pytest.mark.parametrize("recipe", METHODS)
    def test_every_one_loads(self, recipe: str, data: str | None) -> None:
        config = load(recipe, data=data)
        assert config.recipe == recipe
        assert build(yaml.safe_load(config.to_yaml())) == config

    @pytest.mark.parametrize("recipe", METHODS)
    def test_every_one_is_another_run(self, recipe: str) -> None:
        assert [other for other in METHODS if load(other).digest() == load(recipe).digest()] == [recipe]

    @pytest.mark.parametrize("name", recipe_names("ablations"))
    def test_an_ablation_is_a_few_keys(self, name: str) -> None:
        lines = (PACKAGE / "recipes" / "ablations" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 5

    def test_cns_is_the_default(self) -> None:
        assert load("cns").digest() == Config().digest()

    def test_what_the_rows_mean(self) -> None:
        for name in ("maskclip", "wo_cns"):
            assert load(name).predict.source == "teacher"
        assert (load("maskclip").refine.clip, load("wo_cns").refine.clip) == (False, True)
        for name in ("base_clip", "wo_sct"):
            assert (load(name).switch.clip, load(name).switch.image, load(name).switch.points) == (1, 0, 0)
        assert (load("base_clip").latent.weight, load("base_clip").refine.clip) == (0, False)
        assert (load("wo_sct").latent.weight, load("wo_sct").refine.clip) == (1, True)

    def test_data_comes_before_the_method(self) -> None:
        assert load("wo_cns", data="synthetic").networks.image.name == "small"
        assert load("maskclip", data="synthetic").refine.clip is False

    def test_extends(self) -> None:
        small, whole = load("cns", data="synthetic_small"), load("cns", data="synthetic")
        assert isinstance(small.data, SyntheticData)
        assert small.data.train_rooms == 16
        assert small.networks == whole.networks


class TestOrder:
    def test_options_come_after_the_recipe_and_overrides_last(self) -> None:
        options = {"train": {"epochs": 3, "lr": 0.5}}
        config = load("maskclip", ["train.epochs=4"], options=options)
        assert (config.train.epochs, config.train.lr) == (4, 0.5)
        assert options == {"train": {"epochs": 3, "lr": 0.5}}

    def test_later_overrides_win(self) -> None:
        assert load("cns", ["train.epochs=4", " train.epochs =5"]).train.epochs == 5

    def test_nodes_may_be_given_whole(self) -> None:
        config = load("cns", ["switch={clip: 1, image: 0, points: 0}", "classes=[wall, floor]"])
        assert (config.switch.clip, config.classes) == (1, ("wall", "floor"))


class TestVariants:
    def test_another_variant_replaces_the_node(self) -> None:
        config = load("cns", ["data.train_rooms=7", "data.source=capture", "data.path=here"])
        assert config.data == CaptureData(path="here")
        config = load("cns", ["teachers.labels.kind=embedded"], data="synthetic")
        assert config.teachers.labels == EmbeddedLabels()

    def test_the_same_variant_is_merged(self) -> None:
        config = load("cns", ["data.train_rooms=7", "data.source=synthetic", "data.val_rooms=3"])
        assert config.data == SyntheticData(train_rooms=7, val_rooms=3)
        sets = ["teachers.labels.dim=9", "teachers.labels.kind=simulated"]
        assert load("cns", sets, data="synthetic").teachers.labels == SimulatedLabels(dim=9)
        config = load("cns", ["teachers.masks.weights=here", "teachers.masks.kind=sam"], data="capture_cpu")
        assert config.teachers.masks == SamMasks(weights="here", points_per_side=16)

    def test_a_key_that_only_looks_like_a_variants_replaces_nothing(self) -> None:
        config = load("cns", ["predict.post_refine=true", "predict.source=teacher"])
        assert config.predict.post_refine
        assert config.predict.source == "teacher"

    def test_a_base_without_the_tag_keeps_its_keys(self) -> None:
        base = {"data": {"train_rooms": 7}}
        merge(base, {"data": {"source": "synthetic", "width": 64}})
        assert base == {"data": {"train_rooms": 7, "source": "synthetic", "width": 64}}

    def test_keys_of_the_other_variant(self) -> None:
        with pytest.raises(
            ConfigError, match=r"unknown key data.path; valid here: source, seed, train_rooms"
        ):
            load("cns", ["data.path=here"])
        with pytest.raises(ConfigError, match=r"data.path: field required"):
            load("cns", ["data.source=capture"])

    def test_merging_copies(self) -> None:
        base: dict[str, object] = {}
        extra = {"train": {"epochs": 1}}
        merge(base, extra)
        merge(base, {"train": {"epochs": 2}})
        assert extra == {"train": {"epochs": 1}}


class TestOwnFiles:
    def test_a_file_of_overrides(self, tmp_path: Path) -> None:
        (tmp_path / "mine.yaml").write_text("extends: wo_sct\ntrain: {epochs: 3}\n")
        config = load(tmp_path / "mine.yaml")
        assert (config.recipe, config.train.epochs, config.switch.clip) == ("mine", 3, 1.0)
        assert load(str(tmp_path / "mine.yaml")) == config

    def test_a_chain_of_files(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text("train: {epochs: 3, lr: 0.5}")
        (tmp_path / "b.yaml").write_text(f"extends: {tmp_path / 'a.yaml'}\ntrain: {{epochs: 4}}")
        config = load("cns", data=tmp_path / "b.yaml")
        assert (config.train.epochs, config.train.lr) == (4, 0.5)

    def test_an_empty_file_changes_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "mine.yaml").write_text("# nothing\n")
        assert load(tmp_path / "mine.yaml").digest() == Config().digest()

    def test_a_saved_configuration(self, tmp_path: Path) -> None:
        config = load("wo_cns", ["seed=4"], "capture_cpu")
        (tmp_path / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
        assert load_resolved(tmp_path / "config.yaml") == config

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("train: {epochs: 1", "cannot be read as YAML: .*line 1"),
            ("- one\n- two\n", "expected a mapping of keys, found a list"),
            ("trian: {epochs: 1}", "unknown key trian; did you mean 'train'?"),
            ("train: {epoch: 1}", "unknown key train.epoch; did you mean 'epochs'?"),
            ("extends: wo_stc", "recipe 'wo_stc' is not known; did you mean 'wo_sct'?"),
            ("seed: !!python/object/apply:os.getcwd []", "cannot be read as YAML"),
        ],
    )
    def test_wrong_files(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "mine.yaml").write_text(text)
        with pytest.raises(ConfigError, match=message) as caught:
            load(tmp_path / "mine.yaml")
        assert "\n" not in str(caught.value)

    def test_not_text(self, tmp_path: Path) -> None:
        (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ConfigError, match="cannot be read as YAML"):
            load(tmp_path / "mine.yaml")

    def test_no_such_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"mine.yaml does not exist"):
            load(tmp_path / "mine.yaml")

    def test_a_circle(self, tmp_path: Path) -> None:
        a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
        a.write_text(f"extends: {b}")
        b.write_text(f"extends: {a}")
        with pytest.raises(ConfigError, match=r"a.yaml' extends itself \(.*a.yaml > .*b.yaml > .*a.yaml\)"):
            load(a)


class TestUnknown:
    @pytest.mark.parametrize(
        ("word", "nearest"), [("cnss", "cns"), ("mask_clip", "maskclip"), ("wo-sct", "wo_sct")]
    )
    def test_recipe(self, word: str, nearest: str) -> None:
        with pytest.raises(ConfigError, match=f"recipe '{word}' is not known; did you mean '{nearest}'"):
            load(word)

    def test_recipe_like_no_other(self) -> None:
        with pytest.raises(ConfigError, match="'qqq' is not known; known: clip2scene, cns, "):
            load("qqq")

    def test_data_recipes_are_not_methods(self) -> None:
        with pytest.raises(ConfigError, match="'synthetic' is not known"):
            load("synthetic")
        with pytest.raises(ConfigError, match=r"'cns' is not known.*known: bench, "):
            load("cns", data="cns")

    @pytest.mark.parametrize("text", ["train.epochs", "=5", " =5", ""])
    def test_overrides_without_key_or_value(self, text: str) -> None:
        with pytest.raises(ConfigError, match=r"expected key.path=value, for instance train.epochs=5"):
            load("cns", [text])

    def test_override_that_is_no_yaml(self) -> None:
        with pytest.raises(ConfigError, match=r"'{' is not a YAML value"):
            load("cns", ["train={"])


class TestCoreKnowsNoRecipe:
    @pytest.mark.parametrize(
        "path",
        [p for p in sorted(PACKAGE.rglob("*.py")) if p.relative_to(PACKAGE).parts[0] not in TELLERS],
        ids=lambda path: str(path.relative_to(PACKAGE)),
    )
    def test_no_module_names_one(self, path: Path) -> None:
        """Neither a string that is a recipe's name, nor a look at the name of the one that runs."""
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and path.name not in ATTENTION:
                assert node.value not in METHODS, f"line {node.lineno}"
            if isinstance(node, ast.Attribute):
                assert node.attr != "recipe", f"line {node.lineno}"

    def test_those_who_may_tell_it_do_not_decide_by_it(self) -> None:
        for path in sorted(PACKAGE.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Compare | ast.Match):
                    parts = list(ast.walk(node))
                    names = [part.value for part in parts if isinstance(part, ast.Constant)]
                    assert not set(METHODS) & set(map(str, names)), f"{path}:{node.lineno}"
