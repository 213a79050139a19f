"""How much of a teacher's answer to a crop is stored."""

from __future__ import annotations

from enum import Enum

from fxquant.errors import ConfigError

_ALIASES = {"marginal_renorm_k5": "marginal_renorm"}


class LabelKind(Enum):
    """
    How much of a teacher's distribution over C classes is stored, and what stands for the rest (FKD, Shen & Xing, ECCV
    2022).

    ORI: all probabilities.
    HARD: the likeliest class, as if it were certain.
    SMOOTHING: the likeliest class and its probability. The rest is spread evenly over the other classes.
    MARGINAL_SMOOTHING_K5, MARGINAL_SMOOTHING_K10: the likeliest 5 or 10, and the rest as in SMOOTHING.
    MARGINAL_RENORM: the likeliest 5, divided by their sum. The other classes have nothing.

    ``LabelKind("marginal_renorm_k5")`` is MARGINAL_RENORM too. Any other unknown name raises `ConfigError`.
    """

    ORI = "ori"
    HARD = "hard"
    SMOOTHING = "smoothing"
    MARGINAL_SMOOTHING_K5 = "marginal_smoothing_k5"
    MARGINAL_SMOOTHING_K10 = "marginal_smoothing_k10"
    MARGINAL_RENORM = "marginal_renorm"

    @classmethod
    def _missing_(cls, value: object) -> LabelKind:
        if isinstance(value, str) and value in _ALIASES:
            return cls(_ALIASES[value])
        raise ConfigError(f"unknown kind of labels {value!r}: expected one of {', '.join(kind_names())}")

    @property
    def kept(self) -> int:
        """The number of classes that are stored with their indices. It is 0 for ORI, which stores all in order."""
        return _KEPT[self]

    @property
    def spreads_rest(self) -> bool:
        """Whether the probability that is not stored goes to the other classes."""
        return self in (LabelKind.SMOOTHING, LabelKind.MARGINAL_SMOOTHING_K5, LabelKind.MARGINAL_SMOOTHING_K10)

    def stored_like(self, other: LabelKind) -> bool:
        """Say whether labels that were stored as `other` can be read as this kind."""
        return self.kept == other.kept and (self is LabelKind.HARD) == (other is LabelKind.HARD)


def kind_names() -> list[str]:
    """Return every name that `LabelKind` takes."""
    return [*(kind.value for kind in LabelKind), *_ALIASES]


_KEPT = {
    LabelKind.ORI: 0,
    LabelKind.HARD: 1,
    LabelKind.SMOOTHING: 1,
    LabelKind.MARGINAL_SMOOTHING_K5: 5,
    LabelKind.MARGINAL_SMOOTHING_K10: 10,
    LabelKind.MARGINAL_RENORM: 5,
}
