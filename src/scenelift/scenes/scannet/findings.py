"""What is missing in a ScanNet folder or contradicts itself, as far as names, sizes and headers tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scenelift.config import ScanNetData
from scenelift.errors import DataError
from scenelift.scenes import Findings, Problem
from scenelift.scenes.folders import some
from scenelift.scenes.scannet.frames import intrinsics_files
from scenelift.scenes.scannet.layout import (
    AGGREGATION,
    INFO,
    LABELS,
    SEGMENTS,
    SENS,
    SPLITS,
    Scan,
    official_split,
)
from scenelift.scenes.scannet.sens import read_header


def find_problems(config: ScanNetData, scans: Mapping[str, Scan]) -> Findings:
    """Scans of the splits that are absent, scans and frames that are incomplete, damaged or left out.

    Frames without a pose inside recordings are not counted: that would mean to walk them all.

    Args:
        config: where, and which frames are wanted.
        scans: all that lie there, by id.
    """
    usable = {name: scan for name, scan in scans.items() if not scan.lacks(config.frames)}
    exported = [scan for scan in usable.values() if not scan.uses_sens(config.frames)]
    lost = {scan.id: scan.lost for scan in exported if scan.lost}
    partial = {scan.id: scan.partial for scan in exported if scan.partial}
    counts = {
        **{f"{split}_scans": sum(name in usable for name in official_split(split)) for split in SPLITS},
        "lost_frames": sum(map(len, lost.values())),
        "incomplete_frames": sum(map(len, partial.values())),
    }
    problems = [
        *_absent(config, scans),
        *_incomplete(config, scans),
        *_unlabelled(config, usable),
        *_bad_frames(config, exported),
        *_bad_recordings(config, usable),
    ]
    if lost:
        what = f"{counts['lost_frames']:,} frames without a finite pose are left out ({_some_frames(lost)})"
        problems.append(Problem("warning", what, config.path, "nothing to do: tracking was lost there"))
    if partial:
        what = f"{counts['incomplete_frames']:,} frames lack colour, depth or pose ({_some_frames(partial)})"
        problems.append(Problem("warning", what, config.path, "unpack the archive of the frames again"))
    doubtful = {scan.id: scan.empty for scan in exported if scan.empty}
    return Findings(counts, tuple(problems), doubtful)


def _absent(config: ScanNetData, scans: Mapping[str, Scan]) -> list[Problem]:
    problems = []
    for split in SPLITS:
        official = official_split(split)
        absent = [name for name in official if name not in scans]
        if absent and not (
            split == "test" and len(absent) == len(official)
        ):  # most people have no test scans
            what = f"expected the {len(official):,} scans of {split}, found {len(official) - len(absent):,}"
            what += f"; absent: {some(absent)}"
            mend = "download them, or go on with those that are there"
            problems.append(Problem("warning", what, config.path, mend))
    known = {name for split in SPLITS for name in official_split(split)}
    strangers = [name for name in scans if name not in known]
    if strangers:
        what = f"{len(strangers):,} scans are in no official split and are not used: {some(strangers)}"
        problems.append(Problem("warning", what, config.path, "check their names"))
    return problems


def _incomplete(config: ScanNetData, scans: Mapping[str, Scan]) -> list[Problem]:
    problems = []
    for lack, mend in (
        ("mesh and frames", "download <id>_vh_clean_2.ply, and scannet_frames_25k or <id>.sens"),
        ("mesh", "download <id>_vh_clean_2.ply"),
        ("frames", "download scannet_frames_25k or <id>.sens"),
    ):
        names = [name for name, scan in scans.items() if scan.lacks(config.frames) == lack]
        if names:
            what = f"{len(names):,} scans without {lack} are left out: {some(names)}"
            problems.append(Problem("warning", what, config.path, mend))
    return problems


def _unlabelled(config: ScanNetData, usable: Mapping[str, Scan]) -> list[Problem]:
    needed = {LABELS} if config.labels == "scannet20" else {SEGMENTS, AGGREGATION}
    val = [name for name in official_split("val") if name in usable]
    without = [name for name in val if not needed <= usable[name].files]
    if not without:
        return []
    files = " and ".join(f"<id>{ending}" for ending in sorted(needed))
    what = f"{len(without):,} of {len(val):,} val scans cannot be evaluated without {files}: {some(without)}"
    return [Problem("warning", what, config.path, "download these files")]


def _bad_frames(config: ScanNetData, exported: Sequence[Scan]) -> list[Problem]:
    problems = []
    bent = {scan.id: scan.bent for scan in exported if scan.bent}
    if bent:
        count = sum(map(len, bent.values()))
        what = f"{count:,} frames with a pose that is no rigid 4×4 transform ({_some_frames(bent)})"
        problems.append(Problem("error", what, config.path, "unpack them again, or delete these frames"))
    blind = [
        scan.id for scan in exported if not all(path.is_file() for path in intrinsics_files(scan).values())
    ]
    if blind:
        what = f"{len(blind):,} scans without intrinsics_color.txt or intrinsics_depth.txt: {some(blind)}"
        problems.append(Problem("error", what, config.path, "unpack the archive of the frames again"))
    return problems


def _bad_recordings(config: ScanNetData, usable: Mapping[str, Scan]) -> list[Problem]:
    problems = []
    for scan in usable.values():
        if scan.uses_sens(config.frames):
            try:
                read_header(scan.file(SENS))
            except DataError as error:
                what, _, mend = str(error).rpartition("; ")
                problems.append(Problem("error", what, scan.id, mend))
    lacking = [name for name, scan in usable.items() if INFO not in scan.files]
    if config.axis_align and lacking:
        what = f"{len(lacking):,} scans cannot be axis-aligned without <id>.txt: {some(lacking)}"
        problems.append(Problem("error", what, config.path, "download it or set data.axis_align=false"))
    return problems


def _some_frames(frames: Mapping[str, Sequence[str]]) -> str:
    return some([f"{scan}/{name}" for scan, names in frames.items() for name in names])
