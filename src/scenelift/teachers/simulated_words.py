"""The text side of the simulated teacher: vectors for words, with the kinship that CLIP sees between them.

A vector stands for words, not for meanings: ``chair`` is near ``sofa`` because both stand in one family
below, and a word that stands nowhere points in a direction that no pixel has. Queries are therefore held
against the words that are known, see `QueryWords`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from scenelift.errors import ConfigError
from scenelift.teachers.simulated_draws import hash_key, hashed_normal
from scenelift.types import F32, F64

_COMMON = 0.6
"""Share that all phrases have in common: the cosine of unrelated ones, as between CLIP's class names."""
_FAMILY = 0.15
"""Share of the families a phrase belongs to: what related phrases have in common beyond that."""

FAMILIES: tuple[frozenset[str], ...] = tuple(
    frozenset(words.split())
    for words in (
        "wall floor ceiling door",
        "cabinet bookshelf shelf counter refrigerator wardrobe dresser drawer furniture",
        "table desk counter nightstand furniture",
        "chair sofa bed couch armchair bench stool furniture",
        "window picture door mirror monitor screen whiteboard",
        "curtain blinds window shower",
        "toilet sink bathtub shower",
        "car truck bus trailer van vehicle",
        "bicycle motorcycle pedestrian person",
        "driveable road sidewalk terrain flat grass",
        "manmade building barrier fence cone vegetation tree",
    )
)
"""Words that image–text models mix up."""

_WORD = re.compile(r"[^\W_]+")


class SimulatedWords:
    """A `scenelift.teachers.TextEncoder` of hashed vectors.

    Args:
        dim: length of an embedding.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim

    @property
    def text_identity(self) -> str:
        """All that words depend on."""
        return f"simulated-text/1 dim={self.dim}"

    @property
    def weights(self) -> str:
        """There are none."""
        return "none: simulated from ground truth"

    def text_features(self, prompts: Sequence[Sequence[str]]) -> F32:
        """Embeddings of classes: the same words, the same vector, whatever the seed.

        A phrase is what all phrases share, what its families share, and what its words alone mean.
        Cosines are about 0.6 between unrelated names and 0.75 or more between related ones.

        Args:
            prompts: for each class its phrases; their embeddings are averaged.

        Returns:
            (C, dim) float32, unit length.
        """
        rows = [unit(np.stack([self._phrase(phrase) for phrase in of_class]).mean(0)) for of_class in prompts]
        return np.stack(rows).astype(np.float32)

    def _phrase(self, phrase: str) -> F64:
        words = phrase.casefold().split()
        families = [f"family {i}" for i, family in enumerate(FAMILIES) if not family.isdisjoint(words)]
        own = self._direction(words)
        shared = _FAMILY if families else 0.0
        related = self._direction(families) if families else own
        common = self._direction(["every phrase"])
        meaning = np.sqrt(shared) * related + np.sqrt(1 - _COMMON - shared) * own
        return unit(np.sqrt(_COMMON) * common + meaning)

    def _direction(self, names: Sequence[str]) -> F64:
        """(dim,) unit vector: the sum of the names' random vectors."""
        axes = np.arange(self.dim)
        return unit(np.sum([hashed_normal(hash_key("text", name), axes) for name in names], axis=0))


class QueryWords:
    """The same space for what a user types: of a phrase its known words count, all others are passed over.

    ``"a red chair"`` is ``chair`` and ``"two chairs"`` too; a phrase with no known word has no meaning here.

    Args:
        dim: length of an embedding.
        phrases: of the classes that the networks were trained for; their words are known beside `FAMILIES`.
    """

    def __init__(self, dim: int, phrases: Iterable[str]) -> None:
        self._words = SimulatedWords(dim)
        self._known = frozenset().union(*FAMILIES, *(phrase.casefold().split() for phrase in phrases))
        self.dim, self.text_identity = dim, self._words.text_identity
        self.weights = self._words.weights

    def text_features(self, prompts: Sequence[Sequence[str]]) -> F32:
        """As `SimulatedWords.text_features`.

        Raises:
            ConfigError: a phrase without a known word; the message lists those that are.
        """
        return self._words.text_features([[self._kept(phrase) for phrase in row] for row in prompts])

    def _kept(self, phrase: str) -> str:
        words = _WORD.findall(phrase.casefold())
        singular = [word if word in self._known else word.removesuffix("s") for word in words]
        kept = [word for word in singular if word in self._known]
        if not kept:
            raise ConfigError(
                f"text: expected a phrase with a word that the simulated teacher knows, found {phrase!r}; "
                f"it has no language, only these words: {', '.join(sorted(self._known))}"
            )
        return " ".join(kept)


def unit(vectors: F64) -> F64:
    """Unit length along the first axis."""
    scaled: F64 = vectors / np.linalg.norm(vectors, axis=0, keepdims=True)
    return scaled
