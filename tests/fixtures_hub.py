"""A hub on this machine, with as much of the protocol as a download needs; and no network at all."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

SHA = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """One repository, ``org/model``, at any revision the same commit."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.sent: list[str] = []
        """Files whose content was asked for."""
        self.requests = 0

    def answer(self, method: str, url: str) -> tuple[int, dict[str, str], bytes]:
        path = unquote(urlsplit(url).path)
        if path.startswith("/api/models/org/model/tree/"):
            tree = [self._entry(name) for name in self.files]
            return 200, {"Content-Type": "application/json"}, json.dumps(tree).encode()
        if path.startswith("/api/models/org/model"):
            info: dict[str, Any] = {"id": "org/model", "modelId": "org/model", "sha": SHA, "private": False}
            info["siblings"] = [{"rfilename": name} for name in self.files]
            return 200, {"Content-Type": "application/json"}, json.dumps(info).encode()
        name = path.rsplit("/", 1)[-1]
        if path.startswith("/org/model/resolve/") and name in self.files:
            content = self.files[name]
            if method == "GET":
                self.sent.append(name)
            return 200, {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": SHA}, content
        missing = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
        return 404, missing, b""

    def _entry(self, name: str) -> dict[str, Any]:
        content = self.files[name]
        return {"type": "file", "path": name, "size": len(content), "oid": _oid(content)}


@contextmanager
def serving(files: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that is asked instead of the public one, and an empty cache."""
    from huggingface_hub import constants

    hub = Hub(files)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _respond(self) -> None:
            hub.requests += 1
            status, headers, body = hub.answer(self.command, self.path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = _respond

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make any connection fail the test, whatever swallows exceptions on the way."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        pytest.fail(f"a connection was tried: {args[1:] or args}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)


def cached(folder: Path, cache: Path, repo: str = "org/model", revision: str = "main") -> Path:
    """Put a folder's files into a hub cache, as a download leaves them; return the snapshot."""
    place = cache / f"models--{repo.replace('/', '--')}"
    snapshot = place / "snapshots" / SHA
    for below in (snapshot, place / "refs", place / "blobs"):
        below.mkdir(parents=True, exist_ok=True)
    (place / "refs" / revision).write_text(SHA)
    for path in folder.iterdir():
        blob = place / "blobs" / _oid(path.read_bytes())
        blob.write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(blob)
    return snapshot


def _oid(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
