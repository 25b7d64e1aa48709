"""What becomes of images that cannot be read: a few are named and stood in for, many are an error."""

import logging

from jaxcnn.data.errors import DataError
from jaxcnn.data.sources.source import Source

_LOGGER = logging.getLogger(__name__)

# What stands for an image that cannot be read.
MID_GREY = 128
# More than this share of corrupt images, once there are this many, is a broken data set.
_SHARE, _COUNT = 0.01, 10


class CorruptCounter:
    """The images of `source` that could not be read.

    `names` lists them, each once, in the order of the stream; `treatment` says what becomes of them.
    """

    def __init__(self, source: Source, device_preprocess: str):
        self.names: list[str] = []
        self._source = source
        self._treatment = device_preprocess

    def note(self, position: int, problem: str, drawn: int) -> None:
        """Takes down that the image at `position` cannot be read, the last of `drawn` images.

        Raises:
          DataError: there are so many that the data set must be damaged.
        """
        name = self._source.name(position)
        if name not in self.names:
            self.names.append(name)
            _LOGGER.warning("cannot read image %s: %s; it is %s", name, problem, self._treatment)
        seen = min(drawn, len(self._source))
        if len(self.names) >= _COUNT and len(self.names) > _SHARE * seen:
            raise DataError(
                f"{len(self.names)} of the first {seen} images cannot be read, more "
                f"than {_SHARE:.0%}: the data set is damaged or is not what its name says; "
                f"the first ones are {', '.join(self.names[:5])}; prepare or copy it again"
            )
