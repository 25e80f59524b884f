"""Claims: one process at a time, free again when it ends, and several processes annotating one data set."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures_scenes import CLASSES, FakeLabelTeacher, FakeMaskTeacher, tiny_source
from scenelift import claims as claims_module
from scenelift.annotate import annotate
from scenelift.cache import Cache, Key
from scenelift.claims import Claims
from scenelift.config import PairingConfig

WAIT_S = 60.0


def python(code: str, *args: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, args)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, env=env)


HOLD = """
import sys
from pathlib import Path
from scenelift.claims import Claims
with Claims(Path(sys.argv[1])) as claims:
    print(claims.take("abc0"), flush=True)
    sys.stdin.read()
"""


def test_a_claim_is_given_once(tmp_path: Path) -> None:
    with Claims(tmp_path) as mine, Claims(tmp_path) as other:
        assert mine.take("abc01")
        assert not mine.take("abc01")
        assert not mine.take("abc02")  # shares the file
        assert not other.take("abc01")
        assert other.take("abd01")
        mine.release("abc01")
        assert other.take("abc01")
    with Claims(tmp_path) as later:
        assert later.take("abc01")
        assert later.take("abd01")
    assert sorted(path.name for path in (tmp_path / "claims").iterdir()) == ["abc.lock", "abd.lock"]


def test_an_error_gives_claims_back(tmp_path: Path) -> None:
    def work() -> None:
        with Claims(tmp_path) as claims:
            assert claims.take("abc")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    with Claims(tmp_path) as claims:
        assert claims.take("abc")


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    with python(HOLD, tmp_path) as process, Claims(tmp_path) as claims:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        assert not claims.take("abc1")
        process.kill()
        process.wait()
        assert claims.take("abc1")


@pytest.mark.parametrize("error", [OSError(errno.ENOTSUP, "not supported"), NotImplementedError("no flock")])
def test_without_locks_everything_is_granted_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    class NoLock:
        def __init__(self, path: Path, **options: object) -> None:
            pass

        def acquire(self) -> None:
            raise error

    monkeypatch.setattr(claims_module, "FileLock", NoLock)
    with Claims(tmp_path) as claims:
        assert claims.take("abc")
        assert claims.take("abd")
        assert not claims.take("abc")  # even so, not twice at a time in one process
        claims.release("abc")
        assert claims.take("abc")
    assert len(caplog.records) == 1
    assert "cannot be locked" in caplog.text


# --- processes on one cache ----------------------------------------------------------------------------

FRAMES, SCENES = 8, 3
ANNOTATE = f"""
import os, signal, sys, time
from pathlib import Path
from fixtures_scenes import CLASSES, FakeLabelTeacher, FakeMaskTeacher, tiny_source
from scenelift import annotate as module
from scenelift.cache import Cache
from scenelift.config import PairingConfig

module.SECONDS_BETWEEN_LOOKS = 0.05
folder = Path(sys.argv[1])
EVERYONE = ["a.started", "b.started", "c.started"]
source = tiny_source(num_scenes={SCENES}, frames={FRAMES})

def wait_for(*names):
    while not all((folder / name).exists() for name in names):
        time.sleep(0.01)

class Slow(FakeMaskTeacher):
    "Notes what it is asked; stays at its first frames until all workers have some, or for good."

    def __init__(self, name):
        super().__init__(source.truth)
        self.name = name

    def masks(self, frames):
        with (folder / f"{{self.name}}.asked").open("a") as log:
            print(*(frame.key for frame in frames), sep="\\n", file=log)
        (folder / f"{{self.name}}.started").touch()
        wait_for(*(["never"] if self.name == "victim" else EVERYONE))
        return super().masks(frames)

def start(name):
    child = os.fork()
    if child == 0:
        module.annotate(
            source, source.names("train"), CLASSES, FakeLabelTeacher(source.truth), Slow(name),
            PairingConfig(depth_tolerance_m=0.1), Cache(folder / "cache"), batch_size=3, features="paired",
        )
        os._exit(0)
    return child

victim = start("victim")
wait_for("victim.started")
workers = [start(name) for name in "abc"]
wait_for(*EVERYONE)
os.kill(victim, signal.SIGKILL)
for child in (victim, *workers):
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
"""One process that forks four, which is cheaper than four that import everything."""


def content(cache: Cache) -> dict[Key, list[tuple[str, bytes]]]:
    found = {}
    for info in cache.entries():
        entry = cache.get(Key(info.stage, info.digest))
        assert entry is not None
        found[Key(info.stage, info.digest)] = [(k, a.tobytes()) for k, a in sorted(entry.arrays.items())]
    return found


def alone(folder: Path) -> dict[Key, list[tuple[str, bytes]]]:
    """What one process makes of it."""
    source = tiny_source(num_scenes=SCENES, frames=FRAMES)
    assert source.truth is not None
    teachers = FakeLabelTeacher(source.truth), FakeMaskTeacher(source.truth)
    config, cache = PairingConfig(depth_tolerance_m=0.1), Cache(folder)
    annotate(source, source.names("train"), CLASSES, *teachers, config, cache, features="paired")
    return content(cache)


@pytest.mark.skipif(os.name != "posix", reason="kills a process the POSIX way")
def test_processes_share_the_frames_and_outlive_one_that_is_killed(tmp_path: Path) -> None:
    """Every frame is asked about once, but for those the killed process was at; and nothing else differs."""
    with python(ANNOTATE, tmp_path) as process:
        try:
            out, _ = process.communicate(timeout=WAIT_S)
        finally:
            process.kill()
    assert out.split() == ["-9", "0", "0", "0"]
    lost, *asked = [(tmp_path / f"{n}.asked").read_text().split() for n in ("victim", "a", "b", "c")]
    assert lost == ["scene0/f0", "scene0/f1", "scene0/f2"]
    every = sorted(f"scene{s}/f{f}" for s in range(SCENES) for f in range(FRAMES))
    assert sorted(frame for part in asked for frame in part) == every
    assert all(asked)
    cache = Cache(tmp_path / "cache")
    assert cache.verify() == []
    assert content(cache) == alone(tmp_path / "alone")


def test_a_frame_that_another_finished_meanwhile_is_not_asked_again(tmp_path: Path) -> None:
    """Between the first look and the claim."""
    source = tiny_source(num_scenes=1, frames=2)
    assert source.truth is not None
    cache, config = Cache(tmp_path / "cache"), PairingConfig(depth_tolerance_m=0.1)

    def run(labels: FakeLabelTeacher) -> None:
        assert source.truth is not None
        masks = FakeMaskTeacher(source.truth)
        annotate(source, ["scene0"], CLASSES, labels, masks, config, cache, batch_size=1)

    class Late(FakeLabelTeacher):
        """While it answers for the first frame, another process finishes everything else."""

        def image_features(self, frames):  # type: ignore[no-untyped-def]
            if not self.asked:
                other = FakeLabelTeacher(source.truth)  # type: ignore[arg-type]
                one = source.scenes["scene0"]
                source.scenes["scene0"] = type(one)(one.name, one.points_world, one.rgb, one.frames[1:])
                run(other)
                source.scenes["scene0"] = one
                assert other.asked == ["scene0/f1"]
            return super().image_features(frames)

    late = Late(source.truth)
    run(late)
    assert late.asked == ["scene0/f0"]
    assert cache.verify() == []
