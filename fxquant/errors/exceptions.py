"""Errors: each message says what was expected, what was found and what to do."""

from __future__ import annotations


class FxquantError(Exception):
    """Base class of every error that fxquant raises on purpose."""


class ConfigError(FxquantError, ValueError):
    """A configuration that cannot be meant: unknown recipe, impossible bits, unknown option."""


class UnsupportedGraphError(FxquantError):
    """A model or graph that fxquant cannot follow; names the module and the source line."""


class CalibrationError(FxquantError):
    """Calibration data or statistics that cannot give a scale; names the node and the batch."""


class InputError(FxquantError, ValueError):
    """An input tensor, folder or file of the wrong shape, type or content."""


class TrainingError(FxquantError):
    """A training that cannot go on: a loss that is not finite, or a process that is gone; names the step or the process."""


class CheckpointError(FxquantError):
    """A checkpoint that is damaged, newer than this library, or not one at all."""


class PassError(FxquantError):
    """A graph pass failed; the cause is chained, the pass, node and source line are added."""

    def __init__(self, pass_name: str, node: str, where: str, reason: str) -> None:
        self.pass_name = pass_name
        self.node = node
        super().__init__(f"pass {pass_name!r} failed at node {node!r}{where}: {reason}")
