"""The built site: strict, whole, without a request to anywhere, readable on a desk and on a phone."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import hooks
from fixtures_browser import DESKTOP, PHONE, overflows, serious_findings
from fixtures_docs import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytest.importorskip("mkdocs", reason='the extra "docs" is not installed')

SLOWER = ("tutorial", "configuration", "own_capture", "api", "data/capture")
READ = ["index", "method", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOWER)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. Strict: a page outside of the navigation, a dead link or anchor is an error."""
    out: Path = tmp_path_factory.mktemp("site")
    ended = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return out


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where the site is served, as on a host: opened from disk it has no search."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


class Addresses(HTMLParser):
    """What a page loads, and where it links to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        if tag in ("script", "img", "iframe", "source", "video", "audio"):
            self.loaded += [named[name] for name in ("src", "srcset") if named.get(name)]
        elif tag == "link" and named.get("rel") not in ("canonical", "next", "prev"):
            self.loaded.append(named.get("href", ""))
        elif tag == "a" and "href" in named:
            self.linked.append(named["href"])


def test_every_page_is_built_and_loads_nothing_from_elsewhere(site: Path) -> None:
    built = sorted(path.relative_to(site).with_suffix("") for path in site.rglob("*.html"))
    written = {path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")}
    assert written <= set(built)
    assert not list(site.rglob("*.py"))
    for page in site.rglob("*.html"):
        for address in Addresses(page).loaded:
            assert not re.match(r"(https?:)?//", address), f"{page.name}: {address}"
            if page.name != "404.html" and not address.startswith("data:"):
                assert (page.parent / address.split("?")[0]).exists(), f"{page.name}: {address}"
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//", style.read_text(encoding="utf-8")), style.name


def test_a_page_opens_from_disk(site: Path, page: Page) -> None:
    page.goto((site / "method.html").as_uri())
    assert page.inner_text("h1").startswith("One pixel's journey")


def test_links_between_pages_lead_to_pages(site: Path) -> None:
    for page in site.rglob("*.html"):
        if page.name == "404.html":
            continue
        for address in Addresses(page).linked:
            target = address.partition("#")[0]
            if target and not re.match(r"[a-z]+:", target):
                assert (page.parent / target).exists(), f"{page.name}: {address}"


def test_equations_are_mathml(site: Path) -> None:
    page = (site / "method.html").read_text(encoding="utf-8")
    assert page.count("<math") == page.count('class="equation"') == 7
    assert re.findall(r'class="number">\((.+?)\)<', page) == ["1", "2, 3", "4", "5", "6", "7"]
    assert "$$" not in page
    assert "merror" not in page


def test_only_whole_equations_are_turned() -> None:
    turned = hooks.on_page_markdown("Costs $5.\n\n$$\na \\le b\n\\tag{3}\n$$\n\nand `$$`\n")
    assert turned.startswith("Costs $5.\n\n<div")
    assert turned.endswith("</div>\n\nand `$$`\n")
    assert "≤" in turned or "&#x02264;" in turned or "&#x2264;" in turned


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_page_can_be_read(address: str, browser: Browser, name: str, size: tuple[int, int]) -> None:
    for scheme in ("light", "dark"):
        page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
        asked: list[str] = []
        errors: list[str] = []
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
        page.goto(f"{address}{name}.html")
        page.wait_for_load_state("networkidle")
        assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
        assert not overflows(page), f"{name} scrolls sideways"
        assert serious_findings(page) == []
        assert errors == []
        page.close()
