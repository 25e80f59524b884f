"""A query's answer as files: clouds with a similarity per point, heat maps over frames, ``query.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scenelift.colors import heat
from scenelift.errors import RunError
from scenelift.export import borders
from scenelift.files import read_json, safe_name, sweep_temp_files, write_json, write_ply_points
from scenelift.image_files import write_png
from scenelift.progress import Progress, silent
from scenelift.query.asking import Asker, Query
from scenelift.query.things import instances, own_threshold
from scenelift.scenes import SceneSource
from scenelift.types import F32, I32, U8, Bool, Scene


def write_queries(
    source: SceneSource,
    names: Sequence[str],
    query: Query,
    asker: Asker,
    about: Mapping[str, Any],
    out: Path,
    *,
    threshold: float | None = None,
    top: int = 10,
    frames: int = 12,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Answer queries on scenes: ``query.json``; in ``<scene>/<phrase>/`` ``points.ply`` and ``heat/*.png``.

    Scenes that an earlier start with the same ``about`` has finished are not done again.

    Args:
        source: of the scenes.
        names: of the scenes.
        query: the phrases.
        asker: who answers.
        about: what the answers depend on, JSON; kept in ``query.json``.
        out: where to; a new folder, or one of an earlier query.
        threshold: of similarity, for points and pixels; ``None`` = each scene's own (`own_threshold`).
        top: how many things are listed of each phrase and scene.
        frames: how many frames of a scene get heat maps, chosen evenly.
        progress: told of every scene.

    Returns:
        What ``query.json`` holds.

    Raises:
        RunError: ``out`` holds other files.
    """
    file = out / "query.json"
    kept: dict[str, Any] = read_json(file) if file.is_file() else {}
    if not kept and out.is_dir() and any(out.iterdir()):
        raise RunError(
            f"--out {out}: expected a new folder or one of an earlier query, found other files in it; "
            "choose another folder"
        )
    sweep_temp_files(out)
    asked = {**about, "text": list(query.phrases), "threshold": threshold, "top": top, "frames": frames}
    if kept.get("asked") != asked:
        kept = {"schema": 1, "asked": asked, "scenes": {}}
    done = kept["scenes"]
    left = [name for name in names if name not in done]
    with progress("query", len(names), len(names) - len(left)) as advance:
        for name in left:
            done[name] = _write_scene(source.scene(name), query, asker, out, threshold, top, frames)
            write_json(file, kept)
            advance(name)
    return kept


def _write_scene(
    scene: Scene, query: Query, asker: Asker, out: Path, threshold: float | None, top: int, frames: int
) -> dict[str, Any]:
    """For each phrase what ``query.json`` says of the scene."""
    folder = out / safe_name(scene.name)
    text = query.asked
    told: dict[str, Any] = {phrase: {} for phrase in query.phrases}
    if asker.can_ask_points(scene):
        found = asker.points(scene, text)
        wins = query.wins(found)
        for index, phrase in enumerate(query.phrases):
            own = found[:, index]
            least = own_threshold(own, wins[:, index]) if threshold is None else threshold
            ids, things = instances(scene.points_world, own, least)
            _write_cloud(folder / safe_name(phrase) / "points.ply", scene, own, least, ids)
            told[phrase]["3d"] = {
                "threshold": least,
                "points": len(own),
                "selected": int((own >= least).sum()),
                "things": len(things),
                "instances": [thing.to_json() for thing in things[:top]],
            }
    shown = [scene.frames[place] for place in scene.frames.evenly(frames)]
    if not shown:
        return told
    answers = [asker.frame(frame, text) for frame in shown]
    won = [query.wins(answer) for answer in answers]
    for index, phrase in enumerate(query.phrases):
        every = np.concatenate([answer[..., index].reshape(-1) for answer in answers])
        least = (
            own_threshold(every, np.concatenate([item[..., index].reshape(-1) for item in won]))
            if threshold is None
            else threshold
        )
        scale = heat_range(every, least)
        told[phrase]["2d"] = {"threshold": least, "frames": {}}
        for frame, answer in zip(shown, answers, strict=True):
            own = answer[..., index]
            file = folder / safe_name(phrase) / "heat" / f"{safe_name(frame.name)}.png"
            write_png(file, heat_overlay(frame.image, own, least, scale))
            told[phrase]["2d"]["frames"][frame.name] = {
                "highest": round(float(own.max()), 5),
                "selected_share": round(float((own >= least).mean()), 5),
            }
    return told


def heat_range(similarity: F32, threshold: float) -> tuple[float, float]:
    """Ends of the colour scale: nearly all of the values, and the threshold where anything reaches it."""
    low, high = (float(value) for value in np.quantile(similarity, (0.02, 0.998)))
    return low, max(high, low + 1e-6, threshold if threshold <= float(similarity.max()) else high)


def heat_overlay(image: U8, similarity: F32, threshold: float, scale: tuple[float, float]) -> U8:
    """The image in grey under its similarities, what is selected in full colour with a white outline.

    Args:
        image: (H, W, 3) uint8 RGB.
        similarity: (H, W).
        threshold: pixels from it on are selected.
        scale: similarities at the dark and at the bright end of the colours.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    grey = (image @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    selected: Bool = similarity >= threshold
    share = np.where(selected, 0.7, 0.45)[..., None]
    mixed = share * heat(similarity, *scale) + (1 - share) * grey
    mixed[borders(selected.astype(np.uint8))] = 255
    return np.round(mixed).astype(np.uint8)


def cloud_colors(similarity: F32, selected: Bool, scale: tuple[float, float]) -> U8:
    """(N, 3) uint8 RGB of a cloud: heat where selected, dim heat elsewhere."""
    colors = heat(similarity, *scale)
    return np.where(selected[:, None], colors, colors // 2)


def _write_cloud(path: Path, scene: Scene, similarity: F32, threshold: float, ids: I32) -> None:
    selected = similarity >= threshold
    colors = cloud_colors(similarity, selected, heat_range(similarity, threshold))
    extra: dict[str, npt.NDArray[Any]] = {
        "similarity": similarity,
        "selected": selected.astype(np.uint8),
        "instance": ids,
    }
    write_ply_points(path, scene.points_world, colors, extra)


def lines(told: Mapping[str, Any], scene: str, phrase: str, most: int = 5) -> list[str]:
    """What a terminal shows of one phrase in one scene."""
    answer = told["scenes"][scene][phrase]
    in_3d = answer.get("3d")
    if in_3d is None:
        shares = [frame["selected_share"] for frame in answer.get("2d", {"frames": {}})["frames"].values()]
        mean = f"{100 * float(np.mean(shares)):.1f} % of the pixels" if shares else "no frames"
        return [f"{scene}: {phrase!r}: {mean}"]
    head = (
        f"{scene}: {phrase!r}: {in_3d['selected']:,} of {in_3d['points']:,} points, {in_3d['things']} things"
        f", similarity from {in_3d['threshold']:.3f} on"
    )
    if not in_3d["selected"]:
        head = (
            f"{scene}: {phrase!r}: nothing; another name fits better everywhere (--threshold overrules that)"
        )
    return [head, *(f"  {i + 1}. {_thing(item)}" for i, item in enumerate(in_3d["instances"][:most]))]


def _thing(item: Mapping[str, Any]) -> str:
    size, at = (" x ".join(f"{v:.2f}" for v in item[key]) for key in ("extent_m", "centroid_m"))
    place = at.replace(" x ", ", ")
    return f"{size} m at {place}, {item['points']:,} points, similarity {item['similarity']:.3f}"
