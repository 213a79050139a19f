"""Images: folders of files, what they hold, and batches of them."""

from fxquant.data.batches import Batch, DataConfig, ImageBatches, TensorBatches, resolve_data_config
from fxquant.data.folder import ImageTree, Samples, check_classes, draw_images, read_image_tree
from fxquant.data.formats import IMG_EXTENSIONS
from fxquant.data.pixels import open_image
from fxquant.data.unreadable import Unreadable

__all__ = [
    "IMG_EXTENSIONS",
    "Batch",
    "DataConfig",
    "ImageBatches",
    "ImageTree",
    "Samples",
    "TensorBatches",
    "Unreadable",
    "check_classes",
    "draw_images",
    "open_image",
    "read_image_tree",
    "resolve_data_config",
]
