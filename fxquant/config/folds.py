"""Which changes of a float model, equal in exact arithmetic, make it easier to quantise."""

from __future__ import annotations

from dataclasses import dataclass, fields

from fxquant.config.operands import check_bool
from fxquant.errors import ConfigError, expect_whole


@dataclass(frozen=True)
class Reparameterize:
    """
    Give each channel of a norm that linear layers read the same range, by its scale and shift (RepQ-ViT).

    strict: refuse a model in which there is no such norm.
    """

    strict: bool = True


@dataclass(frozen=True)
class Smooth:
    """
    Divide each channel of a norm that linear layers read by ``max|x|^alpha / max|w|^(1 - alpha)`` (SmoothQuant).

    alpha: from 0 to 1; the larger, the more of the range moves from the activations to the weights.
    """

    alpha: float = 0.5

    def __post_init__(self) -> None:
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, int | float) or not 0 <= self.alpha <= 1:
            raise ConfigError(f"Smooth.alpha must lie in [0, 1], got {self.alpha!r}")


NormFold = Reparameterize | Smooth


@dataclass(frozen=True)
class Folds:
    """
    What is folded into the weights of a model before it is quantised; none of it costs anything at run time.

    layer_scale: the factors behind linear layers. affine: the scale and shift of norms, into the linear layers that read them.
    center: the mean is taken out of the residual stream, and layer norms become RMS norms. rotate: the residual stream is
    turned by a random Hadamard matrix. rotate_heads: so are, within each head, queries and keys, and values. seed: of these
    matrices. center and rotate include layer_scale and affine. norms: what `fxquant.calibrate` moves from norms into the linear
    layers that read them, by what it sees of each channel.
    """

    layer_scale: bool = False
    affine: bool = False
    center: bool = False
    rotate: bool = False
    rotate_heads: bool = False
    norms: NormFold | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in SWITCHES:
            check_bool(f"Folds.{name}", getattr(self, name))
        if self.norms is not None and not isinstance(self.norms, NormFold):
            raise ConfigError(f"Folds.norms must be Reparameterize(), Smooth() or None, got {self.norms!r}")
        expect_whole("Folds.seed", self.seed, least=0)


SWITCHES = tuple(field.name for field in fields(Folds) if field.type == "bool")
_NORMS: dict[str, NormFold] = {"reparameterize": Reparameterize(), "smooth": Smooth()}


def folds_of(value: object) -> Folds | None:
    """
    Return the folds that an option means: `Folds`, None, or names joined by a plus sign, as in ``"rotate+reparameterize"``.

    The names are the switches of `Folds`, ``reparameterize`` and ``smooth``; ``"none"`` is for no fold where a recipe has some,
    and None for those of the recipe. Raises `ConfigError` for anything else.
    """
    if value is None or isinstance(value, Folds):
        return value
    if value == "none":
        return Folds()
    names = value.split("+") if isinstance(value, str) else []
    norms = [_NORMS[name] for name in names if name in _NORMS]
    if not names or len(norms) > 1 or any(name not in SWITCHES and name not in _NORMS for name in names):
        raise ConfigError(
            f"option folds must be Folds, None or names joined by +, {' and '.join(_NORMS)} not both: expected "
            f"{', '.join((*SWITCHES, *_NORMS))}, got {value!r}"
        )
    return Folds(norms=next(iter(norms), None), **{name: True for name in SWITCHES if name in names})
