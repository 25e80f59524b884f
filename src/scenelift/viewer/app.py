"""The page: viser's panel and scene, tied to `state` and `layers`.

Everyone who opens the page sees and steers the same view.
"""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from typing import Any

import numpy as np
import viser

from scenelift.colors import distinct_colors
from scenelift.errors import SceneLiftError
from scenelift.evaluate import saved_evaluation
from scenelift.export import overlay
from scenelift.files import safe_name
from scenelift.opened import Opened
from scenelift.ply import encode_points
from scenelift.query import Query, own_threshold
from scenelift.query.files import heat_overlay, heat_range
from scenelift.query.things import NEVER
from scenelift.render import splat_radius
from scenelift.types import F32, U8
from scenelift.viewer import wording
from scenelift.viewer.cameras import Cameras, overview
from scenelift.viewer.detail import parts
from scenelift.viewer.layers import Layers
from scenelift.viewer.sender import CloudSender
from scenelift.viewer.state import COLORINGS, LABELS, View, errors, legend, paint, palette_of

_NO_POINTS = np.zeros(0, np.int64)
_SOME = 4
"""Frames by which the threshold of pixels is told."""


class Viewer:
    """A page that shows a run or data, until it is closed.

    Args:
        opened: what to show.
        scene: the scene to begin with.
        host: address of this machine to listen on, see `scenelift.viewer.check_host`.
        port: to listen on; the next free one if it is taken, any free one for 0.
        budget: most points of a cloud that are sent.
        palette: ``"safe"``, or ``"own"`` for the data set's colours.

    Raises:
        DataError: the scene cannot be read.
    """

    def __init__(
        self, opened: Opened, scene: str, *, host: str, port: int, budget: int, palette: str = "safe"
    ) -> None:
        self._opened, self._budget, self._own_colors = opened, budget, palette == "own"
        self._lock, self._describing, self._showing = threading.RLock(), threading.Lock(), threading.Lock()
        self.layers = Layers(opened, scene)
        self.view = View(scene)
        self._query: Query | None = None
        self._similarity: F32 | None = None
        with redirect_stdout(io.StringIO()):  # its banner; the command says where the page is
            self.server = viser.ViserServer(host=host, port=port, label="scenelift", verbose=False)
        self.server.gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False)
        self._cameras = Cameras(self.server, None, self._choose_frame)
        self._build()
        self.sender = CloudSender(self.server, self._tell)
        self._open_scene(self.layers)

    @property
    def url(self) -> str:
        """Where the page is."""
        host = self.server.get_host()
        return f"http://{'localhost' if host in ('0.0.0.0', '::') else host}:{self.server.get_port()}"

    def close(self) -> None:
        """Stop the server and every thread."""
        self.sender.close()
        with redirect_stdout(io.StringIO()):
            self.server.stop()

    # --- the panel -----------------------------------------------------------------------------------

    def _build(self) -> None:
        gui = self.server.gui
        names = self._opened.names()
        self._scene_box = gui.add_dropdown("Scene", names, initial_value=self.view.scene)
        self._color_box = gui.add_dropdown("Colour by", [COLORINGS["color"]])
        self._note = gui.add_html("")
        self._legend_box = gui.add_html("")
        with gui.add_folder("Classes"):
            self._all = gui.add_button_group("Show", ["all", "none"])
            self._rows_folder = gui.add_folder(None)
        self._query_form = gui.add_form("Find", visible=self.layers.can_ask)
        with self._query_form:
            self._text = gui.add_text(
                "Phrase", "", hint="Any words, e.g. something to sit on; empty ends it."
            )
        self._threshold = gui.add_slider("Similarity", -1.0, 1.0, 0.005, 0.0, visible=False)
        self._things = gui.add_html("")
        self._export = gui.add_button("Save selection as PLY", visible=False)
        with gui.add_folder("Image"):
            self._frame_box = gui.add_dropdown("Frame", ["-"])
            self._frame_note = gui.add_html("")
            self._images_folder = gui.add_folder(None)
        with gui.add_folder("Display", expand_by_default=False):
            self._size = gui.add_slider("Point size", 0.2, 3.0, 0.1, 1.0)
            self._cut = gui.add_slider("Cut at height", 0.05, 1.0, 0.05, 1.0)
            self._cameras_box = gui.add_checkbox("Cameras", True)
            self._dark = gui.add_checkbox("Dark", True)
        self._rows: dict[int, viser.GuiCheckboxHandle] = {}
        self._row_parts: list[Any] = []
        self._shown_images: dict[str, viser.GuiImageHandle] = {}
        self._on(self._scene_box, self._scene_chosen)
        self._on(self._color_box, self._coloring_chosen)
        self._on(self._threshold, lambda: self._change(threshold=float(self._threshold.value)))
        self._on(self._frame_box, self._show_frame)
        self._on(self._size, self._repaint)
        self._on(self._cut, lambda: self._change(cut=float(self._cut.value)))
        self._on(self._cameras_box, lambda: self._cameras.show(self._cameras_box.value))
        self._on(self._dark, lambda: gui.configure_theme(dark_mode=self._dark.value, show_share_button=False))
        self._all.on_click(lambda _: self._show_classes(self._all.value == "all"))
        self._query_form.on_submit(lambda _: self.find(self._text.value))
        self._export.on_click(self._save_selection)

    def _on(self, handle: Any, act: Callable[[], object]) -> None:
        """Act on what a user does to an element, not on what this program sets itself."""
        handle.on_update(lambda event: act() if event.client is not None else None)

    def _tell(self, text: str) -> None:
        self._note.content = wording.note(text)

    # --- scenes --------------------------------------------------------------------------------------

    def _scene_chosen(self) -> None:
        name = str(self._scene_box.value)
        self._tell(f"reading {name} ...")
        try:
            layers = Layers(self._opened, name)
        except SceneLiftError as error:
            self._tell(str(error))
            return
        self._tell("")
        self._open_scene(layers)

    def _open_scene(self, layers: Layers) -> None:
        with self._lock:
            self.layers = layers
            kept = self.view.coloring if self.view.coloring in layers.colorings else "color"
            self.view = View(layers.scene.name, kept, layers.judged)
            self._query = self._similarity = None
            self._parts = parts(layers.points, self._budget)
            self._point_m = 1.6 * splat_radius(layers.points[np.concatenate([*self._parts, _NO_POINTS])])
            colors = distinct_colors(len(layers.classes)) if not self._own_colors else layers.classes.colors
            self.palette = palette_of(colors)
            self._color_box.options = [COLORINGS[key] for key in layers.colorings] or ["-"]
            _put(self._color_box, COLORINGS[kept] if layers.colorings else "-")
            self._threshold.visible = self._export.visible = False
            self._things.content = ""
            _put(self._text, "")
            overview(self.server, layers)
            self._cameras.remove()
            self._cameras = Cameras(self.server, layers, self._choose_frame)
            self._cameras.show(self._cameras_box.value)
            self._frame_box.options = layers.scene.frames.names or ("-",)
            self._classes_changed()
            self._repaint()
            self._show_frame()

    # --- colours and classes -------------------------------------------------------------------------

    def _coloring_chosen(self) -> None:
        keys = {name: key for key, name in COLORINGS.items()}
        with self._lock:
            self._end_query()
            self._tell("computing ...")
            self.view = replace(
                self.view, coloring=keys.get(str(self._color_box.value), "color"), hidden=frozenset()
            )
        self._repaint()
        self._classes_changed()

    def _change(self, **what: Any) -> None:
        with self._lock:
            self.view = replace(self.view, **what)
        self._repaint()
        if "threshold" in what:
            self._describe_things()
            self._show_frame()

    def _repaint(self) -> None:
        layers, view, similarity = self.layers, self.view, self._similarity
        size = self._point_m * float(self._size.value)
        self.sender.show(
            layers.points,
            self._parts,
            size,
            lambda: paint(view, layers.cloud(view, similarity), self.palette),
        )

    def _classes_changed(self) -> None:
        """The legend of what the cloud is coloured by, and a checkbox for each class."""
        layers, view = self.layers, self.view
        for part in self._row_parts:
            part.remove()
        self._row_parts, self._rows = [], {}
        self._legend_box.content = ""
        if view.coloring == "confidence":
            self._legend_box.content = wording.scale("confidence 0", "1")
        kind = view.coloring if view.coloring in LABELS else None
        if view.coloring == "error" and view.judged:
            kind = view.judged
            found = errors(layers.labels(kind), layers.labels("truth"))
            shares = np.bincount(found, minlength=3) / max(len(found), 1)
            self._legend_box.content = wording.error_legend(shares.tolist())
        if kind is None:
            return
        truth = layers.labels("truth") if "truth" in layers.colorings and kind != "truth" else None
        rows, scores = legend(layers.labels(kind), truth, len(layers.classes))
        if scores is not None:
            line = wording.scores_line(scores.miou, scores.coverage, self._miou_of_run(kind))
            self._legend_box.content += line
        with self._rows_folder:
            for row in rows:
                self._row_parts.append(self.server.gui.add_html(wording.swatch(row, self.palette)))
                label, hint = wording.class_label(row, layers.classes), wording.class_hint(row)
                box = self.server.gui.add_checkbox(label, row.label not in view.hidden, hint=hint)
                self._on(box, self._classes_ticked)
                self._rows[row.label] = box
                self._row_parts.append(box)

    def _classes_ticked(self) -> None:
        self._change(hidden=frozenset(label for label, box in self._rows.items() if not box.value))

    def _show_classes(self, all_of_them: bool) -> None:
        for box in self._rows.values():
            _put(box, all_of_them)
        self._classes_ticked()

    def _miou_of_run(self, kind: str) -> float | None:
        folder = self._opened.folder
        saved = None if kind != "points" or folder is None else saved_evaluation(folder.evaluation)
        if saved is None:
            return None
        miou = saved.evaluation.confusion_3d.compute().miou
        return None if math.isnan(miou) else miou

    # --- queries -------------------------------------------------------------------------------------

    def find(self, phrase: str) -> None:
        """Light up what a phrase means; an empty one ends that."""
        if not phrase.strip():
            with self._lock:
                self._end_query()
            self._repaint()
            self._show_frame()
            return
        try:
            query = self._opened.query((phrase,))
            found = self.layers.ask_points(query)
            pixels = self._some_pixels(query)
        except SceneLiftError as error:
            self._things.content = wording.note(str(error))
            return
        with self._lock:
            self._query = query
            self._similarity = None if found is None else np.ascontiguousarray(found[:, 0])
            of_pixels = _least(pixels, query)
            threshold = of_pixels if found is None else _least(found, query)
            self._set_threshold(threshold, pixels[:, 0] if found is None else found[:, 0])
            offset = of_pixels - threshold
            self.view = replace(self.view, phrase=phrase, threshold=threshold, pixel_offset=offset)
        self._describe_things()
        self._repaint()
        self._show_frame()

    def _some_pixels(self, query: Query) -> F32:
        """(M, Q + C) similarities of pixels of a few frames, by which their threshold is told."""
        chosen = self.layers.scene.frames.evenly(_SOME)
        found = [self.layers.ask_frame(index, query)[::3, ::3] for index in chosen]
        width = len(query.asked)
        return np.concatenate(
            [np.zeros((0, width), np.float32), *(item.reshape(-1, width) for item in found)]
        )

    def _set_threshold(self, threshold: float, values: F32) -> None:
        """The slider around the values there are."""
        low, high = float(values.min(initial=threshold)), float(values.max(initial=threshold))
        self._threshold.min, self._threshold.max = -1.0, 1.0  # never a moment with its value outside
        _put(self._threshold, threshold)
        self._threshold.min = math.floor(low * 200) / 200
        self._threshold.max = math.ceil(high * 200) / 200 + 0.005
        self._threshold.visible = True

    def _end_query(self) -> None:
        self._query = self._similarity = None
        self.view = replace(self.view, phrase="")
        self._threshold.visible = self._export.visible = False
        self._things.content = ""

    def _describe_things(self) -> None:
        view, similarity = self.view, self._similarity
        with self._describing:  # a slider that is dragged asks faster than this can answer
            if similarity is None or view is not self.view:
                return
            things = self.layers.things(similarity, view.threshold)[1]
        selected = int((similarity >= view.threshold).sum())
        self._things.content = wording.found_things(view.phrase, selected, len(similarity), things)
        if not selected:
            self._things.content += wording.note(
                "Other names fit better everywhere; lower the similarity to see more."
            )
        self._export.visible = selected > 0

    def _save_selection(self, event: Any) -> None:
        if self._similarity is None or event.client is None:
            return
        scene, chosen = self.layers.scene, self._similarity >= self.view.threshold
        ids, _ = self.layers.things(self._similarity, self.view.threshold)
        extra = {"similarity": self._similarity[chosen], "instance": ids[chosen]}
        rgb = None if scene.rgb is None else scene.rgb[chosen]
        data = encode_points(scene.points_world[chosen], rgb, extra)
        name = f"{safe_name(scene.name)}_{safe_name(self.view.phrase)}.ply"
        event.client.send_file_download(name, data, save_immediately=True)

    # --- images --------------------------------------------------------------------------------------

    def _choose_frame(self, name: str) -> None:
        _put(self._frame_box, name)
        self._show_frame()

    def _show_frame(self) -> None:
        """The chosen frame, and what is said of it."""
        with self._showing:
            layers, view, query, name = self.layers, self.view, self._query, str(self._frame_box.value)
            pictures: dict[str, U8] = {}
            self._frame_note.content = ""
            if name in layers.scene.frames.names:
                self._cameras.mark(name)
                try:
                    pictures = self._pictures(layers, view, query, layers.scene.frames.names.index(name))
                except SceneLiftError as error:
                    self._frame_note.content = wording.note(str(error))
            if list(self._shown_images) != list(pictures):
                for handle in self._shown_images.values():
                    handle.remove()
                with self._images_folder:
                    self._shown_images = {
                        label: self.server.gui.add_image(picture, label=label, format="jpeg")
                        for label, picture in pictures.items()
                    }
                return
            for label, picture in pictures.items():
                self._shown_images[label].image = picture

    def _pictures(self, layers: Layers, view: View, query: Query | None, index: int) -> dict[str, U8]:
        image = layers.scene.frames[index].image
        pictures = {"image": image}
        if query is not None:
            found = layers.ask_frame(index, query)[..., 0]
            least = view.threshold + view.pixel_offset
            heat_map = heat_overlay(image, found, least, heat_range(found, least))
            pictures[f"similarity to {view.phrase!r}"] = heat_map
            return pictures
        shown = replace(layers.classes, colors=self.palette[: len(layers.classes)])
        for label, labels in layers.frame_labels(index).items():
            pictures[label] = overlay(image, labels, shown)
        return pictures


def _put(handle: Any, value: object) -> None:
    """Set what an element shows; viser's types say that nobody can."""
    handle.value = value


def _least(found: F32, query: Query) -> float:
    """The phrase's own threshold, or just above all there is where it wins nothing."""
    if not len(found):
        return 0.0
    own = own_threshold(found[:, 0], query.wins(found)[:, 0])
    return own if own < NEVER else min(float(found[:, 0].max()) + 0.002, NEVER)
