"""Property tests draw the same examples in every run, so that a red run is the change's fault.

``HYPOTHESIS_PROFILE=default python -m pytest`` searches anew.
"""

from __future__ import annotations

import os

from hypothesis import settings

from fixtures_cli import scenelift as scenelift

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
