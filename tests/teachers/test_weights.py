"""Weights: found in folders, files and the hub's cache, loaded whole or refused with what to do."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, CLIPVisionModelWithProjection, SamModel
from transformers.utils import logging

from fixtures_hub import SHA, cached, no_network, serving
from random_teachers import save_clip, save_sam
from scenelift.errors import WeightsError
from scenelift.teachers.weights import (
    find_weights,
    load_model,
    place_of,
    quiet_transformers,
    read_state_dict,
)

CLIP, SAM = "teachers.labels.weights", "teachers.masks.weights"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "clip"
    folder.mkdir()
    with quiet_transformers():
        save_clip(folder, seed=1, tiny=True)
    return folder


@pytest.fixture
def clip(original: Path, tmp_path: Path) -> Path:
    """A folder of a tiny CLIP to do harm to."""
    return Path(shutil.copytree(original, tmp_path / "clip"))


@pytest.fixture
def state(original: Path) -> dict[str, torch.Tensor]:
    return load_file(original / "model.safetensors")


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache on a machine without a network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    no_network(monkeypatch)
    return tmp_path / "hub"


def find(spec: Path | str, *kinds: str, download: bool = False) -> Any:
    return find_weights(str(spec), CLIP, kinds or ("clip",), download)


def refused(spec: Path | str, *kinds: str, download: bool = False) -> str:
    with pytest.raises(WeightsError) as caught:
        find(spec, *kinds, download=download)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def not_loaded(folder: Path, kind: Any = CLIPModel) -> str:
    weights = find(folder)
    with pytest.raises(WeightsError) as caught:
        load_model(kind.from_pretrained, weights)
    return str(caught.value)


def with_code(path: Path, victim: Path) -> None:
    """A pickle that makes a file when it is read the careless way; it says whether it would have."""

    class Evil:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(victim),))

    torch.save({"weight": Evil()}, path)
    torch.load(path, weights_only=False)
    assert victim.is_dir()
    victim.rmdir()


# --- folders and files ---------------------------------------------------------------------------------


def test_a_folder(clip: Path) -> None:
    found = find(clip, "siglip", "clip")
    assert (found.path, found.origin, found.model_type) == (clip, str(clip), "clip")
    names = [file.name for file in found.files]
    assert names == sorted(path.name for path in clip.iterdir())
    assert "vocab.json" in names


def test_the_digest_is_of_names_and_contents_alone(clip: Path, tmp_path: Path) -> None:
    first = find(clip).digest
    copy = Path(shutil.copytree(clip, tmp_path / "elsewhere" / "other"))
    (copy / "README.md").write_text("no answer depends on it")
    (copy / "model.fp16.safetensors").write_bytes(b"nor on this")
    assert find(copy).digest == first
    seen = {first}
    for name in ("config.json", "preprocessor_config.json", "vocab.json", "merges.txt", "model.safetensors"):
        changed = Path(shutil.copytree(clip, tmp_path / name))
        content = bytearray((changed / name).read_bytes())
        if name.endswith("safetensors"):
            content[-1] ^= 1
        else:
            content += b"\n"
        (changed / name).write_bytes(content)
        seen.add(find(changed).digest)
    renamed = Path(shutil.copytree(clip, tmp_path / "renamed"))
    (renamed / "preprocessor_config.json").rename(renamed / "processor_config.json")
    seen.add(find(renamed).digest)
    assert len(seen) == 7


def test_the_digest_follows_a_file_that_changes_in_its_place(clip: Path) -> None:
    first = find(clip).digest
    (clip / "merges.txt").write_text("#version: 0.3\n")
    assert find(clip).digest != first


def test_a_foreign_file(tmp_path: Path) -> None:
    file = tmp_path / "sam_vit_b_01ec64.pth"
    torch.save({"a": torch.ones(2)}, file)
    found = find(file, "sam", "")
    assert (found.path, found.model_type, found.files) == (file, "", (file,))
    assert find(shutil.copy(file, tmp_path / "renamed.pth"), "").digest == found.digest
    assert read_state_dict(found.path)["a"].tolist() == [1, 1]
    assert f"found the file {file}" in refused(file, "clip")


@pytest.mark.parametrize(
    "spec", ["./models/clip", "/nowhere/clip", "clip", "", "a/b/c", "org/name@", "~/x/y", "~nobody/x"]
)
def test_anything_else_is_told_what_forms_there_are(spec: str, tmp_path: Path, hub_cache: Path) -> None:
    message = refused(spec, download=True)
    assert message.startswith(
        f"{CLIP}: expected an existing folder or a hub id (org/name or org/name@revision)"
    )
    assert repr(spec) in message
    assert "an existing .pth file" in refused(spec, "sam", "")


def test_another_kind_is_refused(clip: Path, tmp_path: Path) -> None:
    message = refused(clip, "sam", "sam2", "")
    assert f"expected weights of kind sam or sam2, found 'clip' in {clip / 'config.json'}" in message
    (clip / "config.json").write_text("{}")
    assert "found None" in refused(clip, "sam", "")
    for content, said in (("[]", "expected a JSON object"), ("{", "cannot be read as JSON")):
        (clip / "config.json").write_text(content)
        assert said in refused(clip)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("config.json", "expected config.json in"),
        ("model.safetensors", "expected model.safetensors (or "),
        ("merges.txt", "expected tokenizer.json (or vocab.json and merges.txt) in"),
    ],
)
def test_what_is_missing_of_a_folder_is_named(clip: Path, name: str, said: str) -> None:
    (clip / name).unlink()
    message = refused(clip)
    assert said in message
    assert f"{clip}, found none; complete" in message


@pytest.mark.parametrize("keep", [0, 4, 200, -1])
def test_truncated_safetensors(clip: Path, keep: int) -> None:
    file = clip / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    message = refused(clip)
    assert f"weights {file}: expected a whole safetensors file, found it truncated or damaged" in message
    assert "copied from where it is whole" in message


def shard(folder: Path) -> list[Path]:
    with quiet_transformers():
        model = CLIPModel.from_pretrained(folder, local_files_only=True)
        model.save_pretrained(folder, max_shard_size="40KB")
    (folder / "model.safetensors").unlink()
    return sorted(folder.glob("model-*.safetensors"))


def test_shards(clip: Path, state: dict[str, torch.Tensor]) -> None:
    whole = find(clip).digest
    shards = shard(clip)
    assert len(shards) > 1
    found = find(clip)
    assert set(shards) < set(found.files)
    assert found.digest != whole
    assert same(load_model(CLIPModel.from_pretrained, found), state)
    content = shards[1].read_bytes()
    shards[1].write_bytes(content[:-8])
    assert f"weights {shards[1]}: expected a whole" in refused(clip)
    shards[1].unlink()
    assert f"expected {shards[1].name} in" in refused(clip)
    for weight_map in (None, {}, {"a": "../../secret.safetensors"}, {"a": 1}):
        (clip / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        assert "expected a weight_map of file names" in refused(clip)


# --- loading -------------------------------------------------------------------------------------------


def same(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(model.state_dict()[key], value.float()) for key, value in state.items())


def test_a_model_is_ready_for_use(
    clip: Path, state: dict[str, torch.Tensor], capfd: pytest.CaptureFixture[str]
) -> None:
    level, generator = logging.get_verbosity(), torch.get_rng_state()
    model = load_model(CLIPModel.from_pretrained, find(clip))
    assert isinstance(model, CLIPModel)
    assert same(model, state)
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), generator)
    assert logging.get_verbosity() == level
    assert logging.is_progress_bar_enabled()
    assert capfd.readouterr() == ("", "")


def test_a_part_of_a_model(clip: Path, state: dict[str, torch.Tensor]) -> None:
    """What the part has no use for is no matter."""
    tower = load_model(CLIPVisionModelWithProjection.from_pretrained, find(clip))
    wanted = {key: value for key, value in state.items() if key.startswith(("vision", "visual"))}
    assert len(wanted) > 10
    assert same(tower, wanted)


def test_half_precision_is_read_as_float32(clip: Path, state: dict[str, torch.Tensor]) -> None:
    half = {key: value.half() for key, value in state.items()}
    save_file(half, clip / "model.safetensors", {"format": "pt"})
    (clip / "config.json").write_text(
        json.dumps({**json.loads((clip / "config.json").read_text()), "dtype": "float16"})
    )
    model = load_model(CLIPModel.from_pretrained, find(clip))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert same(model, half)


def test_an_old_pickle_of_tensors_alone(clip: Path, state: dict[str, torch.Tensor]) -> None:
    (clip / "model.safetensors").unlink()
    torch.save(state, clip / "pytorch_model.bin")
    assert same(load_model(CLIPModel.from_pretrained, find(clip)), state)


def test_sam(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with quiet_transformers():
        save_sam(tmp_path, seed=0, tiny=True)
    capfd.readouterr()
    weights = find_weights(str(tmp_path), SAM, ("sam", ""))
    assert same(load_model(SamModel.from_pretrained, weights), load_file(tmp_path / "model.safetensors"))
    assert capfd.readouterr() == ("", "")


def test_nothing_is_left_to_chance(
    clip: Path, state: dict[str, torch.Tensor], capfd: pytest.CaptureFixture[str]
) -> None:
    """transformers draws a missing parameter at random and goes on."""
    lost = "vision_model.encoder.layers.1.mlp.fc2.bias"
    save_file({k: v for k, v in state.items() if k != lost}, clip / "model.safetensors", {"format": "pt"})
    message = not_loaded(clip)
    assert "found 1 missing or of another shape" in message
    assert lost in message
    assert "fetch them again" in message

    save_file({**state, lost: torch.zeros(7)}, clip / "model.safetensors", {"format": "pt"})
    assert "fetch" in not_loaded(clip)
    assert "of another shape" in message
    assert capfd.readouterr() == ("", "")


def test_a_config_that_belongs_to_another_size_is_refused(clip: Path) -> None:
    with quiet_transformers():
        wide = CLIPConfig.from_pretrained(clip)
        wide.vision_config.hidden_size = 64
        wide.save_pretrained(clip)
    assert "fetch" in not_loaded(clip)


def test_code_in_a_pickle_is_not_run(clip: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (clip / "model.safetensors").unlink()
    with_code(clip / "pytorch_model.bin", victim)
    message = not_loaded(clip)
    assert str(clip / "pytorch_model.bin") in message
    assert "might run code" in message
    assert "weights_only" not in message
    assert not victim.exists()

    file = tmp_path / "sam.pth"
    with_code(file, victim)
    assert find(file, "").path == file
    with pytest.raises(
        WeightsError, match=r"sam\.pth.*might run code.*fetch the file again, from a source you trust"
    ):
        read_state_dict(file)
    assert not victim.exists()


@pytest.mark.parametrize("content", [b"", b"no weights" * 99])
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: bytes, ending: str) -> None:
    file = tmp_path / f"x{ending}"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match="cannot be read"):
        read_state_dict(file)
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="plain state dict"):
        read_state_dict(tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="no such file"):
        read_state_dict(tmp_path / "nowhere.pth")


# --- the hub -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("download", [False, True])
@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_no_connection_is_tried(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch, download: bool, name: str
) -> None:
    """Even if the variable is set after the hub's library has read it."""
    monkeypatch.setenv(name, "1")
    message = refused("org/model@v1.0", download=download)
    assert f"{CLIP}: expected org/model@v1.0 in the cache of Hugging Face, found no config.json" in message
    assert str(hub_cache / "models--org--model") in message
    assert "`scenelift weights --clip org/model@v1.0 --download`" in message
    assert "`hf download org/model --revision v1.0 --exclude '*.h5' '*.msgpack'`" in message
    assert "give a folder copied from a machine that has it" in message
    assert ("forbids fetching" in message) == download
    assert place_of("org/model@v1.0") == hub_cache / "models--org--model"


def test_without_leave_no_connection_is_tried(hub_cache: Path) -> None:
    assert "--download" in refused("org/model")


def test_the_command_names_the_option_of_the_teacher(hub_cache: Path) -> None:
    with pytest.raises(WeightsError, match=r"`scenelift weights --sam org/model --download`"):
        find_weights("org/model", SAM, ("sam",))


def test_what_the_cache_holds_needs_no_connection(clip: Path, hub_cache: Path) -> None:
    snapshot = cached(clip, hub_cache)
    for download in (False, True):
        found = find("org/model", download=download)
        assert (found.path, found.origin) == (snapshot, f"org/model@main ({SHA[:12]})")
        assert found.digest == find(clip).digest
    assert "no config.json" in refused("org/model@other")
    assert find(f"org/model@{SHA}").path == snapshot
    load_model(CLIPModel.from_pretrained, found)
    (snapshot / "model.safetensors").unlink()
    message = refused("org/model")
    assert "expected model.safetensors (or" in message
    assert str(snapshot) in message
    assert "--download" in message


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_fetching_takes_what_is_needed_and_nothing_twice(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = files_of(clip)
    other = {"pytorch_model.bin": b"x", "tf_model.h5": b"x", "flax_model.msgpack": b"x", "README.md": b"x"}
    with serving({**wanted, **other, "model.fp16.safetensors": b"x"}, tmp_path / "hub", monkeypatch) as hub:
        assert "--download" in refused("org/model")
        assert hub.requests == 0
        found = find("org/model", download=True)
        assert sorted(hub.sent) == sorted(wanted)
        assert found.digest == find(clip).digest
        asked = hub.requests
        assert find("org/model", download=True) == found
        assert find("org/model") == found
        assert hub.requests == asked

        # cut short by a full disk: fetched again, and only that
        (found.path / "model.safetensors").resolve().write_bytes(wanted["model.safetensors"][:-9])
        assert "truncated" in refused("org/model")
        hub.sent.clear()
        assert find("org/model", download=True) == found
        assert hub.sent == ["model.safetensors"]

        # another kind is not fetched in the hope that it changes
        asked = hub.requests
        assert "found 'clip'" in refused("org/model", "sam", download=True)
        assert hub.requests == asked


def test_fetching_shards_and_a_revision(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = shard(clip)
    with serving(files_of(clip), tmp_path / "hub", monkeypatch) as hub:
        found = find("org/model@v2", download=True)
        assert {path.name for path in shards} < set(hub.sent)
        assert found.origin == f"org/model@v2 ({SHA[:12]})"
        assert "no config.json" in refused("org/model")


def test_only_an_old_pickle_where_there_is_nothing_better(
    clip: Path, state: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (clip / "model.safetensors").unlink()
    torch.save(state, clip / "pytorch_model.bin")
    with serving(files_of(clip), tmp_path / "hub", monkeypatch) as hub:
        assert same(load_model(CLIPModel.from_pretrained, find("org/model", download=True)), state)
        assert "pytorch_model.bin" in hub.sent


def test_what_cannot_be_fetched(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = files_of(clip)
    del files["vocab.json"]
    with serving(files, tmp_path / "hub", monkeypatch) as hub:
        message = refused("org/absent", download=True)
        assert "org/absent cannot be fetched from http://127.0.0.1" in message
        assert "check its name and the connection" in message
        assert "expected tokenizer.json" in refused("org/model", download=True)
        assert "model.safetensors" in hub.sent
