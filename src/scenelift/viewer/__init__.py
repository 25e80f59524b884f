"""``scenelift view``: a run or a data set in the browser.

`state` is what is shown, without a browser; `layers` gives the arrays it needs; `detail` and `sender` see to
it that a coarse cloud comes first; `wording` makes the texts of the panel; `app` ties them to viser.
"""

from __future__ import annotations

import importlib.util
import socket
import threading
import webbrowser
from collections.abc import Callable
from typing import TYPE_CHECKING

from scenelift.errors import ConfigError

if TYPE_CHECKING:
    from scenelift.opened import Opened

PALETTES = ("safe", "own")
"""Colours of the classes: told apart by all eyes, or those of the data set."""


def require_viser() -> None:
    """Raise `ConfigError` unless the extra ``viewer`` is installed."""
    if importlib.util.find_spec("viser") is None:
        raise ConfigError(
            'view: expected the package viser, found none; install it with: pip install "scenelift[viewer]"'
        )


def check_host(host: str) -> None:
    """Raise `ConfigError` unless this machine can listen there; viser would try for ever."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
    except OSError as error:
        raise ConfigError(
            f"--host: expected an address of this machine such as 127.0.0.1, found {host!r} "
            f"({error.strerror})"
        ) from None


def serve(
    opened: Opened,
    scene: str,
    host: str,
    port: int,
    points: int,
    palette: str,
    open_page: bool,
    say: Callable[[str], None],
) -> None:
    """Show a scene until the process is stopped.

    Args:
        opened: a run or data.
        scene: the one to begin with.
        host: address to listen on.
        port: to listen on, or the next free one.
        points: most points of a cloud that are sent.
        palette: one of `PALETTES`.
        open_page: open it in a browser.
        say: told the address.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    from scenelift.viewer.app import Viewer

    check_host(host)
    viewer = Viewer(opened, scene, host=host, port=port, budget=points, palette=palette)
    try:
        say(f"viewer: {viewer.url} (Ctrl-C stops it)")
        if open_page:
            webbrowser.open(viewer.url)
        threading.Event().wait()
    finally:
        viewer.close()
