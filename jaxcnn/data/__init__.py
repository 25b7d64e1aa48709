"""Records to uint8 batches. The only room that imports TensorFlow, and only when data is used."""

from .batches import Batch, Batches
from .classes import class_table, display_names
from .cuts import Cut
from .errors import CorruptImage, DataError
from .pictures import Files, Picture, Pictures, stand_in
from .pipeline import preprocess, train_batches
from .sampling import Sampling
from .source import Data, Source, Subset, default_data_dir, open_data
from .unreadable import Unreadable

__all__ = [
    "Batch",
    "Batches",
    "CorruptImage",
    "Cut",
    "Data",
    "DataError",
    "Files",
    "Picture",
    "Pictures",
    "Sampling",
    "Source",
    "Subset",
    "Unreadable",
    "class_table",
    "default_data_dir",
    "display_names",
    "open_data",
    "preprocess",
    "stand_in",
    "train_batches",
]
