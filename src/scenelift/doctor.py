"""What this installation is, what is here for it, and what would be slow: ``scenelift doctor``.

Everything is looked at, nothing is changed. What cannot be found out is left out.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import InvalidRequirement, Requirement

from scenelift.errors import one_line

PACKAGE = "scenelift"
LITTLE_BYTES = 5 * 2**30
"""Less free room than this is worth a word: the annotations of a scan take about as much."""
_NETWORK_DISKS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "lustre", "gpfs", "ceph", "afs"}
_OPENMP = {"libiomp5": "Intel's", "libomp": "LLVM's", "libgomp": "GNU's"}

Severity = Literal["broken", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """Something to know of. With ``broken`` nothing will run until it is mended."""

    severity: Severity
    what: str
    mend: str


@dataclass
class Diagnosis:
    """What was found.

    Attributes:
        versions: by package: the library, Python, and what it depends on; ``None`` if it is not there.
        devices: facts of processors and memory by name.
        extras: by extra whether all of it is installed.
        places: free bytes and kind of file system by what a folder is for.
        speed: measured rates, empty where nothing was measured.
        findings: the worst first.
    """

    versions: dict[str, str | None] = field(default_factory=dict)
    devices: dict[str, Any] = field(default_factory=dict)
    extras: dict[str, bool] = field(default_factory=dict)
    places: dict[str, dict[str, Any]] = field(default_factory=dict)
    speed: dict[str, float] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def broken(self) -> bool:
        """Whether nothing will run."""
        return any(finding.severity == "broken" for finding in self.findings)

    def add(self, severity: Severity, what: str, mend: str) -> None:
        """Put a finding behind those that are as bad."""
        self.findings.append(Finding(severity, what, mend))
        order: list[Severity] = ["broken", "warning", "note"]
        self.findings.sort(key=lambda finding: order.index(finding.severity))

    def to_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {"schema": 1, "broken": self.broken, **asdict(self)}


def diagnose(places: Mapping[str, Path], environment: Mapping[str, str] | None = None) -> Diagnosis:
    """Look at the installation and the machine; nothing heavy but PyTorch is imported, nothing measured.

    Args:
        places: folders that are written to, by what they are for; they need not exist.
        environment: variables; ``None`` = those of this process.
    """
    environment = os.environ if environment is None else environment
    found = Diagnosis()
    _look_at_packages(found)
    _look_at_torch(found)
    _look_at_devices(found, environment)
    _look_at_places(found, places)
    _look_at_traps(found, environment)
    return found


# --- packages ------------------------------------------------------------------------------------------


def _look_at_packages(found: Diagnosis) -> None:
    found.versions[PACKAGE] = _version(PACKAGE)
    found.versions["python"] = platform.python_version()
    extras: dict[str, list[Requirement]] = {}
    for requirement in _requirements():
        marker = requirement.marker
        extra = re.search(r'extra == ["\'](\w+)["\']', str(marker)) if marker else None
        if extra is not None:
            extras.setdefault(extra[1], []).append(requirement)
            continue
        version = found.versions[requirement.name] = _version(requirement.name)
        wanted = f"{requirement.name} {requirement.specifier}"
        mend = f'pip install "{requirement.name}{requirement.specifier}"'
        if version is None:
            found.add("broken", f"expected {wanted}, found it not installed", mend)
        elif not requirement.specifier.contains(version, prereleases=True):
            found.add("broken", f"expected {wanted}, found {version}", mend)
    extras.pop("dev", None)  # for those who work on the library itself
    found.extras = {name: all(map(_is_there, needed)) for name, needed in extras.items()}


def _requirements() -> list[Requirement]:
    """What the installed library says that it needs."""
    try:
        texts = metadata.requires(PACKAGE) or []
        return [Requirement(text) for text in texts]
    except (metadata.PackageNotFoundError, InvalidRequirement):
        return []


def _is_there(requirement: Requirement) -> bool:
    version = _version(requirement.name)
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _look_at_torch(found: Diagnosis) -> None:
    """PyTorch and torchvision are compiled for each other; the other way to break them is a damaged file."""
    pair = 'pip install --force-reinstall torch torchvision, both in one command; "scenelift[...]" after it'
    for name in ("torch", "torchvision"):
        if found.versions.get(name) is None:
            continue
        try:
            import_module(name)
        except Exception as error:  # whatever a broken library raises
            found.add(
                "broken", f"{name} cannot be imported ({type(error).__name__}: {one_line(error)})", pair
            )
            return
    try:
        import torch
        from torchvision.ops import nms

        nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
        torch.zeros(1).numpy()
    except Exception as error:
        found.add("broken", f"torch and torchvision do not fit together ({one_line(error)})", pair)


# --- devices -------------------------------------------------------------------------------------------


def _look_at_devices(found: Diagnosis, environment: Mapping[str, str]) -> None:
    devices = found.devices
    devices["machine"] = f"{platform.system()} {platform.machine()}"
    devices["cores"] = usable_cores()
    devices["memory_bytes"], devices["free_memory_bytes"] = _memory()
    devices["cuda"] = []
    try:
        import torch
    except Exception:  # told of already
        return
    devices["threads"] = torch.get_num_threads()
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            of = torch.cuda.get_device_properties(number)
            devices["cuda"].append({"name": of.name, "memory_bytes": of.total_memory})
        return
    if torch.version.cuda is None:
        why, mend = "this PyTorch was built without CUDA", "https://pytorch.org/get-started tells the command"
    elif environment.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        why, mend = "CUDA_VISIBLE_DEVICES hides all devices", "unset CUDA_VISIBLE_DEVICES"
    else:
        why = f"PyTorch for CUDA {torch.version.cuda} finds no device"
        mend = "nvidia-smi tells whether the driver sees one, and whether it is new enough for this CUDA"
    devices["no_cuda"] = why
    found.add("note", f"no GPU: {why}", f"on a machine that has one: {mend}")


def usable_cores() -> float:
    """Cores this process may use: by its affinity and by the quota of its container."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return cores if quota == "max" else min(cores, int(quota) / int(period))
    except (OSError, ValueError):
        return cores


def _memory() -> tuple[int | None, int | None]:
    """Bytes of memory, and of what is free of it."""
    try:
        text = Path("/proc/meminfo").read_text()
        total, free = (re.search(rf"^{name}: +(\d+) kB", text, re.M) for name in ("MemTotal", "MemAvailable"))
        return (int(total[1]) << 10 if total else None), (int(free[1]) << 10 if free else None)
    except OSError:  # not Linux
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), None
        except (ValueError, OSError, AttributeError):
            return None, None


# --- disks ---------------------------------------------------------------------------------------------


def _look_at_places(found: Diagnosis, places: Mapping[str, Path]) -> None:
    mounts = _mounts()
    for name, place in places.items():
        folder = next((p for p in (place.absolute(), *place.absolute().parents) if p.is_dir()), Path("/"))
        try:
            free = shutil.disk_usage(folder).free
        except OSError as error:
            found.add("warning", f"{name}: {place} cannot be looked at ({error.strerror})", "check the path")
            continue
        kind = _kind_of(folder, mounts)
        found.places[name] = {"path": str(place), "free_bytes": free, "file_system": kind}
        if not os.access(folder, os.W_OK | os.X_OK):
            found.add("warning", f"{name}: no permission to write below {folder}", f"name another {name}")
        if free < LITTLE_BYTES:
            what = f"{name}: {free / 2**30:.1f} GiB free at {folder}"
            found.add("warning", what, "make room, or name another place")
        if name == "cache" and kind in _NETWORK_DISKS:
            found.add(
                "warning",
                f"cache: {folder} is a network disk ({kind}), where many small files are slow",
                "name a local folder with --cache",
            )


def _mounts() -> list[tuple[str, str]]:
    """Mount points and kinds of file system, the deepest first."""
    try:
        rows = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return []
    return sorted(((row[1], row[2]) for row in rows), key=lambda row: -len(row[0]))


def _kind_of(folder: Path, mounts: Sequence[tuple[str, str]]) -> str | None:
    real = folder.resolve()
    return next((kind for point, kind in mounts if real.is_relative_to(point)), None)


# --- traps ---------------------------------------------------------------------------------------------


def _look_at_traps(found: Diagnosis, environment: Mapping[str, str]) -> None:
    cores, threads = found.devices["cores"], found.devices.get("threads", 1)
    if threads > cores:
        found.add(
            "warning",
            f"PyTorch would use {threads} threads on {cores:g} cores, which wait for each other",
            f"export OMP_NUM_THREADS={max(1, int(cores))}",
        )
    if hasattr(os, "getloadavg") and (load := os.getloadavg()[0]) > 1.5 * cores:
        found.add(
            "note",
            f"the machine is busy: a load of {load:.1f} on {cores:g} cores, and all is slower for it",
            "measure again when it is quiet",
        )
    kinds = sorted({name for path in _loaded_libraries() for name in _OPENMP if path.startswith(name)})
    if len(kinds) > 1:
        found.add(
            "warning",
            f"{' and '.join(f'{_OPENMP[kind]} OpenMP ({kind})' for kind in kinds)} are in one process: they "
            "fight for the cores, and may end it",
            "install torch and its neighbours from one place, all by pip or all by conda",
        )
    if sys.getfilesystemencoding().lower() not in ("utf-8", "utf8"):
        found.add(
            "warning",
            f"file names are encoded as {sys.getfilesystemencoding()}: class and scene names may not fit",
            "export LC_ALL=C.UTF-8",
        )


def _loaded_libraries() -> list[str]:
    """File names of the shared libraries in this process."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    return [line.rpartition("/")[2] for line in lines if ".so" in line or ".dylib" in line]


def look_at_weights(found: Diagnosis, missing: Sequence[str], offline: bool) -> None:
    """Add what is to be said of weights.

    Args:
        found: added to.
        missing: what is missing and what to do, a line each.
        offline: whether ``HF_HUB_OFFLINE`` or its like is set.
    """
    if missing and offline:
        found.add(
            "warning",
            f"{len(missing)} of the weights that `fit` needs are missing, and HF_HUB_OFFLINE forbids "
            "fetching them",
            "unset it and TRANSFORMERS_OFFLINE, or copy the folders that `scenelift weights` names",
        )
    elif missing:
        found.add(
            "note",
            f"{len(missing)} of the weights that `fit` needs are missing (demo, synthetic data and "
            "--teacher embedded need none)",
            "scenelift weights --download",
        )


def extra_command(name: str) -> str:
    """How to get an extra."""
    return f'pip install "{PACKAGE}[{name}]"'
