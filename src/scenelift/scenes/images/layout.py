"""The files of a folder of plain images: which exist, by split, and what the class file says.

::

    PATH/{train,val}/*.{jpg,png}      or PATH/*.{jpg,png}, which serve both splits
    PATH/{train,val}annot/*.png       or PATH/labels/{train,val}/*.png, or PATH/labels/*.png without splits
    PATH/classes.json                 {"0": "sky", "1": "building", ..., "11": "void"}

Images may also stand one folder deeper, in PATH/images/.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scenelift.classes import ClassTable
from scenelift.errors import ConfigError, DataError, one_line
from scenelift.files import read_json
from scenelift.scenes.folders import natural_key, some
from scenelift.scenes.index import remembered
from scenelift.types import IGNORE, U8

SPLITS = ("train", "val")
_IMAGE = (".jpg", ".jpeg", ".png")
_KIND = "images-1"


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """The images of one split and their labels.

    Attributes:
        folder: of the images.
        files: names of image files in natural order; their stems differ.
        label_folder: of the label images; ``None`` where there is none.
        labels: file names in it by stem.
    """

    folder: Path
    files: tuple[str, ...]
    label_folder: Path | None
    labels: Mapping[str, str]

    def label(self, file: str) -> Path | None:
        """The label image of an image file, if there is one."""
        name = self.labels.get(Path(file).stem)
        return None if name is None or self.label_folder is None else self.label_folder / name


def find_images(folder: Path) -> dict[str, ImageFolder]:
    """The images of a folder by split; under ``""`` where there are no splits. Contents are not looked at.

    Raises:
        DataError: no such folder, no images, two images of one stem, or two folders of labels.
    """
    if not folder.is_dir():
        there = "a file" if folder.exists() else "nothing"
        raise DataError(f"expected a folder of images at {folder}, found {there} there; check the path")
    places = _places(folder)
    labels = {split: _label_folder(folder, split) for split in places}
    by_key = {
        **{f"{s}:images": p for s, p in places.items()},
        **{f"{s}:labels": p for s, p in labels.items() if p},
    }
    listed = remembered(
        folder, _KIND, {key: [path] for key, path in by_key.items()}, lambda key: _listing(by_key[key])
    )
    found = {}
    for split, place in places.items():
        files = sorted((n for n in listed[f"{split}:images"] if n.lower().endswith(_IMAGE)), key=natural_key)
        pngs = [n for n in listed.get(f"{split}:labels", ()) if n.lower().endswith(".png")]
        found[split] = ImageFolder(place, tuple(files), labels[split], _by_stem(pngs, labels[split] or place))
        _by_stem(files, place)
    if not any(images.files for images in found.values()):
        names = some(sorted(_listing(folder)), 5) or "an empty folder"
        raise DataError(
            f"expected images (.jpg or .png) in {folder} or its train/ and val/, found {names}; "
            "check the path"
        )
    return found


def _places(folder: Path) -> dict[str, Path]:
    """Where images are, by split."""
    bases = [folder, folder / "images"]
    for base in bases:
        splits = {split: base / split for split in SPLITS if (base / split).is_dir()}
        if splits:
            return splits
    plain = any(name.lower().endswith(_IMAGE) for name in _listing(folder))
    return {"": bases[1] if bases[1].is_dir() and not plain else folder}


def _label_folder(folder: Path, split: str) -> Path | None:
    places = [folder / f"{split}annot", folder / "labels" / split] if split else [folder / "labels"]
    there = [place for place in places if place.is_dir()]
    if len(there) > 1:
        raise DataError(
            f"expected one folder of labels for {split} in {folder}, found {there[0].name}/ and "
            f"labels/{split}/; remove the one that is not to be used"
        )
    return there[0] if there else None


def _listing(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError as error:
        raise DataError(
            f"expected a folder at {folder}, which cannot be listed: {error.strerror or error}; "
            "check that you may read it"
        ) from error


def _by_stem(names: Sequence[str], folder: Path) -> dict[str, str]:
    stems: dict[str, str] = {}
    for name in names:
        other = stems.setdefault(name.rpartition(".")[0], name)
        if other != name:
            raise DataError(
                f"expected one file of each name in {folder}, found {other} and {name}; "
                "remove the one that does not belong there"
            )
    return stems


# --- classes ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class FileClasses:
    """What classes.json says.

    Attributes:
        table: the classes in the order of their ids, without those that are to be ignored.
        label_of_id: (256,) uint8, training id by id in the label images, `IGNORE` for the others.
        known: (256,) bool, ids that may occur.
    """

    table: ClassTable
    label_of_id: U8
    known: np.ndarray


def read_classes(path: Path) -> FileClasses:
    """Read classes.json: names by id, as ``{"0": "sky", "1": "building", "11": "void"}``.

    A name with "void" or "ignore" in it is no class: its pixels have no label, as those of id 255. A slash
    separates synonyms. For prompts, names are cut into words: "SignSymbol" becomes "Sign Symbol".

    Raises:
        DataError: missing, damaged, or not of this form.
    """
    tree = read_json(path)
    example = '{"0": "sky", "1": "building", "11": "void"}'
    if not isinstance(tree, dict) or not tree:
        raise DataError(f"expected names by id in {path}, found {str(tree)[:60]}; write it as {example}")
    names: dict[int, str] = {}
    for key, name in tree.items():
        number = int(key) if re.fullmatch(r"[0-9]{1,3}", key) else 256
        if number > 255 or number in names or not isinstance(name, str) or not name.strip():
            raise DataError(
                f"expected ids from 0 to 255, each once and with a name, in {path}, "
                f"found {key[:40]!r}: {str(name)[:40]!r}; write it as {example}"
            )
        names[number] = name
    kept = [i for i in sorted(names) if not re.search("void|ignore", names[i], re.IGNORECASE)]
    try:
        table = ClassTable.from_names([names[number] for number in kept])
    except ConfigError as error:
        raise DataError(f"expected classes in {path}: {one_line(error).removeprefix('classes: ')}") from error
    label_of_id = np.full(256, IGNORE, np.uint8)
    label_of_id[kept] = np.arange(len(kept))
    known = np.zeros(256, np.bool_)
    known[[*names, IGNORE]] = True
    prompts = tuple(tuple(_words(prompt) for prompt in row) for row in table.prompts)
    return FileClasses(ClassTable(table.names, prompts, table.colors), label_of_id, known)


def _words(name: str) -> str:
    return " ".join(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).replace("_", " ").split()) or name
