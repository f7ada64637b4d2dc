"""What can go wrong, by name: every message says what, the value seen, the value allowed and the next step."""

from __future__ import annotations


class RectiflowError(Exception):
    """A mistake or a mishap that the user can act on; the command line prints it as one line, without a traceback."""

    exit_code = 1


class ConfigError(RectiflowError):
    """A configuration key or value that is not allowed."""

    exit_code = 2


class DataError(RectiflowError):
    """Data that cannot be read or does not hold what it should."""


class MissingDependency(RectiflowError):
    """A package that an optional part needs is not installed."""


class CheckpointCorrupt(RectiflowError):
    """A checkpoint whose files are missing, truncated, altered or not plain tensors."""


class StorageError(RectiflowError):
    """A file that could not be written: no permission, no space, or a size limit."""

    exit_code = 3


class NonFiniteError(RectiflowError):
    """A loss, gradient or sample that is NaN or infinite."""

    exit_code = 4


class ConvergenceError(RectiflowError):
    """An iteration that did not reach its tolerance within its limit."""


class ConversionError(RectiflowError, ValueError):
    """A quantity that is not defined for this flow (for example a score without an independent Gaussian source)."""


class Interrupted(RectiflowError):
    """The run was asked to stop; its state is saved and it can be resumed."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
