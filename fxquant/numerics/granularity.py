"""Over which values of a tensor one scale is shared."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fxquant.errors import ConfigError


@dataclass(frozen=True)
class PerTensor:
    """One scale for the whole tensor."""

    @property
    def axis(self) -> None:
        """A single scale runs along no axis."""
        return None


@dataclass(frozen=True)
class PerChannel:
    """One scale per index of `axis`: 0 is the output channel of a weight, -1 the channel of ``(B, N, C)`` tokens."""

    axis: int = 0

    def __post_init__(self) -> None:
        _check_integer("PerChannel needs an integer axis", self.axis)


@dataclass(frozen=True)
class PerToken:
    """
    One scale per token, which is each row of values ``(..., C)``, computed from that row at run time.

    For the inputs of linear layers. Such an operand has no scale before it is computed, and calibration finds none.
    """

    @property
    def axis(self) -> None:
        """No scale is known that would run along an axis."""
        return None


@dataclass(frozen=True)
class OutlierTokens:
    """
    One scale for the whole tensor; but one per token, as `PerToken`, where a few tokens would decide about that of all.

    ratio: from how many times the median token's range on a token is such an outlier. Calibration finds out, and `convert` puts
    `PerToken` or `PerTensor` in the place of this. For the inputs of linear layers. Source: RegCache (arXiv 2510.04547).
    """

    ratio: float = 3.0

    def __post_init__(self) -> None:
        ratio = self.ratio
        if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 1 <= ratio < math.inf:
            raise ConfigError(f"OutlierTokens.ratio must be a finite number of at least 1, got {ratio!r}")

    @property
    def axis(self) -> None:
        """Neither one scale nor those of tokens run along an axis."""
        return None


@dataclass(frozen=True)
class PerHead:
    """One scale per attention head: axis 1 of ``(B, H, N, D)``."""

    @property
    def axis(self) -> int:
        """Heads are axis 1."""
        return 1


@dataclass(frozen=True)
class RowGroups:
    """One scale per block of consecutive output channels, such as 3 for the q, k and v rows of a joint weight."""

    groups: int

    def __post_init__(self) -> None:
        _check_integer("RowGroups needs a whole number of groups", self.groups)
        if self.groups < 1:
            raise ConfigError(f"RowGroups needs at least one group, got {self.groups}")

    @property
    def axis(self) -> int:
        """Output channels are axis 0 of a weight."""
        return 0


@dataclass(frozen=True)
class PerProjection:
    """
    One scale for each projection of a weight: three for one that computes query, key and value, one for any other.

    heads: one scale for each head of each projection. `prepare` finds the projections from the data flow, and puts `RowGroups`
    or `PerTensor` in the place of this.
    """

    heads: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.heads, bool):
            raise ConfigError(f"PerProjection.heads must be True or False, got {self.heads!r}")

    @property
    def axis(self) -> int:
        """Output channels are axis 0 of a weight."""
        return 0


def _check_integer(expected: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{expected}, got {value!r}")


OfTokens = PerToken | OutlierTokens
Granularity = PerTensor | PerChannel | PerToken | OutlierTokens | PerHead | RowGroups | PerProjection
