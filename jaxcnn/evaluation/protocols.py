"""Test protocols: a protocol names its views of an image. One shared rule (counting) does the rest.

A new protocol is one dataclass here and one row in `PROTOCOLS`.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Centre:
    """One view: the central square of the image rescaled to shorter side `scale`.

    Attributes:
        scale: shorter side of the rescaled image, in pixels.
        every_epochs: how often training stops for it; 0 is only at the end.
    """

    scale: int = 256
    every_epochs: float = 1.0

    def __post_init__(self) -> None:
        if self.scale < 1:
            raise ValueError(f"scale must be positive, got {self.scale}")
        if self.every_epochs < 0:
            raise ValueError(f"every_epochs must be 0 or more, got {self.every_epochs}")

    def label(self, image_size: int) -> str:
        """What a result row carries, enough to compare by: `centre(256->224)`."""
        return f"centre({self.scale}->{image_size})"


PROTOCOLS = {"centre": Centre}
