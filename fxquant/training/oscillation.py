"""Weights that jump between two codes from step to step: find them, and hold them still (Nagel et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.errors import CheckpointError, ConfigError
from fxquant.graph.trained import weight_quantizers
from fxquant.observers.learned_step import LearnedWeightQuantizer

OSCILLATING = 0.005  # frequency above which a weight counts as oscillating


@dataclass(frozen=True)
class Share:
    """Shares of all weights, from 0 to 1."""

    oscillating: float
    frozen: float


class OscillationFreezer:
    """
    Follow the codes of all weights of `prepared`, and hold those still that change back and forth too often.

    Call `step` after each step of the optimiser. A weight oscillates when its code moves against its last move. Its
    frequency is a moving average over the steps, with `momentum`. A weight whose frequency exceeds `threshold` is frozen:
    it stays in the middle of the code that it had on average, whatever the optimiser does to it, and follows its scale.

    threshold: None follows the codes and freezes nothing.
    """

    def __init__(self, prepared: nn.Module, threshold: float | None = None, momentum: float = 0.01) -> None:
        if not 0 < momentum <= 1 or (threshold is not None and not 0 <= threshold <= 1):
            raise ConfigError(
                f"momentum must lie in (0, 1] and threshold in [0, 1], got {momentum!r} and {threshold!r}"
            )
        self.threshold, self.momentum = threshold, momentum
        self._tracks = [_Track(module, weight) for module, weight in weight_quantizers(prepared)]

    @torch.no_grad()
    def step(self) -> None:
        """Look at the weights after a step of the optimiser, and put the frozen ones back."""
        for track in self._tracks:
            track.follow(self.momentum)
            if self.threshold is not None:
                track.freeze(self.threshold)

    @property
    def share(self) -> Share:
        """Return the share of the weights that oscillate, and the share that is frozen."""
        total = max(sum(t.weight.numel() for t in self._tracks), 1)
        oscillating = sum(int((t.frequency > OSCILLATING).sum()) for t in self._tracks)
        return Share(oscillating / total, sum(int(t.frozen.sum()) for t in self._tracks) / total)

    def state_dict(self) -> dict[str, Any]:
        """Return the state, for `load_state_dict`."""
        return {str(i): {name: getattr(t, name) for name in _Track.STATE} for i, t in enumerate(self._tracks)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; raise `CheckpointError` for the state of another model."""
        if len(state) != len(self._tracks):
            raise CheckpointError(f"expected the oscillations of {len(self._tracks)} weights, found {len(state)}")
        for index, track in enumerate(self._tracks):
            saved = state[str(index)]
            for name in _Track.STATE:
                if saved[name].shape != track.weight.shape:
                    raise CheckpointError(
                        f"oscillations of weight {index}: expected the shape {tuple(track.weight.shape)}"
                    )
                setattr(track, name, saved[name].to(track.weight.device).clone())


class _Track:
    """The codes of one weight over the steps."""

    STATE = ("codes", "direction", "frequency", "mean", "frozen")

    def __init__(self, module: LearnedWeightQuantizer, weight: nn.Parameter) -> None:
        self.module, self.weight = module, weight
        with torch.no_grad():
            self.codes = self._codes()
        self.direction = torch.zeros_like(self.codes)
        self.mean = self.codes.float()
        self.frequency = torch.zeros_like(self.mean)
        self.frozen = torch.zeros_like(self.codes, dtype=torch.bool)

    def _steps(self) -> tuple[Tensor, Tensor]:
        rows = self.module.rows_of(self.weight)
        scale = self.module.scale_of(rows)
        qmin, qmax = (self.module.placed(bound, rows) for bound in self.module.range_of_codes())
        return (rows / scale).clamp(qmin, qmax), scale  # type: ignore[arg-type]

    def _codes(self) -> Tensor:
        return self._steps()[0].round().to(torch.int8).view_as(self.weight)

    def follow(self, momentum: float) -> None:
        codes = self._codes()
        direction = (self.codes - codes).sign()
        self.frequency.lerp_((direction * self.direction == -1).float(), momentum)
        self.mean = torch.where(self.frozen, self.mean, self.mean.lerp(codes.float(), momentum))
        self.direction = torch.where(direction != 0, direction, self.direction)
        self.codes = codes

    def freeze(self, threshold: float) -> None:
        self.frozen |= self.frequency > threshold
        self.mean = torch.where(self.frozen, self.mean.round(), self.mean)
        centre = (self.module.rows_of(self.mean) * self._steps()[1]).view_as(self.weight)
        self.weight.copy_(torch.where(self.frozen, centre, self.weight))
        self.codes = torch.where(self.frozen, self.mean.to(torch.int8), self.codes)
