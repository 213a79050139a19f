"""Architectures that timm does not have; importing this package registers them with timm by name."""

from fxquant.models.itpn import ITPN, itpn_base, itpn_large

__all__ = ["ITPN", "itpn_base", "itpn_large"]
