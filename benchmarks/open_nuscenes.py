"""Opening tables of the size of nuScenes' v1.0-trainval, here and with nuscenes-devkit.

    OMP_NUM_THREADS=1 python benchmarks/open_nuscenes.py                 # 2 GB in --folder, some minutes
    OMP_NUM_THREADS=1 python benchmarks/open_nuscenes.py --scale 0.02    # a quick look

Writes made-up tables as the devkit has them (850 scenes, 34,000 samples of 12 sensors, 2.6 million rows of
sample_data and as many ego poses, one field a line) and an empty file for each key frame of LIDAR_TOP and the
cameras. There are no boxes, of which the devkit would read another 1.2 million. Each open is a process of its
own: the devkit's; the first one here, which reads the tables and lists the files; the second one, which finds
both in the index; and the same two with sweeps. All must name the same LiDAR files in the same order. Prints
seconds of clock and of CPU without imports, and peak resident memory of the process, in all and beyond what
imports take (PyTorch here). Everything written is removed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from PIL import Image

VERSION = "v1.0-trainval"
SCENES, SAMPLES = 850, 40
CAMERAS = [
    f"CAM_{side}" for side in ("FRONT", "FRONT_RIGHT", "BACK_RIGHT", "BACK", "BACK_LEFT", "FRONT_LEFT")
]
RADARS = [f"RADAR_{side}" for side in ("FRONT", "FRONT_LEFT", "FRONT_RIGHT", "BACK_LEFT", "BACK_RIGHT")]
ROWS = {"LIDAR_TOP": 10, **dict.fromkeys(CAMERAS, 6), **dict.fromkeys(RADARS, 6)}
"""Rows of sample_data between two key frames: 20 Hz, 12 Hz and 13 Hz."""
PER_SAMPLE = sum(ROWS.values())


def write_tables(folder: Path, scenes: int) -> None:
    """All tables the devkit asks for, as it writes them: ``json.dump(..., indent=0)``."""
    from scenelift.scenes.nuscenes.labels import RAW_NAMES

    names = _official_names()[:scenes]
    place = folder / VERSION
    place.mkdir(parents=True)
    kinds = {c: c.split("_")[0].lower().replace("cam", "camera") for c in ROWS}
    intrinsics = [[1266.4, 0.0, 816.3], [0.0, 1266.4, 491.5], [0.0, 0.0, 1.0]]
    small: dict[str, list[dict[str, object]]] = {
        "category": [{"token": n, "name": n, "description": "", "index": i} for i, n in enumerate(RAW_NAMES)],
        "attribute": [],
        "visibility": [],
        "instance": [],
        "sample_annotation": [],
        "sensor": [{"token": c, "channel": c, "modality": kinds[c]} for c in ROWS],
        "calibrated_sensor": [
            {
                "token": f"{number:020x}{column:012x}",
                "sensor_token": channel,
                "translation": [0.943713, 0.0, 1.84023],
                "rotation": [0.7077955, -0.0064922, 0.0106462, -0.7063073],
                "camera_intrinsic": intrinsics if channel in CAMERAS else [],
            }
            for number in range(scenes)
            for column, channel in enumerate(ROWS)
        ],
        "log": [{"token": "log", "logfile": "", "vehicle": "", "date_captured": "", "location": ""}],
        "map": [{"token": "map", "log_tokens": ["log"], "category": "", "filename": "maps/map.png"}],
        "scene": [
            {
                "token": f"{number:032x}",
                "log_token": "log",
                "nbr_samples": SAMPLES,
                "first_sample_token": _sample(number, 0),
                "last_sample_token": _sample(number, SAMPLES - 1),
                "name": name,
                "description": "",
            }
            for number, name in enumerate(names)
        ],
        "sample": [
            {
                "token": _sample(number, index),
                "timestamp": _time(number, index),
                "prev": _sample(number, index - 1) if index else "",
                "next": _sample(number, index + 1) if index + 1 < SAMPLES else "",
                "scene_token": f"{number:032x}",
            }
            for number in range(scenes)
            for index in range(SAMPLES)
        ],
    }
    for table, rows in small.items():
        (place / f"{table}.json").write_text(json.dumps(rows, indent=0))
    (folder / "maps").mkdir()
    Image.new("L", (4, 4)).save(folder / "maps" / "map.png")
    with (place / "sample_data.json").open("w") as data, (place / "ego_pose.json").open("w") as poses:
        _write_rows(data, poses, scenes)


def _official_names() -> list[str]:
    import scenelift.scenes

    path = Path(scenelift.scenes.__file__).with_name("data") / "nuscenes_splits.json"
    lists = json.loads(path.read_text())
    return sorted(lists["train"] + lists["val"])


def _sample(scene: int, index: int) -> str:
    return f"{scene:016x}{index:016x}"


def _time(scene: int, index: int) -> int:
    return 1_532_402_927_000_000 + scene * 100_000_000 + index * 500_000


def _row(scene: int, column: int, number: int) -> str:
    """Token of a sensor's row; hashed, so that tokens are as hard to look up as real ones."""
    return hashlib.blake2b(b"%d %d %d" % (scene, column, number), digest_size=16).hexdigest()


def _write_rows(data: TextIO, poses: TextIO, scenes: int) -> None:
    for number, (row, pose) in enumerate(_rows(scenes)):
        comma = ",\n" if number else "[\n"
        data.write(comma + row)
        poses.write(comma + pose)
    data.write("\n]")
    poses.write("\n]")


def _rows(scenes: int) -> Iterator[tuple[str, str]]:
    for scene in range(scenes):
        for column, (channel, rate) in enumerate(ROWS.items()):
            tokens = ["", *(_row(scene, column, n) for n in range(rate * SAMPLES)), ""]
            size = "900" if channel in CAMERAS else "0"
            suffix = "jpg" if channel in CAMERAS else "pcd.bin"
            for n in range(rate * SAMPLES):
                is_key = n % rate == 0
                stamp = _time(scene, n // rate) + n % rate * 500_000 // rate
                kind = "samples" if is_key else "sweeps"
                this = tokens[n + 1]
                name = f"{kind}/{channel}/n015-2018-07-24-11-22-45+0800__{channel}__{stamp}.{suffix}"
                row = (
                    f'{{\n"token": "{this}",\n"sample_token": "{_sample(scene, n // rate)}",\n'
                    f'"ego_pose_token": "{this}",\n"calibrated_sensor_token": "{scene:020x}{column:012x}",\n'
                    f'"timestamp": {stamp},\n"fileformat": "{suffix[:3]}",\n'
                    f'"is_key_frame": {"true" if is_key else "false"},\n"height": {size},\n"width": {size},\n'
                    f'"filename": "{name}",\n"prev": "{tokens[n]}",\n"next": "{tokens[n + 2]}"\n}}'
                )
                pose = (
                    f'{{\n"token": "{this}",\n"timestamp": {stamp},\n"rotation": [\n0.5720320396729045,\n'
                    f"-0.0016977771610471074,\n0.011798001930183783,\n-0.8201446642457809\n],\n"
                    f'"translation": [\n{411.3039349319818 + n},\n1180.8903791765097,\n0.0\n]\n}}'
                )
                yield row, pose


def touch_files(folder: Path, scenes: int) -> int:
    """An empty file for each key frame of LIDAR_TOP and the cameras."""
    count = 0
    for channel in ("LIDAR_TOP", *CAMERAS):
        suffix = "jpg" if channel in CAMERAS else "pcd.bin"
        place = folder / "samples" / channel
        place.mkdir(parents=True)
        for scene in range(scenes):
            for index in range(SAMPLES):
                name = f"n015-2018-07-24-11-22-45+0800__{channel}__{_time(scene, index)}.{suffix}"
                os.close(os.open(f"{place}/{name}", os.O_CREAT | os.O_WRONLY))
                count += 1
    return count


def open_devkit(folder: Path) -> None:
    """The child process that opens the tables with the devkit."""
    from nuscenes.nuscenes import NuScenes

    imported, start, cpu = _peak_mib(), time.perf_counter(), time.process_time()
    devkit = NuScenes(version=VERSION, dataroot=str(folder), verbose=False)
    seconds = (time.perf_counter() - start, time.process_time() - cpu)
    peak = _peak_mib()
    files = []
    for scene in devkit.scene:
        key = scene["first_sample_token"]
        while key:
            sample = devkit.get("sample", key)
            files.append(devkit.get("sample_data", sample["data"]["LIDAR_TOP"])["filename"])
            key = sample["next"]
    _report(seconds, peak, imported, files)


def open_here(folder: Path, sweeps: int) -> None:
    """The child process that opens the tables with scenelift."""
    from scenelift.config_data import NuScenesData
    from scenelift.scenes.nuscenes import NuScenes

    imported, start, cpu = _peak_mib(), time.perf_counter(), time.process_time()
    source = NuScenes(NuScenesData(path=str(folder), sweeps=sweeps))
    names = {*source.names("train"), *source.names("val")}
    seconds = (time.perf_counter() - start, time.process_time() - cpu)
    peak = _peak_mib()
    tables = source.tables
    assert len(names) == len(tables.sample_row)
    _report(seconds, peak, imported, [tables.path(int(row)) for row in tables.sample_row[:, 0]])


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _report(seconds: tuple[float, float], peak: float, imported: float, files: list[str]) -> None:
    digest = hashlib.sha256("\n".join(files).encode()).hexdigest()
    found = {"seconds": seconds, "peak": peak, "added": peak - imported, "digest": digest}
    print(json.dumps(found))


def main() -> None:
    """Write, open in processes of their own, print a table, remove."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the 850 scenes")
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to write; the system's temporary folder"
    )
    parser.add_argument("--child", nargs=2, metavar=("WHO", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        who, folder = arguments.child
        return open_devkit(Path(folder)) if who == "devkit" else open_here(Path(folder), int(who))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as place:
        folder = Path(place) / "nuscenes"
        scenes = max(2, round(SCENES * arguments.scale))
        start = time.perf_counter()
        write_tables(folder, scenes)
        files = touch_files(folder, scenes)
        size = sum(path.stat().st_size for path in (folder / VERSION).iterdir()) / 2**20
        rows = scenes * SAMPLES * PER_SAMPLE
        print(f"{scenes} scenes, {rows:,} rows, {size:,.0f} MiB of tables, {files:,} files: ", end="")
        print(f"written in {time.perf_counter() - start:.0f} s")
        os.environ["SCENELIFT_INDEX"] = str(Path(place) / "index")
        opens = {
            "nuscenes-devkit": "devkit",
            "scenelift, first": "0",
            "scenelift, second": "0",
            "scenelift with sweeps, first": "1",
            "scenelift with sweeps, second": "1",
        }
        found = {}
        for label, who in opens.items():
            command = [sys.executable, __file__, "--child", who, str(folder)]
            found[label] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        assert len({result["digest"] for result in found.values()}) == 1
        base = found["nuscenes-devkit"]
        print(f"{'':30} {'clock s':>8} {'CPU s':>8} {'MiB':>8} {'added':>8}   of the devkit's")
        for label, result in found.items():
            clock, cpu = result["seconds"]
            print(
                f"{label:30} {clock:8.2f} {cpu:8.2f} {result['peak']:8.0f} {result['added']:8.0f}   "
                f"clock {clock / base['seconds'][0]:.1%}, CPU {cpu / base['seconds'][1]:.1%}, "
                f"memory {result['peak'] / base['peak']:.1%}, added {result['added'] / base['added']:.1%}"
            )
        index = sum(path.stat().st_size for path in (Path(place) / "index").iterdir()) / 2**20
        print(f"index {index:.0f} MiB")


if __name__ == "__main__":
    main()
