"""Records to uint8 batches. The only room that imports TensorFlow, and only when data are read."""

from jaxcnn.data.classes import class_table, display_names
from jaxcnn.data.errors import CorruptImage, DataError
from jaxcnn.data.eval_crops import EvalCrop
from jaxcnn.data.eval_loader import EvalImage, EvalLoader, placeholder_pixels, preprocess
from jaxcnn.data.loader import CorruptCounter, available_cores
from jaxcnn.data.sources.folder import ImageFiles
from jaxcnn.data.sources.source import Source, Subset
from jaxcnn.data.splits import SOURCE_KINDS, DataSplits, default_data_dir, open_data
from jaxcnn.data.train_crops import Sampling
from jaxcnn.data.train_loader import Batch, TrainLoader

__all__ = [
    "SOURCE_KINDS",
    "Batch",
    "CorruptCounter",
    "CorruptImage",
    "DataError",
    "DataSplits",
    "EvalCrop",
    "EvalImage",
    "EvalLoader",
    "ImageFiles",
    "Sampling",
    "Source",
    "Subset",
    "TrainLoader",
    "available_cores",
    "class_table",
    "default_data_dir",
    "display_names",
    "open_data",
    "placeholder_pixels",
    "preprocess",
]
