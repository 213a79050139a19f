"""Block-wise reconstruction of a calibrated model, without labels."""

from fxquant.reconstruction.options import ReconstructionOptions
from fxquant.reconstruction.reconstruct import reconstruct

__all__ = ["ReconstructionOptions", "reconstruct"]
