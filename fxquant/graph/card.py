"""What a graph carries besides its code: which images it takes, its classes, how it was made, and how good it was."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fxquant.data.data_config import DataConfig
from fxquant.errors import ConfigError

# The names by which a graph gives its card and parts of it: no tensor of a model may hide them.
ATTRIBUTES = ("card", "class_names", "data_config")
_MOST_CLASSES, _MOST_ENTRIES, _LONGEST = 1_000_000, 100, 1000
_LARGEST = 2**53
OptionValue = bool | int | float | str | None


@dataclass(frozen=True)
class UsedRecipe:
    """The recipe that a graph was quantised by, with the options that were given."""

    name: str
    w_bits: int
    a_bits: int
    options: tuple[tuple[str, OptionValue], ...] = ()

    def __post_init__(self) -> None:
        _check_count("options of a recipe", self.options, _MOST_ENTRIES)
        _check_texts(
            "recipe", (self.name, *(part for option in self.options for part in option if isinstance(part, str)))
        )
        for name in ("w_bits", "a_bits"):
            _check_number(name, getattr(self, name), 1, 32)

    def __str__(self) -> str:
        options = ", ".join(f"{name}={str(value).lower()}" for name, value in self.options)
        return f"recipe {self.name}{options and f' ({options})'}, W{self.w_bits}A{self.a_bits}"


def used_recipe(name: str, w_bits: int, a_bits: int, options: Mapping[str, Any]) -> UsedRecipe:
    """Return the note of a recipe; options that are no plain values are noted as text."""
    plain = {key: value if isinstance(value, OptionValue) else str(value) for key, value in options.items()}
    return UsedRecipe(name, w_bits, a_bits, tuple(sorted(plain.items())))


@dataclass(frozen=True)
class MeasuredAccuracy:
    """
    Top-1 accuracy in percent of the float model and of the quantised one, None where it was not measured.

    images, data: on how many images, and of what.
    """

    quantised_top1: float
    float_top1: float | None = None
    images: int = 0
    data: str = ""

    def __post_init__(self) -> None:
        _check_number("quantised_top1", self.quantised_top1, 0, 100)
        if self.float_top1 is not None:
            _check_number("float_top1", self.float_top1, 0, 100)
        _check_number("images", self.images, 0, _LARGEST)
        _check_texts("data", (self.data,))

    def __str__(self) -> str:
        before = "" if self.float_top1 is None else f", float {self.float_top1:.2f} %"
        return f"top-1 {self.quantised_top1:.2f} %{before}, {self.images} images of {self.data or 'unknown data'}"


@dataclass(frozen=True)
class ModelCard:
    """
    What a saved graph says of itself; all of it is optional.

    model: the name of what was quantised. data_config: which images it takes. num_classes: of its logits, 0 where it gives
    features. class_names: by index. versions: of fxquant, torch and timm when it was made, which `fxquant.save` fills in.

    Raises `ConfigError` for texts that are not one printable line, and for values that cannot be meant.
    """

    model: str | None = None
    data_config: DataConfig | None = None
    num_classes: int | None = None
    class_names: tuple[str, ...] = ()
    recipe: UsedRecipe | None = None
    accuracy: MeasuredAccuracy | None = None
    versions: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for name, kind in (("data_config", DataConfig), ("recipe", UsedRecipe), ("accuracy", MeasuredAccuracy)):
            if not isinstance(getattr(self, name), kind | None):
                raise ConfigError(f"{name} must be a {kind.__name__} or None, got {getattr(self, name)!r:.100}")
        _check_count("class_names", self.class_names, _MOST_CLASSES)
        _check_count("versions", self.versions, _MOST_ENTRIES)
        _check_texts("model", () if self.model is None else (self.model,))
        _check_texts("class_names", self.class_names)
        _check_texts("versions", [part for version in self.versions for part in version])
        if self.num_classes is not None:
            _check_number("num_classes", self.num_classes, 0, _LARGEST)
        if self.class_names and self.num_classes not in (None, len(self.class_names)):
            raise ConfigError(f"expected names of {self.num_classes} classes, got {len(self.class_names)}")

    def describe(self) -> dict[str, str]:
        """Return a line for each part that is known."""
        names = ", ".join(self.class_names[:5]) + (", ..." if len(self.class_names) > 5 else "")
        lines = {
            "model": self.model,
            "input": self.data_config,
            "classes": f"{len(self.class_names)}: {names}" if names else self.num_classes,
            "quantised": self.recipe,
            "accuracy": self.accuracy,
            "made by": ", ".join(f"{name} {version}" for name, version in self.versions) or None,
        }
        return {name: str(value) for name, value in lines.items() if value is not None}


def _check_count(name: str, values: object, most: int) -> None:
    if not isinstance(values, tuple) or len(values) > most:
        raise ConfigError(f"{name} must be a tuple of at most {most}, got {values!r:.100}")


def _check_texts(name: str, values: Sequence[object]) -> None:
    for value in values:
        # Python source may be made of a graph, and of what is known of it: see fxquant.checkpoint.names.
        if not isinstance(value, str) or not value.isprintable() or '"""' in value or len(value) > _LONGEST:
            raise ConfigError(f"{name}: expected one printable line of at most {_LONGEST} letters, got {value!r:.100}")


def _check_number(name: str, value: object, least: float, most: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not least <= value <= most:  # type: ignore[operator]
        raise ConfigError(f"{name} must be a number from {least} to {most}, got {value!r:.100}")
