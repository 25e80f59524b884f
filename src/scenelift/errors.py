"""Every error a user can meet, as one small tree.

::

    SceneLiftError            base; the command line turns it into one line and exit code 2
    ├── DataError             input data: missing, damaged, inconsistent
    ├── ConfigError           recipe, override or option
    ├── WeightsError          a weight file is missing, damaged or not allowed to be downloaded
    ├── CacheError            a cache entry cannot be written or read back
    ├── OutputError           a file cannot be written: disk full, read-only, a folder in its place
    └── RunError              a run folder: missing, of another run, or of another version
        └── PeerError         another process of the same run is gone

A message says what was expected, what was found, where, and what to do.
"""

from __future__ import annotations


class SceneLiftError(Exception):
    """Base class of all errors that are the user's to mend."""


class DataError(SceneLiftError):
    """Input data are missing, damaged or inconsistent."""


class ConfigError(SceneLiftError):
    """A recipe, an override or a command-line option is wrong."""


class WeightsError(SceneLiftError):
    """Network weights are missing, damaged, or may not be downloaded."""


class CacheError(SceneLiftError):
    """A cache entry could not be written, or does not match its checksum."""


class RunError(SceneLiftError):
    """A run folder is missing, incomplete, or belongs to another run."""


class PeerError(RunError):
    """Another process of a run on many devices ended before its time; the cause stands with that one."""


class OutputError(SceneLiftError):
    """A file cannot be written (disk full, read-only, no permission)."""


def printable(text: str) -> str:
    """One line without the control characters that file names may carry into a terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


def one_line(error: BaseException) -> str:
    """What another library's error says, for the middle of a message: one line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__
