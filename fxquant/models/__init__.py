"""Architectures that timm does not have. Importing this package registers their names with timm."""

from fxquant.models.itpn import ITPN, itpn_base, itpn_large
from fxquant.models.sret import SReT, sret_lt, sret_s, sret_t

__all__ = ["ITPN", "SReT", "itpn_base", "itpn_large", "sret_lt", "sret_s", "sret_t"]
