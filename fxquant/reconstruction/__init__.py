"""Block-wise reconstruction of a calibrated model, without labels."""

from fxquant.reconstruction.reconstruct import reconstruct
from fxquant.reconstruction.reconstruction_options import ReconstructionOptions

__all__ = ["ReconstructionOptions", "reconstruct"]
