import errno
import hashlib
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenelift import cache as cache_module
from scenelift import entries
from scenelift.cache import CODE_VERSIONS, Cache, Key, array_digest, cache_key
from scenelift.errors import CacheError, ConfigError
from scenelift.files import is_temp

SIZED = [f"{kind}{bits}" for kind in ("int", "uint", "float") for bits in (8, 16, 32, 64)]
DTYPES = [np.dtype(name) for name in ["bool", *SIZED, ">f4", ">u2"] if name != "float8"]
any_array = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)
JSON_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
any_json = st.recursive(
    JSON_LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)

WRITER = """
import os, signal, sys
from pathlib import Path
import numpy as np
from scenelift.cache import Cache, cache_key

def entry(i):
    return cache_key("masks", i=i), {"a": np.full((500, 1000), i, np.float32)}, {"i": i}
"""


def entry(i: int) -> tuple[Key, dict[str, np.ndarray], dict[str, int]]:
    """The same as in WRITER."""
    return cache_key("masks", i=i), {"a": np.full((500, 1000), i, np.float32)}, {"i": i}


def writer(code: str, *args: object, **options: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WRITER + code, *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Bit for bit, whatever the byte order in memory."""
    native = a.astype(a.dtype.newbyteorder("<"))
    return native.dtype == b.dtype and a.shape == b.shape and native.tobytes() == b.tobytes()


def small(cache: Cache, i: int = 0, stage: str = "masks", length: int = 100) -> Key:
    key = cache_key(stage, i=i)
    cache.put(key, {"ids": np.arange(length, dtype=np.uint16), "x": np.float32(i).reshape(())}, {"i": i})
    return key


def files_below(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


# --- round trip ----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(
    arrays=st.dictionaries(
        st.text(min_size=1, max_size=5).filter(lambda n: n != "__metadata__"),
        any_array,
        min_size=1,
        max_size=3,
    ),
    meta=st.dictionaries(st.text(max_size=4), any_json, max_size=3),
    codecs=st.lists(st.sampled_from([None, "map", "grid"]), min_size=3, max_size=3),
)
def test_what_is_put_comes_back_bit_for_bit(tmp_path_factory, arrays, meta, codecs):
    cache = Cache(tmp_path_factory.mktemp("cache"))
    key = cache_key("masks", a=1)
    cache.put(key, arrays, meta, {name: c for name, c in zip(arrays, codecs, strict=False) if c})
    for again in (False, True, True):
        found = cache.get(key, again)
        assert found is not None
        assert found.meta == meta
        assert found.arrays.keys() == arrays.keys()
        assert all(same(arrays[name], found.arrays[name]) for name in arrays)
        assert all(array.flags.writeable for array in found.arrays.values())
        assert again or all(array.flags.c_contiguous for array in found.arrays.values())
    assert cache.verify() == []


def test_strided_arrays_come_back_by_value(tmp_path):
    cache, key = Cache(tmp_path), cache_key("pairs", a=1)
    base = np.arange(24, dtype=np.int32).reshape(4, 6)
    arrays = {"transposed": base.T, "every_other": base[::2, ::-1]}
    cache.put(key, arrays, {})
    found = cache.get(key)
    assert found is not None
    assert all(np.array_equal(found.arrays[name], arrays[name]) for name in arrays)


def test_a_miss_is_none_and_touches_nothing(tmp_path):
    cache = Cache(tmp_path / "not" / "there")
    key = cache_key("text", a=1)
    assert cache.get(key) is None
    assert not cache.has(key)
    assert list(cache.entries()) == cache.verify() == cache.prune(stage="text") == cache.sweep() == []
    assert cache.stats() == {}
    assert list(tmp_path.iterdir()) == []


def test_layout_and_manifest_explain_the_file(tmp_path):
    cache = Cache(tmp_path)
    key = small(cache, 3)
    path = tmp_path / "masks" / key.digest[:2] / f"{key.digest}.safetensors"
    assert files_below(tmp_path) == [path] == [cache.path(key)]
    assert cache.has(key)
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    manifest = json.loads(header["__metadata__"]["scenelift"])
    assert manifest["stage"] == "masks"
    assert manifest["digest"] == key.digest
    assert manifest["meta"] == {"i": 3}
    assert manifest["created"].endswith("+00:00")
    assert {"format", "version", "checksum"} < manifest.keys()


PLAIN = (
    '{"__metadata__":{"scenelift":"{\\"format\\": 1, \\"stage\\": \\"text\\", \\"digest\\": '
    '\\"9f03e6a3\\", \\"meta\\": {\\"i\\": 3}, \\"version\\": \\"0.1.0\\", \\"created\\": '
    '\\"2026-01-01T00:00:00+00:00\\", \\"checksum\\": \\"CHECKSUM\\"}"},'
    '"ids":{"dtype":"U16","shape":[2,2],"data_offsets":[0,8]}}'
)
"""Header of an entry as versions before packing wrote it."""


def test_entries_written_before_arrays_were_packed_are_read(tmp_path):
    ids = np.array([[1, 2], [3, 40_000]], np.uint16)
    state = hashlib.blake2b(digest_size=20)
    manifest = {
        "format": 1, "stage": "text", "digest": "9f03e6a3", "meta": {"i": 3}, "version": "0.1.0",
        "created": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    state.update(json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode())
    state.update(b'"ids"<u2(2, 2)' + ids.tobytes())
    header = PLAIN.replace("CHECKSUM", state.hexdigest()).encode()
    key = Key("text", "9f03e6a3")
    path = Cache(tmp_path).path(key)
    path.parent.mkdir(parents=True)
    path.write_bytes(len(header).to_bytes(8, "little") + header + ids.tobytes())
    found = Cache(tmp_path).get(key)
    assert found is not None
    assert found.meta == {"i": 3}
    assert same(ids, found.arrays["ids"])
    assert Cache(tmp_path).verify() == []


def test_packed_arrays_are_checked_as_they_will_be_read(tmp_path, caplog):
    cache, key = Cache(tmp_path), cache_key("masks", i=1)
    ids = np.repeat(np.arange(60, dtype=np.uint16), 50).reshape(60, 50)
    cache.put(key, {"ids": ids}, {}, {"ids": "map"})
    path = cache.path(key)
    content = path.read_bytes()
    assert len(content) < 2000 < ids.nbytes
    start = 8 + int.from_bytes(content[:8], "little")
    for position in range(start, len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        assert [damage.path for damage in cache.verify()] == [path]
        assert cache.get(key) is None
    path.write_bytes(content.replace(b"[60, 50]", b"[60, 51]"))
    assert cache.get(key) is None
    assert "do not unpack to the 6120 bytes declared" in caplog.text


def test_what_is_read_again_and_again_is_checked_once(tmp_path, monkeypatch):
    cache, key = Cache(tmp_path), cache_key("pairs", i=1)
    cache.put(key, {"ids": np.arange(9)}, {})
    checked, original = [], entries._checksum
    monkeypatch.setattr(entries, "_checksum", lambda *args: checked.append(1) or original(*args))
    for _ in range(3):
        assert cache.get(key, again=True) is not None
    assert len(checked) == 1
    cache.get(key)
    assert len(checked) == 2
    path = cache.path(key)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert Cache(tmp_path).get(key, again=True) is None  # at the first sight of another process


def test_claims_are_no_entries(tmp_path):
    cache, lock = Cache(tmp_path), tmp_path / "claims" / "abc.lock"
    lock.parent.mkdir()
    lock.touch()
    small(cache)
    assert [info.stage for info in cache.entries()] == ["masks"]
    assert (cache.verify(), cache.sweep(), list(cache.stats())) == ([], [], ["masks"])
    assert len(cache.prune(max_bytes=0)) == 1
    assert files_below(tmp_path) == [lock]


def test_put_replaces(tmp_path):
    cache, key = Cache(tmp_path), cache_key("text", a=1)
    for value in (1, 2):
        cache.put(key, {"a": np.array([value])}, {"value": value})
    found = cache.get(key)
    assert found is not None
    assert (found.arrays["a"][0], found.meta) == (2, {"value": 2})
    assert len(files_below(tmp_path)) == 1


@pytest.mark.parametrize(
    ("arrays", "meta", "error"),
    [
        ({}, {}, ValueError),
        ({"a": np.zeros(2, complex)}, {}, TypeError),
        ({"a": np.array([object()])}, {}, TypeError),
        ({"a": np.array(["text"])}, {}, TypeError),
        ({"a": np.zeros(1, np.longdouble)}, {}, TypeError),
        ({"a": np.zeros(1)}, {"bad": np.zeros(1)}, TypeError),
        ({"a": np.zeros(1)}, {"bad": float("nan")}, ValueError),
    ],
)
def test_what_cannot_be_kept_is_refused_before_anything_is_written(tmp_path, arrays, meta, error):
    with pytest.raises(error):
        Cache(tmp_path).put(cache_key("text", a=1), arrays, meta)
    assert list(tmp_path.iterdir()) == []


def test_importing_the_cache_does_not_import_torch():
    code = "import sys, scenelift.cache; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- keys ----------------------------------------------------------------------------------------------

DISTINCT_PARTS = [
    None, True, False, 0, 1, -1, 1.0, 0.0, -0.0, 1e-9, float("inf"), "", "1", "None", "a", b"", b"a",
    [], {}, [[]], [1], [1, 2], [2, 1], [[1], 2], {"a": 1}, {"a": 2}, {"b": 1}, {"a": {"a": 1}},
    ["dict", {}], ["list"],
    np.zeros(0), np.zeros((0, 1)), np.zeros(()), np.zeros(1), np.zeros(2), np.zeros((1, 2)),
    np.zeros(2, np.float32), np.array([0.0, -0.0]), np.zeros(2, np.int64), np.zeros(2, bool),
    np.zeros(16, np.uint8), bytes(16),
    ["array", array_digest(np.zeros(2))],
]  # fmt: skip


def test_every_distinct_part_gives_another_key():
    keys = {cache_key("masks", part=part).digest for part in DISTINCT_PARTS}
    assert len(keys) == len(DISTINCT_PARTS)
    assert cache_key("masks", part=1) != cache_key("masks", other=1) != cache_key("masks")


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.text(max_size=4), any_json, min_size=2, max_size=5), st.randoms())
def test_order_does_not_matter_content_does(parts, shuffler):
    names = list(parts)
    shuffler.shuffle(names)
    key = cache_key("pairs", config=parts, z=1, a=2)
    assert key == cache_key("pairs", a=2, z=1, config={name: parts[name] for name in names})
    without = {name: parts[name] for name in names[1:]}
    assert key != cache_key("pairs", config=without, z=1, a=2)


def test_key_of_an_array_depends_on_values_not_on_memory():
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    for alike in (
        values.copy(),
        np.asfortranarray(values),
        values.astype(">f4"),
        np.repeat(values, 2, 0)[::2],
    ):
        assert cache_key("cloud", a=alike) == cache_key("cloud", a=values)
    changed = values.copy()
    changed[2, 3] = np.nextafter(changed[2, 3], np.float32(np.inf))
    for other in (changed, values.T, values.reshape(4, 3), values.astype(np.float64), values.view(np.int32)):
        assert cache_key("cloud", a=other) != cache_key("cloud", a=values)
    assert cache_key("cloud", a=(1, [2])) == cache_key("cloud", a=[1, (2,)])


def test_key_depends_on_stage_and_code_version(monkeypatch):
    keys = {cache_key(stage, a=1).digest for stage in CODE_VERSIONS}
    assert len(keys) == len(CODE_VERSIONS)
    monkeypatch.setitem(CODE_VERSIONS, "masks", CODE_VERSIONS["masks"] + 1)
    assert cache_key("masks", a=1).digest not in keys
    assert cache_key("pairs", a=1).digest in keys


def test_keys_are_the_same_in_every_process():
    # If this value changes, every cache there is is lost: change CODE_VERSIONS or the format instead.
    part = {"b": [1, 2.5, None, True, "é"], "a": np.arange(3, dtype=np.uint16), "c": b"x"}
    assert cache_key("text", part=part).digest == "ff5643f48b8bc63be664910e9dcdd1c2a00376f5"


@pytest.mark.parametrize(
    "part", [object(), {1: "a"}, {"a": {2}}, [np.int64(3)], np.array([None]), Path("x"), 1j]
)
def test_parts_that_have_no_canonical_form_are_a_type_error(part):
    with pytest.raises(TypeError, match="found"):
        cache_key("masks", part=part)


def test_unknown_stage_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="'mask'"):
        cache_key("mask", a=1)
    with pytest.raises(ConfigError, match="label_features"):
        Cache(tmp_path).prune(stage="mask")


def test_array_digest_tells_arrays_apart():
    a, b = np.arange(4, dtype=np.uint8), np.arange(2, dtype=np.uint8)
    digests = [
        array_digest(*arrays)
        for arrays in [(), (a,), (a, b), (b, a), (a, a), (a[:2], a[2:]), (a.reshape(2, 2),)]
    ]
    assert len(set(digests)) == len(digests)
    assert array_digest(a, b) == array_digest(a.copy(), b.copy())


# --- damage --------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_a_flipped_bit_is_a_miss_or_harmless(tmp_path_factory, data):
    cache = Cache(tmp_path_factory.mktemp("cache"))
    key = small(cache)
    intact = cache.get(key)
    path = cache.path(key)
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    in_arrays = position >= 8 + int.from_bytes(path.read_bytes()[:8], "little")
    reported = [damage.path for damage in cache.verify()]
    found = cache.get(key)
    if found is None:
        assert reported == [path]
        assert not path.exists()
    else:  # the case of an escape or a space in the header: nothing that is read has changed
        assert reported == []
        assert not in_arrays
        assert intact is not None
        assert found.meta == intact.meta
        assert all(same(intact.arrays[name], found.arrays[name]) for name in intact.arrays)


def test_every_flipped_bit_of_the_arrays_is_found(tmp_path, caplog):
    cache = Cache(tmp_path)
    key = small(cache)
    path = cache.path(key)
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    for position in range(start, len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        caplog.clear()
        assert cache.get(key) is None
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert str(path) in caplog.text
        assert not cache.has(key)


def test_once_read_only_the_header_protects(tmp_path):
    cache = Cache(tmp_path)
    key = small(cache)
    assert cache.get(key) is not None
    path = cache.path(key)
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    assert cache.get(key, again=True) is not None
    assert cache.get(key) is None


def test_truncation_at_any_length_is_a_miss(tmp_path):
    cache = Cache(tmp_path)
    key = small(cache)
    path = cache.path(key)
    content = path.read_bytes()
    for length in [*range(60), *range(60, len(content), 7), len(content) - 1]:
        for again in (True, False):
            path.write_bytes(content)
            assert cache.get(key) is not None
            path.write_bytes(content[:length])
            assert [damage.path for damage in cache.verify()] == [path]
            list(cache.entries())  # never raises
            assert cache.get(key, again) is None
            assert not path.exists()


def test_an_entry_under_another_name_is_a_miss(tmp_path):
    cache = Cache(tmp_path)
    key, other = small(cache, 1), cache_key("masks", i=2)
    cache.path(other).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(cache.path(key), cache.path(other))
    (damage,) = cache.verify()
    assert damage.path == cache.path(other)
    assert key.digest in damage.reason
    assert cache.get(other) is None
    assert cache.get(key) is not None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        b"\xff" * 64,
        b"\x02" + bytes(7) + b"{}",
        b"\x04" + bytes(7) + b"[[]]",
        b"PK\x03\x04" * 50,
    ],
)
def test_files_that_are_no_entries(tmp_path, content):
    cache, key = Cache(tmp_path), cache_key("masks", i=1)
    cache.path(key).parent.mkdir(parents=True)
    cache.path(key).write_bytes(content)
    assert list(cache.entries()) == []
    assert [damage.path for damage in cache.verify()] == [cache.path(key)]
    assert [damage.path for damage in cache.verify(remove=True)] == [cache.path(key)]
    assert cache.verify() == []
    assert not cache.has(key)


def test_an_entry_that_cannot_be_read_is_an_error_not_a_miss(tmp_path):
    cache, key = Cache(tmp_path), cache_key("masks", i=1)
    cache.path(key).mkdir(parents=True)
    with pytest.raises(CacheError, match="cannot be read"):
        cache.get(key)


# --- processes -----------------------------------------------------------------------------------------


def check_consistent(cache: Cache) -> None:
    assert cache.verify() == []
    for info in cache.entries():
        key, arrays, meta = entry(int(info.meta["i"]))
        found = cache.get(key)
        assert found is not None
        assert info.digest == key.digest
        assert found.meta == meta
        assert same(arrays["a"], found.arrays["a"])


def test_writers_killed_at_random_moments_leave_a_consistent_cache(tmp_path):
    cache, chance = Cache(tmp_path), random.Random(0)
    loop = """
print("ready", flush=True)
for i in range(10**6):
    Cache(Path(sys.argv[1])).put(*entry(i % 50))
"""
    for _ in range(6):
        with writer(loop, tmp_path) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(chance.uniform(0.0, 0.1))
            process.kill()
        check_consistent(cache)
    cache.sweep()
    assert not any(is_temp(path) for path in files_below(tmp_path))
    cache.put(*entry(0))
    assert cache.get(entry(0)[0]) is not None


@pytest.mark.parametrize("call", ["os.fsync", "os.replace", "os.close"])
def test_a_writer_killed_at_a_given_step_leaves_only_a_temporary_file(tmp_path, call):
    cache = Cache(tmp_path)
    die = f"{call} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
    die += "Cache(Path(sys.argv[1])).put(*entry(1))"
    with writer(die, tmp_path) as process:
        assert process.wait() == -signal.SIGKILL
    (left,) = files_below(tmp_path)
    assert is_temp(left)
    assert left.stat().st_size > 2_000_000  # a whole entry, but not under its name
    assert not cache.has(entry(1)[0])
    assert list(cache.entries()) == cache.verify() == []
    assert cache.stats() == {}
    cache.prune(max_bytes=10**9, dry_run=True)
    assert left.exists()
    cache.prune(max_bytes=10**9)
    assert files_below(tmp_path) == []


def test_processes_that_put_the_same_keys_do_not_disturb_each_other(tmp_path):
    cache = Cache(tmp_path)
    code = "for i in 2 * list(range(8)): Cache(Path(sys.argv[1])).put(*entry(i))"
    processes = [writer(code, tmp_path) for _ in range(4)]
    while any(process.poll() is None for process in processes):
        check_consistent(cache)
        assert cache.sweep() == []  # nobody's unfinished file is taken away
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    check_consistent(cache)
    assert len(list(cache.entries())) == len(files_below(tmp_path)) == 8


# --- failures of the disk ------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_disk_full_names_key_and_sizes_and_leaves_nothing(tmp_path, monkeypatch, call):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cache, key = Cache(tmp_path), cache_key("masks", i=0)
    monkeypatch.setattr(os, call, full)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=12_345))
    with pytest.raises(CacheError, match="disk full") as failure:
        small(cache)
    monkeypatch.undo()
    assert str(key) in str(failure.value)
    assert "free 12,345 bytes" in str(failure.value)
    assert files_below(tmp_path) == []
    small(cache)
    needed = cache.path(key).stat().st_size
    assert f"needs {needed:,} bytes" in str(failure.value)


def test_a_real_limit_on_file_size_leaves_the_old_entry(tmp_path):
    pytest.importorskip("resource")
    cache = Cache(tmp_path)
    key = small(cache)
    before = cache.path(key).read_bytes()
    code = f"""
import resource
from scenelift.cache import Key
from scenelift.errors import CacheError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    Cache(Path(sys.argv[1])).put(Key("masks", {key.digest!r}), entry(1)[1], {{}})
except CacheError as error:
    print(error)
"""
    with writer(code, tmp_path) as process:
        message, _ = process.communicate()
    assert key.digest in message
    assert "needs 2,000," in message
    assert files_below(tmp_path) == [cache.path(key)]
    assert cache.path(key).read_bytes() == before


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_read_only_cache_serves_and_refuses(tmp_path):
    cache = Cache(tmp_path)
    good, bad = small(cache, 1), small(cache, 2)
    cache.path(bad).write_bytes(b"damaged")
    folders = [tmp_path, *(p for p in tmp_path.rglob("*") if p.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    code = f"""
from scenelift.cache import Key
from scenelift.errors import CacheError
import logging; logging.disable()
if os.getuid() == 0:
    os.setgid(65534); os.setuid(65534)  # root may write anywhere
cache = Cache(Path("."))
assert cache.get(Key("masks", {good.digest!r})).meta == {{"i": 1}}
assert cache.get(Key("masks", {bad.digest!r})) is None and cache.has(Key("masks", {bad.digest!r}))
def put(): cache.put(*entry(5))
def prune(): cache.prune(stage="masks")
def verify(): cache.verify(remove=True)
for action in (put, prune, verify):
    try:
        action()
    except CacheError as error:
        print(error)
"""
    try:
        with writer(code, cwd=tmp_path) as process:
            messages, _ = process.communicate()
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert process.returncode == 0
    put, prune, verify = messages.splitlines()
    assert "no permission" in put
    assert "cannot remove" in prune
    assert "cannot remove" in verify
    assert len(files_below(tmp_path)) == 2


def test_a_file_where_the_cache_should_be(tmp_path):
    (tmp_path / "cache").write_text("I am a file")
    cache = Cache(tmp_path / "cache")
    with pytest.raises(CacheError, match="a file stands where a folder is needed"):
        small(cache)
    with pytest.raises(CacheError, match="cannot be read"):
        cache.get(cache_key("masks", i=0))
    assert not cache.has(cache_key("masks", i=0))


# --- listing and pruning -------------------------------------------------------------------------------


def used_days_ago(cache: Cache, key: Key, days: float) -> None:
    then = time.time() - days * 86400
    os.utime(cache.path(key), (then, then))


@pytest.fixture
def aged(tmp_path) -> "tuple[Cache, dict[int, Key]]":
    """Five entries of one size, used 1 to 5 days ago (by their numbers); odd ones masks, even ones text."""
    cache = Cache(tmp_path)
    keys = {day: small(cache, day, "masks" if day % 2 else "text") for day in range(1, 6)}
    for day, key in keys.items():
        used_days_ago(cache, key, day)
    return cache, keys


def test_entries_and_stats(aged):
    cache, keys = aged
    infos = list(cache.entries())
    assert {(info.stage, info.digest) for info in infos} == {(key.stage, key.digest) for key in keys.values()}
    for info in infos:
        assert info.bytes == info.path.stat().st_size
        assert keys[info.meta["i"]].digest == info.digest
        age_days = (info.created - info.last_used).total_seconds() / 86400
        assert age_days == pytest.approx(info.meta["i"], abs=0.01)
    stats = cache.stats()
    assert list(stats) == ["masks", "text"]
    assert [of_stage.entries for of_stage in stats.values()] == [3, 2]
    assert sum(of_stage.bytes for of_stage in stats.values()) == sum(info.bytes for info in infos)


@pytest.mark.parametrize(
    ("limits", "gone"),
    [
        ({"older_than_days": 3.5}, [5, 4]),
        ({"older_than_days": 3.5, "stage": "text"}, [4]),
        ({"older_than_days": 99}, []),
        ({"older_than_days": float("inf")}, []),
        ({"older_than_days": 0}, [5, 4, 3, 2, 1]),
        ({"max_entries": 2}, [5, 4, 3]),
        ({"max_entries": 2, "stage": "masks"}, [5]),
        ({"max_entries": 4, "older_than_days": 2.5}, [5, 4, 3]),
        ({"max_entries": 1, "older_than_days": 2.5}, [5, 4, 3, 2]),
        ({"max_bytes": 0}, [5, 4, 3, 2, 1]),
        ({"stage": "masks"}, [5, 3, 1]),
    ],
)
def test_prune_removes_the_least_recently_used(aged, limits, gone):
    cache, keys = aged
    if "max_entries" in limits:
        sizes = [info.bytes for info in cache.entries()]
        assert max(sizes) - min(sizes) < 16
        rest = {name: limit for name, limit in limits.items() if name != "max_entries"}
        limits = {**rest, "max_bytes": limits["max_entries"] * max(sizes)}
    planned = cache.prune(**limits, dry_run=True)
    assert len(files_below(cache.root)) == 5
    removed = cache.prune(**limits)
    assert [info.meta["i"] for info in planned] == [info.meta["i"] for info in removed] == gone
    assert {day for day, key in keys.items() if not cache.has(key)} == set(gone)


def test_get_counts_as_use(aged):
    cache, keys = aged
    cache.get(keys[5])
    assert [info.meta["i"] for info in cache.prune(older_than_days=2.5)] == [4, 3]


@pytest.mark.parametrize("limits", [{}, {"older_than_days": -1}, {"max_bytes": -1}])
def test_prune_refuses_what_makes_no_sense(aged, limits):
    cache, _ = aged
    with pytest.raises(ConfigError, match="prune"):
        cache.prune(**limits)
    assert len(files_below(cache.root)) == 5


def test_the_cache_prints_nothing(tmp_path, capsys):
    cache = Cache(tmp_path)
    key = small(cache)
    cache.path(key).write_bytes(b"damaged")
    cache.get(key)
    cache.prune(stage="masks")
    assert capsys.readouterr() == ("", "")
    assert cache_module._log.name == "scenelift.cache"
