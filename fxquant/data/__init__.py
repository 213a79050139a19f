"""
Images: folders of files, what they hold, and batches of them.

A name is fetched from its module where it is first used, as a graph that is loaded needs `DataConfig` alone, and not timm.
"""

from typing import TYPE_CHECKING

from fxquant.lazy import fetch_from

if TYPE_CHECKING:
    from fxquant.data.batches import Batch, ImageBatches, TensorBatches, read_images, resolve_data_config
    from fxquant.data.data_config import DataConfig
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
    "read_images",
    "resolve_data_config",
]
_HOMES = {
    "batches": "Batch ImageBatches TensorBatches read_images resolve_data_config",
    "data_config": "DataConfig",
    "folder": "ImageTree Samples check_classes draw_images read_image_tree",
    "formats": "IMG_EXTENSIONS",
    "pixels": "open_image",
    "unreadable": "Unreadable",
}


if not TYPE_CHECKING:  # else every misspelt name would have a type
    __getattr__ = fetch_from(__name__, _HOMES)
