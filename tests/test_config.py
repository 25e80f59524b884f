"""The configuration tree: every key can be set, every wrong one is named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pytest
import yaml
from pydantic import ValidationError

from scenelift.config import AugmentConfig, Config, Section, SwitchConfig, SyntheticData
from scenelift.errors import ConfigError
from scenelift.recipes import build, load
from scenelift.runfolder import differences
from scenelift.scenes.registry import SOURCES

VARIANTS = {
    "defaults": [],
    **{
        source: [f"data.source={source}", "data.path=somewhere"]
        for source in SOURCES
        if source != "synthetic"
    },
    "simulated": ["teachers.labels.kind=simulated", "teachers.masks.kind=simulated"],
    "embedded": ["teachers.labels.kind=embedded", "teachers.masks.kind=embedded"],
}
"""Overrides under which, together, every node of the tree appears."""

CANDIDATES = [
    "bf16-mixed",
    *("true", "false", "2", "9", "0.3", "0.7", "100", "400", "8", "[0.5, 0.9]", "[1.1, 1.2]", "[64, 80]"),
    *("[64, 128]", "[a, b]", "word", "none", "world_to_cam", "relative", "small", "minkunet14", "constant"),
    *("image", "labels", "trainable", "adamw", "step", "teacher", "eval"),
    *(
        "sclip",
        "float16",
        "adaptive",
        "largest_on_top",
        "paired",
        "tum",
        "sens",
        "scannet200",
        "paper",
        "[48, 64]",
    ),
]
"""Values of which every key must take one."""


def leaves(tree: dict[str, Any], path: str = "") -> Iterator[str]:
    for key, value in tree.items():
        here = f"{path}.{key}" if path else key
        yield from leaves(value, here) if isinstance(value, dict) else [here]


def keys() -> list[tuple[str, str]]:
    """(variant, dotted path) of every key."""
    found = {}
    for variant, overrides in VARIANTS.items():
        for path in leaves(load("cns", overrides).model_dump(mode="json")):
            found.setdefault((path, variant if path.startswith(("data", "teachers")) else ""), variant)
    return [(variant, path) for (path, _), variant in found.items()]


def test_the_variants_show_every_node() -> None:
    def sections(model: type[Section]) -> set[type[Section]]:
        found = {model}
        for field in model.model_fields.values():
            for part in walk(field.annotation):
                found |= sections(part)
        return found

    def walk(annotation: Any) -> Iterator[type[Section]]:
        if isinstance(annotation, type) and issubclass(annotation, Section):
            yield annotation
        for arg in get_args(annotation):
            yield from walk(arg)

    names = {name for model in sections(Config) for name in model.model_fields}
    assert names == {part for _, path in keys() for part in path.split(".")}


def settings() -> list[tuple[str, str]]:
    """`keys` without the run's name and the tags of variants, which have tests of their own."""
    tags = {"recipe", "data.source", "teachers.labels.kind", "teachers.masks.kind"}
    return [(variant, path) for variant, path in keys() if path not in tags]


WITHOUT_DIGEST = ("train.workers",)
"""What cannot change what comes out."""


@pytest.mark.parametrize(("variant", "path"), settings())
def test_every_key_can_be_overridden_alone(variant: str, path: str) -> None:
    before = load("cns", VARIANTS[variant])
    changes, complaints = [], []
    for value in CANDIDATES:
        try:
            after = load("cns", [*VARIANTS[variant], f"{path}={value}"])
        except ConfigError as error:
            complaints.append(str(error))
            continue
        changes.append(differences(before.model_dump(mode="json"), after.model_dump(mode="json")))
        assert changes[-1] in ([], [path])
        assert (after.digest() == before.digest()) == (changes[-1] == [] or path in WITHOUT_DIGEST)
    assert [path] in changes
    assert all(text.startswith((path, path.rpartition(".")[0])) for text in complaints)


@pytest.mark.parametrize(("variant", "path"), keys())
def test_every_misspelt_key_names_the_nearest(variant: str, path: str) -> None:
    parts = path.split(".")
    for level, word in enumerate(parts):
        wrong = ".".join([*parts[:level], f"{word}x"])
        with pytest.raises(ConfigError, match=f"unknown key {wrong}; did you mean '{word}'?"):
            load("cns", [*VARIANTS[variant], f"{wrong}=1"])


def test_a_word_like_no_other_is_told_what_there_is() -> None:
    with pytest.raises(
        ConfigError, match=r"unknown key latent.qqqq; valid here: weight, target, features, dim, target_map"
    ):
        load("cns", ["latent.qqqq=1"])


class TestValues:
    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("train.epochs=many", "train.epochs: input should be a valid integer.*found 'many'"),
            ("train.epochs=-1", "train.epochs: input should be greater than or equal to 0, found -1"),
            ("train.lr=.nan", "train.lr: .*finite"),
            ("train.lr=.inf", "train.lr: .*finite"),
            ("train=5", "train: .*found 5"),
            ("train=", "train: .*found None"),
            ("train.epochs.more=5", "train.epochs: .*integer"),
            ("switch.granularity=scene", "switch.granularity: .*'step', 'image' or 'pixel', found 'scene'"),
            ("augment.scale=[1.4, 1.0]", r"augment: scale needs 0 < low <= high, found \[1.4, 1.0\]$"),
            ("augment.point_scale=[0, 1]", "augment: point_scale needs 0 < low <= high"),
            ("augment.scale=[0.5, 1]", "augment: scale below 1 needs a crop size"),
            ("augment.crop=[0, 9]", "augment.crop.0: .*greater than or equal to 8"),
            ("classes=wall", "classes: input should be a valid tuple, found 'wall'"),
            ("data.source=radar", "data: .*'radar'.*'synthetic', 'capture'"),
        ],
    )
    def test_wrong_values_say_where_and_what(self, override: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            load("cns", [override])

    def test_the_path_names_keys_alone(self) -> None:
        """Not the variants that pydantic goes through, whichever they are."""
        for kind, masks, key in (
            ("clip", "sam", "points_per_side"),
            ("simulated", "simulated", "merge"),
            ("embedded", "embedded", "scale"),
        ):
            tags = [f"teachers.labels.kind={kind}", f"teachers.masks.kind={masks}"]
            with pytest.raises(ConfigError, match=rf"^teachers\.masks\.{key}: input should .*, found -1$"):
                load("cns", [*tags, f"teachers.masks.{key}=-1"])
            with pytest.raises(ConfigError, match=rf"^unknown key teachers\.masks\.{key}x; did you mean"):
                load("cns", [*tags, f"teachers.masks.{key}x=1"])

    def test_no_source_at_all(self) -> None:
        with pytest.raises(
            ConfigError, match="switch: at least one of clip, image and points must be above 0"
        ):
            load("cns", ["switch.clip=0", "switch.image=0", "switch.points=0"])

    def test_all_errors_are_told_at_once(self) -> None:
        with pytest.raises(ConfigError, match=r"seed: .*; train.lr: "):
            load("cns", ["seed=-1", "train.lr=0"])

    def test_scale_below_1_with_a_crop(self) -> None:
        assert load("cns", ["augment.scale=[0.5, 1]", "augment.crop=[64, 80]"]).augment.crop == (64, 80)

    def test_numbers_may_be_written_in_any_way(self) -> None:
        assert load("cns", ["train.lr=5e-3"]).train.lr == 0.005  # a string to YAML 1.1


class TestTree:
    def test_is_immutable(self) -> None:
        with pytest.raises(ValidationError, match="frozen"):
            Config().seed = 1  # type: ignore[misc]
        with pytest.raises(ValidationError, match="frozen"):
            Config().train.lr = 1.0  # type: ignore[misc]

    def test_defaults_are_the_papers(self) -> None:
        config = Config()
        assert (config.switch.clip, config.switch.image, config.switch.points) == (0.5, 0.25, 0.25)
        assert config.switch.granularity == "step"
        assert (config.train.epochs, config.train.switch_after, config.train.frames_per_scene) == (30, 10, 16)
        assert (config.train.optimizer, config.train.lr, config.train.schedule) == ("sgd", 0.1, "cosine")
        assert (config.networks.image.name, config.networks.points.name) == (
            "deeplabv3_resnet50",
            "minkunet34",
        )
        assert config.networks.points.voxel_m == config.pairing.depth_tolerance_m == 0.05
        assert (config.latent.target, config.latent.dim, config.latent.target_map) == ("masks", 64, "frozen")
        assert (config.teachers.labels.kind, config.teachers.masks.kind) == ("clip", "sam")
        assert config.refine.clip
        assert config.refine.image
        assert config.refine.points

    def test_yaml_holds_all_of_it(self) -> None:
        config = load("cns", ["classes=[Wände, sol]", "augment.crop=[64, 80]", *VARIANTS["capture"]])
        assert build(yaml.safe_load(config.to_yaml())) == config
        assert "Wände" in config.to_yaml()


class TestDigest:
    def test_of_everything_but_the_name(self) -> None:
        assert Config(recipe="a").digest() == Config(recipe="b").digest()
        assert Config(seed=1).digest() != Config().digest()
        assert build(yaml.safe_load(Config().to_yaml())).digest() == Config().digest()

    def test_of_sections_and_of_keys(self) -> None:
        config = Config(data=SyntheticData(train_rooms=5), switch=SwitchConfig(own_only=True))
        assert config.digest("switch") != Config().digest("switch")
        assert config.digest("switch.clip", "train") == Config().digest("switch.clip", "train")
        assert config.digest("train") != config.digest("augment")
        assert Config(augment=AugmentConfig(hflip=0.4)).digest("augment") != Config().digest("augment")
