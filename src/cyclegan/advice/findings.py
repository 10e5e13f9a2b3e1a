"""What is known before parameters are chosen: the images of both domains, how far apart they are, and the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cyclegan.domains import DOMAINS, Domain, Split
from cyclegan.evaluation.distributions import FEWEST as FEWEST_FOR_ERROR
from cyclegan.params import Size

# Below this, a tenth for the test split has no standard error, and no version becomes champion (docs/data.md).
ENOUGH_FOR_GATE = 40
# Between the KID of the quick start's domains, 0.14, and of horses and zebras, 2.1, at 128 pixels (docs/results.md): in
# the first set residual output helps, in the second one shapes and colors have to change.
CLOSE_KID = 0.5
# Differentiable augmentation is for a few hundred images or fewer (Zhao et al. 2020); with 606, row y gained nothing.
FEW_IMAGES = 200
# Images that an evaluation takes at most: it is repeated during the training. KID has a small error by then.
VALIDATION_IMAGES = 100
TEST_IMAGES = 250


@dataclass(frozen=True)
class DomainFindings:
    """What the images of one domain are.

    Attributes:
        counts: different readable images by split, as the source has them; "train" if it has none.
        side: median of the shorter sides, in pixels.
        smallest, largest: `(height, width)` of the image with the least and the most pixels.
        channels: images by channels.
        deep: images with more than 8 bits per channel.
        duplicates: images whose pixels another image of the domain has too.
        unreadable: file → reason.
    """

    counts: Mapping[Split, int]
    side: int
    smallest: Size
    largest: Size
    channels: Mapping[int, int]
    deep: int = 0
    duplicates: int = 0
    unreadable: Mapping[str, str] | None = None

    @property
    def total(self) -> int:
        """Different readable images."""
        return sum(self.counts.values())

    @property
    def line(self) -> str:
        """The same for a person."""
        kinds = {1: "gray", 3: "RGB", 4: "RGBA"}
        (low, wide), (high, widest) = self.smallest, self.largest
        sizes = f"{wide}×{low}" if self.smallest == self.largest else f"{wide}×{low} to {widest}×{high}"
        parts = [f"{self.total} images", f"{sizes} pixels"]
        parts += [f"{count} {kinds.get(n, f'of {n} channels')}" for n, count in sorted(self.channels.items())]
        parts += [f"{self.deep} with 16 bits"] if self.deep else ["8 bits"]
        parts += [f"{self.duplicates} duplicates"] if self.duplicates else []
        parts += [f"{len(self.unreadable)} unreadable"] if self.unreadable else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Findings:
    """All that the rules depend on.

    Attributes:
        domains: what the images are.
        distance: KID between samples of both domains.
        device: its name.
        on_gpu: whether it is a GPU.
        has_pairs: whether true pairs measure the translations.
        decode_seconds: that it takes to decode all images.
    """

    domains: Mapping[Domain, DomainFindings]
    distance: float
    device: str = "CPU"
    on_gpu: bool = False
    has_pairs: bool = False
    decode_seconds: float = 0.0

    @property
    def is_close(self) -> bool:
        return self.distance < CLOSE_KID

    def most(self, split: Split) -> int:
        """Images of the larger domain in a split of the source."""
        return max(self.domains[domain].counts.get(split, 0) for domain in DOMAINS)

    def least(self, split: Split) -> int:
        """Images of the smaller domain in a split of the source."""
        return min(self.domains[domain].counts.get(split, 0) for domain in DOMAINS)

    @property
    def fractions(self) -> dict[Split, float]:
        """Shares of the training images for validation and test."""
        fewest, most = self.least("train"), self.most("train")
        if fewest < ENOUGH_FOR_GATE:
            share = min(0.2, round(FEWEST_FOR_ERROR / fewest, 3))
            return {"val": share, "test": share}
        return {
            "val": min(0.1, round(VALIDATION_IMAGES / most, 3)),
            "test": min(0.1, round(TEST_IMAGES / most, 3)),
        }

    def in_split(self, split: Split) -> list[int]:
        """Images of both domains in a split of the packed data."""
        return [self._packed(self.domains[domain].counts, split) for domain in DOMAINS]

    def _packed(self, counts: Mapping[Split, int], split: Split) -> int:
        taken: dict[Split, int] = {}
        for part, fraction in self.fractions.items():
            own = counts.get(part, 0)
            taken[part] = own or max(1, round(fraction * counts.get("train", 0)))
        if split != "train":
            return taken[split]
        return counts.get("train", 0) - sum(taken[part] for part in taken if not counts.get(part))
