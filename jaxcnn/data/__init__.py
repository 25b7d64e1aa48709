"""Records to uint8 batches. The only room that imports TensorFlow, and only when data is used."""

from .batches import Batch, Batches
from .classes import class_table, display_names
from .errors import CorruptImage, DataError
from .pipeline import eval_batches, preprocess, train_batches
from .sampling import Sampling
from .source import Data, Source, Subset, default_data_dir, open_data

__all__ = [
    "Batch",
    "Batches",
    "CorruptImage",
    "Data",
    "DataError",
    "Sampling",
    "Source",
    "Subset",
    "class_table",
    "default_data_dir",
    "display_names",
    "eval_batches",
    "open_data",
    "preprocess",
    "train_batches",
]
