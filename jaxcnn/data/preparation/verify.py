"""Verifies encoded images: each is decoded once, and what a decoder would mend by a guess is a fault."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import NamedTuple

from jaxcnn.data import jpeg, pillow
from jaxcnn.data.decode import is_jpeg, load_decoders
from jaxcnn.data.errors import CorruptImage, DamagedRecord
from jaxcnn.data.limits import BUDGET, OUT_OF_MEMORY, check_bytes
from jaxcnn.data.loader import Loader, available_cores, default_readers
from jaxcnn.data.sources import packed_record
from jaxcnn.data.sources.source import Read, Source
from jaxcnn.data.tensorflow import decode_strictly

# Images verified ahead of the one that is reported.
_AHEAD = 64


class DamagedImage(NamedTuple):
    name: str
    reason: str


def verify(
    source: Source, *, threads: int = 0, progress: Callable[[int, int], None] = lambda *_: None
) -> Iterator[DamagedImage]:
    """Yields the damaged images of a source in its order, each as soon as it is found.

    A JPEG is damaged if libjpeg complains of anything, down to its last scan. Damage after which the code of
    the pixels ends where it should cannot be seen: JPEG has no checksums. Those of a PNG are all compared.

    Args:
      threads: 0 for one per core.
      progress: called with (images done, images in all) after each image.
    """
    with _Verifier(source, threads) as faults:
        for position, fault in enumerate(faults):
            if fault:
                yield DamagedImage(source.name(position), fault)
            progress(position + 1, len(source))


class _Verifier(Loader[str]):
    """Of each image in order: what is wrong with it, or ''."""

    def __init__(self, source: Source, threads: int):
        self._source = source
        load_decoders()
        readers = default_readers(source)
        threads, ahead = threads or available_cores(), max(_AHEAD, readers)
        super().__init__(range(len(source)), threads, ahead, readers=readers)

    def _submit(self, given: int) -> "Future[str]":
        return self._submit_reads(self._source, [given], self._verify)

    def _finish(self, submitted: "Future[str]") -> str:
        return self._result(submitted)

    def _verify(self, reads: Sequence[Read]) -> str:
        try:
            verify_image(reads[0]()[0])
            return ""
        except DamagedRecord as error:
            return error.reason
        except CorruptImage as error:
            return str(error) or "no reason given"
        except MemoryError:
            return OUT_OF_MEMORY


def verify_image(data: bytes | memoryview) -> None:
    """Decodes an encoded image completely.

    Raises:
      CorruptImage: it is damaged, or over a limit.
    """
    if not data:
        raise CorruptImage("the file is empty")
    if packed_record.is_record(data):
        packed_record.read_record(data)
        return
    check_bytes(len(data))
    data = bytes(data)
    if not is_jpeg(data):
        pillow.verify_image(data)
        return
    header = jpeg.read_header(data)
    data = jpeg.complete(data, header)
    window = jpeg.window(data, header, (0, 0, header.height, header.width))
    with BUDGET.reserve(window.memory):
        decoded = decode_strictly(window)
    if isinstance(decoded, CorruptImage):
        raise decoded
