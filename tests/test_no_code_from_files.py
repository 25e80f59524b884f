"""Nothing that is read may run code: no pickle, no unsafe loader, and bombs that stay unexploded."""

from __future__ import annotations

import ast
import io
import json
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from scenelift import checkpoint
from scenelift.cache import Cache, cache_key
from scenelift.errors import ConfigError, RunError, SceneLiftError
from scenelift.recipes import load, load_resolved
from scenelift.scenes.clouds import read_cloud
from scenelift.scenes.depth_files import read_npy
from scenelift.scenes.nuimages import index as nuimages_index
from scenelift.teachers.hub import damage_of_safetensors
from scenelift.teachers.sam_checkpoint import load_meta
from scenelift.teachers.weights import read_state_dict

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = sorted((ROOT / "src" / "scenelift").rglob("*.py")) + sorted((ROOT / "examples").glob("*.py"))

MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {
    "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load",
    "os.system", "os.popen", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter",
    "pd.read_pickle", "pandas.read_pickle", "np.fromregex", "zipfile.ZipFile.extractall", "tarfile.open",
}  # fmt: skip


def faults(source: str) -> list[str]:
    """What in a module could run code that came with a file or a name."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            found += [name for name in names if name.partition(".")[0] in MODULES]
        if not isinstance(node, ast.Call):
            continue
        call = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        loads = call in {"torch.load", "load_file_as_pickle"} or call.endswith("fabric.load")
        if call in BUILTINS | CALLS:
            found.append(call)
        if loads and given.get("weights_only") != "True":
            found.append(f"{call} without weights_only=True")
        if call in {"np.load", "numpy.load"} and given.get("allow_pickle", "False") != "False":
            found.append(f"{call} with allow_pickle")
        if given.get("shell", "False") != "False":
            found.append(f"{call} with a shell")
        if given.get("trust_remote_code", "False") != "False":
            found.append(f"{call} with code from the hub")
    return found


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_can_run_what_it_reads(path: Path) -> None:
    assert faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from pickle import loads", "import joblib.memory", "import torch\ntorch.load(p)",
        "torch.load(p, weights_only=False)", "np.load(p, allow_pickle=True)", "yaml.load(t, Loader=L)",
        "eval(text)", "exec(text)", "subprocess.run(c, shell=True)", "os.system(c)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
    ],
)  # fmt: skip
def test_the_rule_sees_what_it_is_for(code: str) -> None:
    assert faults(code)


# --- bombs ---------------------------------------------------------------------------------------------


class Bomb:
    """Unpickled, it writes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _explode, (str(self.canary),)


def _explode(path: str) -> dict[str, Any]:
    Path(path).write_text("it ran")
    return {}


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that appears where a bomb goes off; that bombs do go off is seen first."""
    path = tmp_path / "canary"
    pickle.loads(pickle.dumps(Bomb(path)))  # noqa: S301
    assert path.exists()
    path.unlink()
    return path


def refused(read: Callable[[], object]) -> str:
    """The one line with which something is refused."""
    with pytest.raises(SceneLiftError) as caught:
        read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt", ".safetensors"])
@pytest.mark.parametrize("kind", ["pickle", "torch", "tensor beside it"])
def test_weights_that_would_run_code(tmp_path: Path, canary: Path, suffix: str, kind: str) -> None:
    path = tmp_path / f"weights{suffix}"
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"a": Bomb(canary)}))
    else:
        torch.save({"a": torch.zeros(2), "b": Bomb(canary)}, path)
    for read in (read_state_dict, load_meta):
        assert path.name in refused(lambda read=read: read(path))  # type: ignore[misc]
    assert not canary.exists()


def test_arrays_that_would_run_code(tmp_path: Path, canary: Path) -> None:
    objects = np.empty((2, 3), object)
    objects[:] = Bomb(canary)
    fields = np.zeros(2, [("x", "f4"), ("y", "f4"), ("z", "f4"), ("o", "O")])
    fields["o"] = Bomb(canary)
    for number, array in enumerate((objects, fields)):
        path = tmp_path / f"{number}.npy"
        np.save(path, array, allow_pickle=True)
        for read in (read_npy, read_cloud):
            assert path.name in refused(lambda read=read, path=path: read(path))  # type: ignore[misc]
    raw = tmp_path / "raw.npy"
    raw.write_bytes(pickle.dumps(Bomb(canary)))
    for read in (read_npy, read_cloud):
        refused(lambda read=read: read(raw))  # type: ignore[misc]
    np.savez(tmp_path / "a.npz", points=objects)
    refused(lambda: read_cloud(tmp_path / "a.npz"))
    assert not canary.exists()


YAML_BOMBS = [
    "!!python/object/apply:os.system ['touch {canary}']",
    "!!python/object/new:os.system ['touch {canary}']",
    "seed: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{canary}']]",
    "seed: !!python/name:os.system",
    "seed: !!python/module:this",
]


@pytest.mark.parametrize("text", YAML_BOMBS)
def test_yaml_that_would_run_code(tmp_path: Path, canary: Path, text: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text.format(canary=canary))
    assert "recipe.yaml" in refused(lambda: load(str(path)))
    assert "recipe.yaml" in refused(lambda: load_resolved(path))
    refused(lambda: load("cns", [f"seed={text.format(canary=canary).removeprefix('seed: ')}"]))
    assert not canary.exists()
    if "apply:os" in text:
        yaml.unsafe_load(text.format(canary=canary))
        assert canary.exists()  # it would have


def test_yaml_that_unpacks_to_billions(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    levels = ["a0: &a0 {x: 1}"]
    levels += [f"a{i}: &a{i} {{p: *a{i - 1}, q: *a{i - 1}, r: *a{i - 1}}}" for i in range(1, 40)]
    path.write_text("\n".join(levels))
    with pytest.raises(ConfigError, match="found an alias"):
        load(str(path))
    path.write_text("a: &a [*a]")
    with pytest.raises(ConfigError, match="found an alias"):
        load(str(path))
    path.write_text("[" * 1_000)
    with pytest.raises(ConfigError, match=r"hundreds|cannot be read"):
        load(str(path))
    with pytest.raises(ConfigError, match="override"):
        load("cns", ["seed=" + "[" * 1_000])


def test_archives_unpack_nowhere(tmp_path: Path, canary: Path) -> None:
    """A .pth is a zip; names in it that lead elsewhere are names and nothing more."""
    inside = tmp_path / "deep" / "inside"
    inside.mkdir(parents=True)
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, stream)
    path = inside / "weights.pth"
    with zipfile.ZipFile(stream) as good, zipfile.ZipFile(path, "w") as bad:
        for name in good.namelist():
            bad.writestr(name, good.read(name))
        for name in ("../../canary", str(canary), "archive/../../../canary"):
            bad.writestr(name, "it was unpacked")
    try:
        state = read_state_dict(path)
    except SceneLiftError:
        pass
    else:
        assert list(state) == ["a"]
    assert not list(tmp_path.rglob("*canary*"))


HEADERS = {
    "claims 2^63": (1 << 63).to_bytes(8, "little") + b"{}",
    "claims 1 GiB": (1 << 30).to_bytes(8, "little") + b"{}" + bytes(100),
    "huge": (4 << 20).to_bytes(8, "little") + b'{"__metadata__":{"scenelift":"' + b"a" * (4 << 20),
    "deep": (200_000).to_bytes(8, "little") + b"[" * 200_000,
    "tensor of 2^60": b"",
    "negative": b"",
    "many dimensions": b"",
}


def header(kind: str) -> bytes:
    if HEADERS[kind]:
        return HEADERS[kind]
    shape, end = {
        "tensor of 2^60": ([1 << 60], 1 << 62),
        "negative": ([-4], 16),
        "many dimensions": ([1] * 5000 + [4], 16),
    }[kind]
    text = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(16)


@pytest.mark.parametrize("kind", HEADERS)
def test_safetensors_headers_made_to_do_harm(tmp_path: Path, kind: str) -> None:
    key = cache_key("masks", a=1)
    cache = Cache(tmp_path / "cache")
    path = cache.path(key)
    path.parent.mkdir(parents=True)
    data = header(kind)
    tracemalloc.start()
    try:
        path.write_bytes(data)
        assert list(cache.entries()) == []
        assert [damage.path for damage in cache.verify()] == [path]
        assert cache.get(key) is None
        path.write_bytes(data)
        with pytest.raises(RunError, match=key.digest):
            checkpoint.read_networks(path)
        refused(lambda: read_state_dict(path)) if kind != "many dimensions" else None
        if "claims" in kind:
            assert damage_of_safetensors(path) is not None
        assert nuimages_index._load(path, "now") is None
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * len(data) + (16 << 20)
