"""What a result depends on, as a digest: the same digest, the same result."""

from __future__ import annotations

import hashlib

from scenelift.annotations import Annotations
from scenelift.config import Config

STAGE1 = ("seed", "data", "networks", "augment", "train", "latent", "distill", "refine.clip")
"""What stage 1 depends on, beside the annotations."""
TRAINING = (*STAGE1, "refine", "switch")
"""What trained networks depend on, beside the annotations."""
ANSWERS = ("data", "refine", "predict")
"""What predictions depend on, beside networks and annotations."""


def depends_on(
    config: Config, sections: tuple[str, ...], annotations: Annotations, names: tuple[str, ...], start: str
) -> str:
    """Digest of sections of a configuration, of scenes as they are annotated, and of networks.

    Args:
        config: of the run.
        sections: those that matter.
        annotations: of the scenes.
        names: of the scenes.
        start: digest of the networks that it begins with.
    """
    state = hashlib.blake2b(config.digest(*sections).encode(), digest_size=16)
    state.update(annotations.digest(names).encode())
    state.update(start.encode())
    return state.hexdigest()
