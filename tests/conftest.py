"""Property tests draw the same examples in every run, so that a red run is the change's fault.

``HYPOTHESIS_PROFILE=default python -m pytest`` searches anew. Indices stay out of the user's cache.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from fixtures_browser import browser as browser
from fixtures_browser import page as page
from fixtures_cli import scenelift as scenelift

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(autouse=True)
def _own_index(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    place: Path = tmp_path_factory.getbasetemp() / "index"
    monkeypatch.setenv("SCENELIFT_INDEX", str(place))
