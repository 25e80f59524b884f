"""The code blocks of README.md and docs/: what stands in for data, which are not run, and why."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from typer.main import get_command

import generate
from fixtures_capture import room_frames, write_capture
from layouts_capture import write_seven_scenes, write_transforms
from layouts_kitti import write_odometry
from layouts_lidar import write_lidar
from layouts_nuimages import write_images, write_nuimages
from layouts_nuscenes import write_nuscenes
from layouts_scannet import write_scannet
from scenelift.cli import app
from scenelift.cli_annotate import with_address

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])

# --- what is written ------------------------------------------------------------------------------------


class Block(NamedTuple):
    """A fenced block: its page relative to the root, the line it begins at, its language, its text."""

    page: str
    line: int
    language: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """Every fenced block of a page."""
    name, found, start, language = str(page.relative_to(ROOT)), [], 0, ""
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if not line.startswith("```"):
            continue
        if start:
            found.append(Block(name, start, language, "\n".join(lines[start : number - 1])))
            start = 0
        else:
            start, language = number, line[3:].split(" ")[0].strip()
    assert not start, f"{name}:{start}: the block never ends"
    return found


def prose(page: Path) -> str:
    """A page without its blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """The commands of a shell block as words; comments, variables before them and a final & are left out."""
    whole = re.sub(r"\\\n", " ", text)
    found = []
    for line in whole.splitlines():
        words = shlex.split(line, comments=True)
        for part in " ".join("\0" if word == "&&" else shlex.quote(word) for word in words).split("\0"):
            own = shlex.split(part)
            while own and re.fullmatch(r"[A-Z_]+=\S*", own[0]):
                own.pop(0)
            if own and own[-1] == "&":
                own.pop()
            if own:
                found.append(own)
    return found


def known_commands() -> dict[str, Any]:
    """The commands of scenelift by full name."""
    return {name.removeprefix("scenelift "): command for name, command in generate.commands(get_command(app))}


def parse(words: Sequence[str]) -> str:
    """Parse what follows ``scenelift`` as the command line does, without running it; the command's name."""
    words = with_address(list(words))
    known = known_commands()
    name = words[0] if words[0] in known else " ".join(words[:2])
    assert name in known, f"there is no command {name!r}"
    known[name].make_context(name, words[len(name.split()) :])
    return name


# --- what is run, on what --------------------------------------------------------------------------------

Writer = Callable[[Path], object]


def _room(folder: Path) -> None:
    write_capture(folder, room_frames(4))


def _both_nuimages(folder: Path) -> None:
    write_nuimages(folder, "v1.0-train", 2)
    write_nuimages(folder, "v1.0-val", 1, first=10)


STAND_INS: dict[str, Writer] = {
    "my_room": _room,
    "other_room": _room,
    "MY_ROOM": _room,
    "CAPTURE": _room,
    "SRC": _room,
    "/data/my_room": _room,
    "seven_scenes_room": lambda folder: write_seven_scenes(folder, room_frames(4)),
    "polycam_export": lambda folder: write_transforms(folder, room_frames(4)),
    "/data/scannet": write_scannet,
    "DATA": write_scannet,
    "/data/nuscenes": lambda folder: write_nuscenes(folder, samples=1),
    "/data/nuimages": _both_nuimages,
    "/data/street": write_images,
    "docs/data/kitti.md PATH": lambda folder: write_odometry(folder, count=1),
    "docs/data/lidar.md PATH": write_lidar,
}
"""What is written where a block names a folder of data; a page may come before the name."""

NETWORKS = (
    "train.epochs=1", "train.switch_after=1", "train.steps_per_epoch=1", "train.scenes_per_step=1",
    "train.frames_per_scene=1", "networks.image.name=small", "networks.points.name=narrow",
    "networks.points.voxel_m=0.3", "latent.dim=8",
)  # fmt: skip
ROOMS = (
    "data.train_rooms=1", "data.val_rooms=1", "data.frames_per_room=2", "data.width=64", "data.height=48",
)  # fmt: skip
REAL_TEACHERS = ("teachers.masks.points_per_side=2", "teachers.labels.short_side=64")
SIZES = {
    "/data/scannet": ("data.image_size=[48,64]",),
    "DATA": ("data.image_size=[48,64]",),
    "/data/nuscenes": ("data.image_size=[45,80]", "data.cameras=[CAM_FRONT]"),
    "/data/nuimages": ("data.image_size=[48,80]",),
    "/data/street": ("data.image_size=[48,64]",),
    "docs/data/kitti.md PATH": ("data.image_size=[36,120]",),
    "docs/data/lidar.md PATH": ("data.image_size=[48,80]",),
}
"""Settings that commands get beside their own, so that they take seconds: this is all of them."""

TRAINS = ("annotate", "train", "fit", "plan")


def tiny(words: Sequence[str], page: str, folder: Path, clip: Path, sam: Path) -> list[str]:
    """A command as it is run: data replaced by stand-ins below ``folder``, teachers and sizes by tiny ones.

    Args:
        words: after ``scenelift``.
        page: where it stands.
        folder: where stand-ins are made.
        clip: weights of a random CLIP.
        sam: of a random SAM.
    """
    name, own = words[0], list(words)
    settings: list[str] = []
    for place, word in enumerate(words):
        key, before = word.rstrip("/"), words[place - 1] if place else ""
        key = f"{page} {key}" if f"{page} {key}" in STAND_INS else key
        if before in ("--clip", "--sam"):
            own[place] = str(clip if before == "--clip" else sam)
        elif key in STAND_INS and before != "--out":
            settings += SIZES.get(key, ())
            made = folder / key.split(" ")[-1].lstrip("/")
            if not made.exists():
                STAND_INS[key](made)
            own[place] = str(made)
        elif word.startswith("/"):
            own[place] = str(folder / word.lstrip("/"))
    synthetic = "synthetic" in words or name == "demo"
    if name in (*TRAINS, "demo"):
        settings += (*NETWORKS, *(ROOMS if synthetic else ()))
    elif name not in ("check", "predict", "import") and "--on" not in words:
        settings = []
    if name in TRAINS and not synthetic and "--teacher" not in words:
        settings += REAL_TEACHERS
        own += [] if "--clip" in words else ["--clip", str(clip)]
        own += [] if "--sam" in words else ["--sam", str(sam)]
    if name == "plan":
        own += ["--frames", "1", "--seconds", "0"]
    return [*own, *(part for text in settings for part in ("--set", text))]


NOT_RUN = (
    # (what a command begins with or contains, why it is parsed only)
    ("table ", "hours: a tiny table runs in tests/test_cli_tables.py"),
    ("sweep ", "hours: a tiny sweep runs in tests/test_sweep.py"),
    ("evaluate table1_nuscenes", "needs a run on nuScenes; --on runs in tests/test_cli.py"),
    ("evaluate run_on_nuscenes", "the same"),
    (" --ray", "starts a cluster: tests/test_ray_annotate.py"),
    (" --devices ", "starts processes: tests/test_workers.py"),
    ("view ", "serves until it is stopped: tests/test_viewer.py"),
    ("query ", "needs a trained run: tests/test_query.py"),
    ("predict RUN sequences_11_to_21", "needs a run on KITTI: tests/formats/test_submissions.py"),
    ("predict run other_room/ --classes", "needs a trained run: tests/test_open_classes.py"),
    ("export ", "needs a trained run: tests/test_cli_exports.py"),
    ("report ", "needs finished runs: tests/test_saved_runs.py"),
    ("doctor", "tests/test_doctor.py"),
    ("weights --", "would connect to the hub, or name weights that are not here: tests/test_cli_weights.py"),
)
"""Commands of scenelift that are parsed, every option of them, but not run."""

FOREIGN = {
    "pip": "installs",
    "make": "its targets are what continuous integration runs",
    "torchrun": "two hosts; what it starts is parsed",
    "srun": "a cluster; what it starts is parsed",
    "cd": "a folder that a command which is parsed only would have made",
    "zip": "the same",
    "rerun": "a viewer that is no dependency",
    "tensorboard": "serves until it is stopped",
    "nice": "of benchmarks",
    "wait": "commands run one after the other here",
    "mkdocs": "tests/test_docs_site.py builds the site",
    "python": "examples: tests/test_examples.py; benchmarks: that file and options exist is checked",
    "pytest": "tests; that file and words exist is checked",
}
"""Other commands, by first word, and why they are not run."""

PYTHON_NOT_RUN = {
    "docs/export.md": "needs exported files: tests/formats/ read them back",
    "docs/tracking.md": "needs wandb",
    "docs/query.md": "needs a trained run: tests/test_open_classes.py",
}
"""Pages whose Python blocks are compiled only, and why."""

FRESH = ("README.md", "docs/cli.md", "docs/scale.md", "docs/tables.md", "docs/index.md", "docs/data/check.md",
         "docs/teachers.md", "docs/reproduction.md", "docs/faq.md", "docs/extend.md", "docs/export.md",
         "docs/tracking.md", "docs/doctor.md", "docs/viewer.md", "docs/query.md", "docs/reliability.md",
)  # fmt: skip
"""Pages whose blocks are independent; on other pages a block finds what those before it have left."""


def why_not_run(words: Sequence[str]) -> str | None:
    """The reason a command of scenelift is parsed only, or ``None``."""
    line = " ".join(words)
    return next(
        (why for part, why in NOT_RUN if (part in line if part[0] == " " else line.startswith(part))), None
    )
