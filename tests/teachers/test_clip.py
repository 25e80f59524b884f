"""The CLIP teacher against float64 arithmetic on the raw tensors, and against what it promises."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dense_reference import dense, resize
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPModel, SiglipModel

import fixtures_hub
from fixtures_scenes import FakeMaskTeacher, tiny_source
from fixtures_teachers import B16, CLIP_MEAN, CLIP_STD, L14, save_clip, save_siglip, weights_in
from scenelift.annotate import annotate
from scenelift.cache import Cache
from scenelift.classes import ClassTable
from scenelift.config import ClipLabels, PairingConfig
from scenelift.errors import ConfigError, DataError, WeightsError
from scenelift.teachers import LabelTeacher, clip, clip_dense, clip_towers
from scenelift.teachers.clip import ClipLabelTeacher, input_grid
from scenelift.teachers.clip_dense import smooth_by_keys, window_starts
from scenelift.teachers.prompts import TEMPLATES
from scenelift.types import Frame, Frames

NATIVE = ClipLabels(short_side=None)
"""No resizing of images whose sides are multiples of a patch."""
CLOSE = {"rtol": 0, "atol": 4e-4}
"""Unit-length features in float16: half an ulp below 1 is 2.4e-4, the rest is float32 arithmetic."""
SAME = {"rtol": 0, "atol": 1e-3}
"""Two such answers may be rounded apart by a whole ulp."""


@pytest.fixture(scope="module", autouse=True)
def no_network() -> Iterator[None]:
    """Any connection tried while the module runs, loading included, is a failure."""
    with pytest.MonkeyPatch.context() as patch:
        fixtures_hub.no_network(patch)
        yield


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def siglip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_siglip(tmp_path_factory.mktemp("siglip"))


def teacher(folder: Path, config: ClipLabels = NATIVE, **settings: Any) -> ClipLabelTeacher:
    config = ClipLabels.model_validate({**config.model_dump(), **settings})
    return ClipLabelTeacher(config, weights_in(folder), "cpu")


def frame(height: int, width: int, seed: int = 0) -> Frame:
    """An image of coarse and fine structure, so that features differ from place to place."""
    random = np.random.default_rng(seed)
    coarse = np.kron(random.integers(0, 200, (height // 8 + 1, width // 8 + 1, 3)), np.ones((8, 8, 1)))
    image = coarse[:height, :width] + random.integers(0, 56, (height, width, 3))
    image = image.astype(np.uint8)
    image.flags.writeable = False
    return Frame("s", f"f{seed}", image, np.eye(3), np.eye(4))


def grids(teacher: LabelTeacher, *frames: Frame) -> list[np.ndarray]:
    return [grid.astype(np.float64) for grid in teacher.image_features(list(frames))]


def expected(folder: Path, item: Frame, grid: tuple[int, int], **settings: Any) -> np.ndarray:
    image = torch.from_numpy(item.image.copy())
    if json.loads((folder / "config.json").read_text())["model_type"] == "clip":
        settings = {"mean": CLIP_MEAN, "std": CLIP_STD, **settings}
    else:
        settings = {"mean": (0.5,) * 3, "std": (0.5,) * 3, **settings}
    return dense(folder, image, grid, **settings).numpy()


# --- parity with the raw tensors --------------------------------------------------------------------


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("attention", ["maskclip", "sclip", "naclip"])
@pytest.mark.parametrize("family", ["clip_folder", "siglip_folder"])
def test_features_equal_the_papers_formulas(
    family: str, attention: str, smooth: bool, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(family)
    settings = {"attention": attention, "key_smoothing": smooth, "neighbour_sigma": 1.5}
    found = grids(teacher(folder, **settings), frame(32, 56))[0]
    wanted = expected(folder, frame(32, 56), (4, 7), attention=attention, sigma=1.5, smooth=smooth)
    assert found.shape == (24 if family == "clip_folder" else 32, 4, 7)
    np.testing.assert_allclose(found, wanted, **CLOSE)
    assert wanted.std(axis=(1, 2)).mean() > 10 * CLOSE["atol"]  # places differ: an error of place would show


def test_variants_are_not_one_another(clip_folder: Path) -> None:
    """What the parity test tells apart is larger than its tolerance."""
    variants = [
        grids(teacher(clip_folder, **settings), frame(32, 56))[0]
        for settings in (
            {"attention": "maskclip"},
            {"attention": "sclip"},
            {"attention": "naclip"},
            {"attention": "naclip", "neighbour_sigma": 1.0},
            {"key_smoothing": True},
            {"normalize": False},
        )
    ]
    for i, one in enumerate(variants):
        for other in variants[:i]:
            assert np.abs(one - other).max() > 0.01


@pytest.mark.parametrize(
    ("sizes", "own", "other"), [(B16, 14, (3, 7)), (L14, 16, (4, 3))], ids=["B16", "L14"]
)
def test_real_shapes(sizes: dict[str, int], own: int, other: tuple[int, int], tmp_path: Path) -> None:
    """At the size trained on, where positions stay as they are, and at another."""
    folder = save_clip(tmp_path, mlp=4 * sizes["width"], **sizes)
    weights = weights_in(folder)
    for attention, grid in [("maskclip", (own, own)), ("sclip", other), ("naclip", other)]:
        item = frame(grid[0] * sizes["patch"], grid[1] * sizes["patch"])
        asked = ClipLabelTeacher(NATIVE.model_copy(update={"attention": attention}), weights, "cpu")
        found = grids(asked, item)[0]
        assert found.shape == (sizes["dim"], *grid)
        np.testing.assert_allclose(found, expected(folder, item, grid, attention=attention), **CLOSE)


@pytest.mark.parametrize(("size", "grid"), [((33, 71), (4, 9)), ((57, 43), (6, 4)), ((50, 50), (4, 4))])
def test_odd_sizes_are_resized_as_pillow_does(
    size: tuple[int, int], grid: tuple[int, int], clip_folder: Path
) -> None:
    item = frame(*size)
    found = grids(teacher(clip_folder, short_side=32 if size != (57, 43) else 34), item)[0]
    np.testing.assert_allclose(found, expected(clip_folder, item, grid), **CLOSE)


def test_the_reference_resize_is_pillows() -> None:
    image = frame(60, 45).image // 2 + 64  # no overshoot beyond a byte, which Pillow cuts off half-way
    for size in ((32, 24), (96, 80)):
        pillow = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC), np.float64)
        ours = resize(torch.from_numpy(image.copy()).double(), size).clamp(0, 255).numpy()
        assert np.abs(ours - pillow).max() <= 1.25  # Pillow rounds after each axis


def test_pieces_of_the_neighbour_bias_change_nothing(
    clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = grids(teacher(clip_folder, attention="naclip"), frame(32, 56))[0]
    monkeypatch.setattr(clip_dense, "_BIAS_ELEMENTS", 29 * 5)
    np.testing.assert_allclose(
        grids(teacher(clip_folder, attention="naclip"), frame(32, 56))[0], whole, **SAME
    )


def test_the_class_token_of_an_unchanged_last_block_is_clips_image_embedding(clip_folder: Path) -> None:
    """The tower's parts, put together as usual, are the network transformers knows."""
    tower = clip_towers.FAMILIES["clip"].image(weights_in(clip_folder))
    pixels = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        tokens = tower.embed(pixels)
        for block in tower.blocks:
            tokens = block(tokens, attention_mask=None)
        found = tower.project(tokens[:, :1])[:, 0]
        wanted = CLIPModel.from_pretrained(clip_folder).get_image_features(pixels).pooler_output
    torch.testing.assert_close(found, wanted)


def test_siglip_attending_to_one_token_alone_is_its_projection(siglip_folder: Path) -> None:
    """If the pooling sees one token, its softmax is 1, and its answer is that token's feature."""
    weights = weights_in(siglip_folder)
    tower = clip_towers.FAMILIES["siglip"].image(weights)
    model = SiglipModel.from_pretrained(siglip_folder).vision_model
    tokens = torch.randn(5, 1, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(tower.project(tokens)[:, 0], model.head(model.post_layernorm(tokens)))


def test_smoothing_equals_the_sum_over_all_pairs() -> None:
    chance = torch.Generator().manual_seed(0)
    features, keys = (torch.randn(2, 30, size, generator=chance).double() for size in (6, 4))
    text = torch.randn(3, 6, generator=chance).double()
    unit = keys / keys.norm(dim=-1, keepdim=True)
    cosines = unit @ unit.transpose(1, 2)
    assert (cosines < 0).any()  # they count too
    smoothed_scores = cosines @ (features @ text.T) / 30
    scores_of_smoothed = smooth_by_keys(features.float(), keys) @ text.float().T
    torch.testing.assert_close(scores_of_smoothed.double(), smoothed_scores, atol=1e-5, rtol=1e-5)


# --- text -------------------------------------------------------------------------------------------


def test_text_equals_get_text_features_averaged_by_hand(clip_folder: Path) -> None:
    model = CLIPModel.from_pretrained(clip_folder)
    tokenizer = AutoTokenizer.from_pretrained(clip_folder)
    rows = []
    for phrases in (["sofa", "couch"], ["a {b} C"]):
        embeddings = []
        for phrase in phrases:
            for template in TEMPLATES:
                tokens = tokenizer([template.replace("{}", phrase)], return_tensors="pt")
                with torch.no_grad():
                    one = model.get_text_features(**tokens).pooler_output[0].double().numpy()
                embeddings.append(one / np.linalg.norm(one))
        mean = np.mean(embeddings, axis=0)
        rows.append(mean / np.linalg.norm(mean))
    found = teacher(clip_folder).text_features([["sofa", "couch"], ["a {b} C"]])
    assert (found.dtype, found.shape) == (np.float32, (2, 24))
    np.testing.assert_allclose(found, rows, rtol=0, atol=2e-6)


def test_siglip_text_is_lowered_and_padded_to_full_length(siglip_folder: Path) -> None:
    model, tokenizer = (kind.from_pretrained(siglip_folder) for kind in (SiglipModel, AutoTokenizer))
    texts = ["a wall.", "the wall."]
    tokens = tokenizer(texts, padding="max_length", max_length=64, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        embeddings = model.get_text_features(tokens).pooler_output.double()
    mean = torch.nn.functional.normalize(embeddings, dim=1).mean(0)
    found = teacher(siglip_folder, templates=("a {}.", "the {}.")).text_features([["Wall"]])
    np.testing.assert_allclose(found[0], (mean / mean.norm()).numpy(), rtol=0, atol=2e-6)


def test_text_does_not_depend_on_its_batches(clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = teacher(clip_folder).text_features([["wall"], ["lamp", "light"]])
    monkeypatch.setattr(clip_towers, "SENTENCES_PER_BATCH", 7)
    np.testing.assert_allclose(
        teacher(clip_folder).text_features([["wall"], ["lamp", "light"]]), whole, rtol=0, atol=2e-6
    )
    assert teacher(clip_folder).text_features([]).shape == (0, 24)


@pytest.mark.parametrize(("family", "limit"), [("clip_folder", 77), ("siglip_folder", 64)])
def test_too_long_a_phrase_is_refused_by_name(
    family: str, limit: int, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(family)
    marks = 2 if family == "clip_folder" else 1
    plain = teacher(folder, templates=("{}",))
    assert plain.text_features([["x" * (limit - marks)]]).shape[0] == 1
    long = "x" * (limit - marks + 1)
    with pytest.raises(ConfigError, match=rf"at most {limit} tokens, found {limit + 1} .*phrase '{long}'"):
        plain.text_features([["wall"], ["fine", long]])


@pytest.mark.parametrize("phrases", [[], [" "], ["wall", ""]])
def test_a_class_without_a_word_is_refused(phrases: list[str], clip_folder: Path) -> None:
    with pytest.raises(ConfigError, match="for class 1"):
        teacher(clip_folder).text_features([["wall"], phrases])


@pytest.mark.parametrize("template", ["a photo", "{} and {}", "{0}", "{} {name}", "{{{}}}", "{!r}"])
def test_templates_need_one_place_for_the_name(template: str, clip_folder: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"teachers.labels.templates: expected .*found " + re.escape(repr(template))
    ):
        teacher(clip_folder, templates=("a {}", template))
    with pytest.raises(ConfigError, match="found none"):
        teacher(clip_folder, templates=())


# --- windows, sizes, batches ------------------------------------------------------------------------


@given(size=st.integers(1, 60), window=st.integers(1, 60), stride=st.integers(1, 60))
def test_windows_cover_every_token(size: int, window: int, stride: int) -> None:
    window, stride = min(window, size), min(stride, window)
    starts = window_starts(size, window, stride)
    assert starts == sorted(set(starts))
    covered = {token for start in starts for token in range(start, start + window)}
    assert covered == set(range(size))


def test_a_window_that_covers_all_is_one_pass(clip_folder: Path) -> None:
    whole = teacher(clip_folder).image_features([frame(40, 56)])[0]
    for window in (56, 60, 640):
        assert np.array_equal(teacher(clip_folder, window=window).image_features([frame(40, 56)])[0], whole)


@pytest.mark.parametrize("unit", [True, False])
def test_windows_are_averaged_where_they_overlap(unit: bool, clip_folder: Path) -> None:
    item = frame(40, 64)
    found = grids(teacher(clip_folder, window=32, window_stride=16, unit_length=unit), item)[0]
    plain = teacher(clip_folder, unit_length=unit)
    total, seen = np.zeros((24, 5, 8)), np.zeros((5, 8))
    for row in (0, 1):  # 5 rows of 8 pixels: the second window ends with the image
        for column in (0, 2, 4):
            pixels = np.ascontiguousarray(item.image[row * 8 : row * 8 + 32, column * 8 : column * 8 + 32])
            part = grids(plain, dataclasses.replace(item, image=pixels))[0]
            total[:, row : row + 4, column : column + 4] += part
            seen[row : row + 4, column : column + 4] += 1
    mean = total / seen
    if unit:
        mean /= np.linalg.norm(mean, axis=0)
    np.testing.assert_allclose(found, mean, rtol=2e-3, atol=2e-3)


@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    short=st.none() | st.integers(16, 1024),
    patch=st.sampled_from([14, 16, 32]),
)
def test_the_grid_follows_the_image(height: int, width: int, short: int | None, patch: int) -> None:
    grid = input_grid(height, width, short, patch)
    factor = 1 if short is None else short / min(height, width)
    for cells, side in zip(grid, (height, width), strict=True):
        assert cells >= 1
        assert abs(cells * patch - side * factor) <= patch / 2 + 1e-6 or cells == 1
    assert input_grid(width, height, short, patch) == grid[::-1]


def test_sizes_are_grouped_and_order_is_kept(clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [(40, 56), (32, 32), (40, 56), (56, 40), (32, 32), (40, 56)]
    frames = [frame(*size, seed=i) for i, size in enumerate(sizes)]
    for attention in ("maskclip", "sclip", "naclip"):
        asked = teacher(clip_folder, attention=attention, key_smoothing=True)
        alone = [asked.image_features([item])[0] for item in frames]
        assert [grid.shape[1:] for grid in alone] == [(h // 8, w // 8) for h, w in sizes]
        for tokens in (1, 80, 10_000):
            monkeypatch.setitem(clip.BATCH_TOKENS, "cpu", tokens)
            for order in (range(6), [4, 2, 0, 5, 3, 1]):
                for i, grid in zip(order, asked.image_features([frames[i] for i in order]), strict=True):
                    np.testing.assert_allclose(grid, alone[i], **SAME)
        assert asked.image_features([]) == []
    assert not np.array_equal(alone[0], alone[2])


def test_a_lazy_sequence_is_read_once(clip_folder: Path) -> None:
    read = []

    def one(name: str) -> Frame:
        read.append(name)
        return frame(32, 32)

    assert len(teacher(clip_folder).image_features(Frames(["a", "b"], one))) == 2
    assert read == ["a", "b"]


def test_windows_do_not_depend_on_batches(clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [frame(72, 56, seed=i) for i in range(3)]
    asked = teacher(clip_folder, window=32)
    monkeypatch.setitem(clip.BATCH_TOKENS, "cpu", 1)
    alone = asked.image_features(frames)
    monkeypatch.setitem(clip.BATCH_TOKENS, "cpu", 100_000)
    for one, together in zip(alone, asked.image_features(frames), strict=True):
        np.testing.assert_allclose(one, together, **SAME)


def test_a_single_pixel_and_a_long_strip(clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert teacher(clip_folder, short_side=None).image_features([frame(1, 1)])[0].shape == (24, 1, 1)
    assert teacher(clip_folder, short_side=24).image_features([frame(1, 1)])[0].shape == (24, 3, 3)
    strip = frame(100, 20_000)
    assert teacher(clip_folder, short_side=16).image_features([strip])[0].shape == (24, 2, 400)
    with pytest.raises(
        DataError, match=r"s/f0 of 100 × 20000 .*at most 131072 .*found 56 × 11200 .*short_side"
    ):
        teacher(clip_folder, short_side=448).image_features([strip])
    with pytest.raises(DataError, match=r"at most 16384 at once.*found 8 × 2500.*window=448"):
        teacher(clip_folder, short_side=None).image_features([frame(64, 20_000)])
    with pytest.raises(DataError, match="expected an image, found 0 × 5"):
        teacher(clip_folder).image_features([frame(0, 5)])
    windowed = teacher(clip_folder, short_side=None, window=64)
    monkeypatch.setattr(clip, "PASS_TOKENS", 64)
    assert windowed.image_features([frame(16, 2000)])[0].shape == (24, 2, 250)


# --- promises ---------------------------------------------------------------------------------------


def test_answers_are_unit_float16_and_repeat(clip_folder: Path) -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    one = teacher(clip_folder, short_side=48).image_features([frame(45, 67)])[0]
    two = teacher(clip_folder, short_side=48).image_features([frame(45, 67)])[0]
    assert one.dtype == np.float16
    assert one.flags.c_contiguous
    assert np.array_equal(one, two)
    np.testing.assert_allclose(np.linalg.norm(one.astype(np.float64), axis=0), 1, atol=1e-3)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()


def test_without_unit_length_features_keep_theirs(clip_folder: Path) -> None:
    plain = grids(teacher(clip_folder, unit_length=False), frame(32, 56))[0]
    length = np.linalg.norm(plain, axis=0)
    assert length.std() > 0.05
    np.testing.assert_allclose(plain / length, grids(teacher(clip_folder), frame(32, 56))[0], **SAME)


def test_raw_images_when_not_normalised(clip_folder: Path) -> None:
    found = grids(teacher(clip_folder, normalize=False), frame(32, 56))[0]
    raw = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    np.testing.assert_allclose(found, expected(clip_folder, frame(32, 56), (4, 7), **raw), **CLOSE)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("attention", ["maskclip", "sclip", "naclip"])
def test_half_precision_stays_close(precision: str, attention: str, clip_folder: Path) -> None:
    settings: dict[str, Any] = {"attention": attention, "key_smoothing": True}
    exact = grids(teacher(clip_folder, **settings), frame(32, 56))[0]
    half = grids(teacher(clip_folder, precision=precision, **settings), frame(32, 56))[0]
    assert (exact * half).sum(axis=0).min() > 0.998
    assert np.abs(exact - half).max() > 0  # it was computed in half precision


def test_normalisation_is_the_checkpoints_own(clip_folder: Path, tmp_path: Path) -> None:
    bare = save_clip(tmp_path / "bare", normalisation=False)
    wanted = grids(teacher(clip_folder), frame(32, 56))[0]
    assert np.array_equal(grids(teacher(bare), frame(32, 56))[0], wanted)  # CLIP's, where none is given
    other = shutil.copytree(bare, tmp_path / "other")
    nested = {"image_processor": {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}}
    (other / "processor_config.json").write_text(json.dumps(nested))
    settings = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}
    np.testing.assert_allclose(
        grids(teacher(other), frame(32, 56))[0], expected(other, frame(32, 56), (4, 7), **settings), **CLOSE
    )
    assert teacher(other).identity != teacher(bare).identity
    for content, said in [
        ("{", "cannot"),
        ('{"image_mean": [0.5]}', "three numbers for image_mean"),
        ('{"image_std": [0, 1, 1]}', "three numbers for image_std"),
        ("[]", "cannot"),
    ]:
        (bare / "preprocessor_config.json").write_text(content)
        with pytest.raises(WeightsError, match=said):
            teacher(bare)


@pytest.mark.parametrize(
    "settings",
    [
        {"attention": "sclip"},
        {"attention": "naclip"},
        {"key_smoothing": True},
        {"normalize": False},
        {"unit_length": False},
        {"short_side": 64},
        {"window": 64},
        {"window": 64, "window_stride": 16},
        {"precision": "bfloat16"},
    ],
    ids=str,
)
def test_identity_tells_settings_apart(settings: dict[str, Any], clip_folder: Path) -> None:
    changed, base = teacher(clip_folder, **settings), teacher(clip_folder)
    assert changed.identity != base.identity
    assert changed.text_identity == base.text_identity


def test_identity_is_of_what_matters(clip_folder: Path, tmp_path: Path) -> None:
    base = teacher(clip_folder)
    assert teacher(clip_folder, neighbour_sigma=3.0).identity == base.identity
    naclip = [teacher(clip_folder, attention="naclip", neighbour_sigma=s).identity for s in (3.0, 5.0)]
    assert naclip[0] != naclip[1]
    assert teacher(clip_folder, precision="float32").identity == base.identity
    templates = teacher(clip_folder, templates=("{}",))
    assert templates.identity == base.identity
    assert templates.text_identity != base.text_identity

    moved = teacher(shutil.copytree(clip_folder, tmp_path / "elsewhere"))
    assert (moved.identity, moved.text_identity) == (base.identity, base.text_identity)
    assert (base.weights, moved.weights) == (str(clip_folder), str(tmp_path / "elsewhere"))
    other = teacher(save_clip(tmp_path / "other", seed=1))
    assert other.identity != base.identity
    assert other.text_identity != base.text_identity


def test_nothing_is_loaded_before_it_is_needed(clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    real = clip_towers.load_model

    def load(how: Any, weights: Any) -> Any:
        loaded.append(how.func.__self__.__name__)
        return real(how, weights)

    monkeypatch.setattr(clip_towers, "load_model", load)
    fresh = teacher(clip_folder)
    assert (fresh.dim, len(fresh.identity) > 0, len(fresh.text_identity) > 0) == (24, True, True)
    assert loaded == []
    fresh.text_features([["wall"]])
    fresh.text_features([["floor"]])
    assert loaded == ["CLIPTextModelWithProjection"]
    fresh.image_features([frame(32, 32)])
    assert loaded == ["CLIPTextModelWithProjection", "CLIPVisionModelWithProjection"]


def test_another_class_list_asks_the_text_alone(
    clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, cache = tiny_source(num_scenes=1, frames=2), Cache(tmp_path)
    assert source.truth is not None
    masks = FakeMaskTeacher(source.truth)
    stages = ("label_features", "labels")

    def run(*names: str) -> tuple[list[set[str]], ClipLabelTeacher]:
        labels = teacher(clip_folder, short_side=32)
        table = ClassTable.from_names(names)
        annotate(source, ["scene0"], table, labels, masks, PairingConfig(), cache)
        return [{info.digest for info in cache.entries() if info.stage == stage} for stage in stages], labels

    (features, labels), first = run("wall", "floor")
    assert "_image" in vars(first)
    (features_again, labels_again), second = run("wall", "lamp", "sofa / couch")
    assert "_image" not in vars(second)
    assert "_text" in vars(second)
    assert features_again == features
    assert labels < labels_again


def test_dim_is_that_of_the_answers(clip_folder: Path, siglip_folder: Path) -> None:
    for folder in (clip_folder, siglip_folder):
        asked = teacher(folder)
        assert asked.text_features([["wall"]]).shape == (1, asked.dim)
        assert asked.image_features([frame(32, 32)])[0].shape[0] == asked.dim


def test_a_wrong_projection_size_in_the_parts_is_not_believed(clip_folder: Path, tmp_path: Path) -> None:
    """The parts may say transformers' default whatever the true size, as CLIPModel never looks there."""
    old = shutil.copytree(clip_folder, tmp_path / "old")
    config = json.loads((old / "config.json").read_text())
    config["vision_config"]["projection_dim"] = config["text_config"]["projection_dim"] = 512
    (old / "config.json").write_text(json.dumps(config))
    one, other = (teacher(folder).image_features([frame(32, 32)])[0] for folder in (old, clip_folder))
    assert np.array_equal(one, other)
    assert np.array_equal(*(teacher(f).text_features([["wall"]]) for f in (old, clip_folder)))


def test_checkpoints_in_half_precision_are_computed_with_in_float32(
    clip_folder: Path, tmp_path: Path
) -> None:
    half = shutil.copytree(clip_folder, tmp_path / "half")
    tensors = load_file(half / "model.safetensors")
    save_file({name: t.half() for name, t in tensors.items()}, half / "model.safetensors", {"format": "pt"})
    asked = teacher(half)
    found = grids(asked, frame(32, 56))[0]
    assert {p.dtype for p in asked._image.model.parameters()} == {torch.float32}
    np.testing.assert_allclose(found, expected(half, frame(32, 56), (4, 7)), **CLOSE)


# --- bad input --------------------------------------------------------------------------------------


def test_other_checkpoints_are_refused(clip_folder: Path, siglip_folder: Path, tmp_path: Path) -> None:
    weights = dataclasses.replace(weights_in(clip_folder), model_type="sam")
    with pytest.raises(WeightsError, match="expected a checkpoint of type clip or siglip, found 'sam'"):
        ClipLabelTeacher(NATIVE, weights, "cpu")
    headless = shutil.copytree(siglip_folder, tmp_path / "headless")
    config = json.loads((headless / "config.json").read_text())
    config["vision_config"]["vision_use_head"] = False
    (headless / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="pooling head"):
        teacher(headless).dim


def test_a_missing_tokenizer_or_config_is_named(clip_folder: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(clip_folder, tmp_path / "bare")
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (bare / name).unlink()
    asked = teacher(bare)
    with pytest.raises(WeightsError, match=r"a tokenizer of a clip checkpoint .*vocab\.json"):
        asked.text_features([["wall"]])
    words = json.loads((clip_folder / "vocab.json").read_text())
    foreign = shutil.copytree(clip_folder, tmp_path / "foreign")
    (foreign / "vocab.json").write_text(json.dumps({word: i + 100 for word, i in words.items()}))
    with pytest.raises(WeightsError, match=r"token 61[0-9] of a vocabulary of 514"):
        teacher(foreign).text_features([["wall"]])
    (bare / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"config\.json of a clip checkpoint"):
        asked.dim


@pytest.mark.parametrize("settings", [{"window_stride": 16}, {"window": 32, "window_stride": 40}])
def test_windows_must_not_leave_gaps(settings: dict[str, Any], clip_folder: Path) -> None:
    with pytest.raises(ConfigError, match="window_stride: expected at most the window"):
        teacher(clip_folder, **settings)


def test_features_that_overflow_are_refused(clip_folder: Path) -> None:
    asked = teacher(clip_folder, unit_length=False)
    asked._image._projection.weight.mul_(1e8)
    with pytest.raises(DataError, match=r"s/f0: expected finite features.*float32"):
        asked.image_features([frame(32, 32)])
