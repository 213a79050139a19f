"""Files of `torch.save` as data: nothing that they name is imported or called."""

from fxquant.pickles.protocol import read_as_protocol_2
from fxquant.pickles.reader import foreign_names, load_inert, load_pickled
from fxquant.pickles.stand_in import Called, StandIn

__all__ = ["Called", "StandIn", "foreign_names", "load_inert", "load_pickled", "read_as_protocol_2"]
