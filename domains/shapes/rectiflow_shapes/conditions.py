"""What a shape may be asked for: its kind, attributes and a caption, as tensors; free of the data they come from."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rectiflow.errors import ConfigError

FREE = -1.0
"""An attribute that is not asked for."""

LONGEST_CAPTION = 16
VOCABULARY = 1024


def words(caption: str) -> Tensor:
    """(16,) numbers of a caption's words, in 1..1023 by their checksum and 0 after the last; the same on every machine.

    Words differ in letters and digits alone; what follows the sixteenth is left out.
    """
    numbers = [1 + zlib.crc32(word.encode()) % (VOCABULARY - 1) for word in re.findall(r"[a-z0-9.]+", caption.lower())]
    numbers = numbers[:LONGEST_CAPTION]
    return torch.tensor(numbers + [0] * (LONGEST_CAPTION - len(numbers)))


def attribute_rows(units: Sequence[Mapping[str, float]], names: Sequence[str]) -> Tensor:
    """(N, A) attributes in [0, 1] by name; `FREE` where a shape lacks one."""
    return torch.tensor([[float(values.get(name, FREE)) for name in names] for values in units]).reshape(
        len(units), len(names)
    )


def kind_index(kind: Any, kinds: Sequence[str]) -> int:
    """Number of a kind that is given by name or number.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(kind, int) and not isinstance(kind, bool) and 0 <= kind < len(kinds):
        return kind
    if str(kind) in kinds:
        return list(kinds).index(str(kind))
    raise ConfigError(f"cond.kind={kind} is unknown; allowed: {', '.join(kinds)}, or 0 to {len(kinds) - 1}")
