"""Records to uint8 batches. The only room that imports TensorFlow, and only when data is used."""

from jaxcnn.data.classes import class_table, display_names
from jaxcnn.data.corrupt import Unreadable
from jaxcnn.data.errors import CorruptImage, DataError
from jaxcnn.data.eval_crops import Cut
from jaxcnn.data.eval_loader import Files, Picture, Pictures, stand_in
from jaxcnn.data.pipeline import preprocess, train_batches
from jaxcnn.data.sampling import Sampling
from jaxcnn.data.sources.source import Data, Source, Subset, default_data_dir, open_data
from jaxcnn.data.train_loader import Batch, Batches

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
