"""The grammar of synthetic folds: which residues are helix, strand, turn or coil, and which strands pair.

A fold is blocks joined by coils. A block is a helix, or a meander: two to four antiparallel strands joined by two-residue turns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from rectiflow.errors import ConfigError

KINDS = ("helical", "meander", "mixed")
SHORTEST, LONGEST = 24, 128
COIL, HELIX, STRAND, TURN = "C", "H", "E", "T"


@dataclass(frozen=True)
class Meander:
    """`count` antiparallel strands of `size` residues (even when some are in the middle), from `start` on; turns of two."""

    count: int
    size: int
    start: int = 0

    @property
    def letters(self) -> str:
        """One letter a residue."""
        return (TURN * 2).join([STRAND * self.size] * self.count)

    def pairs(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Residues (i, j), i < j, that face each other: those with two hydrogen bonds between them, and those with none.

        The two alternate from the turn on; as the size is even, a strand in the middle bonds to both neighbours in turn.
        """
        bonded: list[tuple[int, int]] = []
        facing: list[tuple[int, int]] = []
        for strand in range(1, self.count):
            turn = self.start + strand * (self.size + 2) - 2
            for step in range(self.size):
                (bonded if step % 2 == 0 else facing).append((turn - 1 - step, turn + 2 + step))
        return bonded, facing


# Two strands may be odd; five residues are the fewest that P-SEA sees as a strand.
MEANDERS = (
    *(Meander(2, size) for size in (5, 6, 7, 8)),
    *(Meander(count, size) for count in (3, 4) for size in (6, 8)),
)
LONGEST_END = 4


@dataclass(frozen=True)
class Topology:
    """A fold before it has coordinates: one of the letters C, H, E, T a residue, and where its meanders are."""

    letters: str
    meanders: tuple[Meander, ...] = ()


def draw_topology(length: int, kind: str, generator: torch.Generator) -> Topology:
    """A random fold of `length` residues, 24 to 128, of one of the three kinds.

    Raises:
        ConfigError: another length or kind.
    """
    if not SHORTEST <= length <= LONGEST or kind not in KINDS:
        raise ConfigError(
            f"a fold of {length} residues of kind {kind!r} was asked for; lengths are {SHORTEST} to {LONGEST} and kinds "
            f"{', '.join(KINDS)}: change data.shortest and data.longest"
        )
    while True:
        topology = _draw(length, kind, generator)
        if not topology.letters.endswith(COIL * (LONGEST_END + 1)):
            return topology


def _draw(length: int, kind: str, generator: torch.Generator) -> Topology:
    letters = COIL * _between(0, 2, generator)
    meanders: list[Meander] = []
    # A mixed fold alternates, so that one with two blocks has both.
    helix = kind == "helical" or (kind == "mixed" and _between(0, 1, generator) == 0)
    while True:
        room = length - len(letters)
        if helix:
            block = _helix(room, generator)
        else:
            drawn = _meander(room, kind == "mixed" and room < 40, len(letters), generator)
            meanders += drawn
            block = "".join(meander.letters for meander in drawn)
        letters += block
        if not block or length - len(letters) < 10:
            break
        letters += COIL * _between(2, 5, generator)
        helix = helix if kind != "mixed" else not helix
    return Topology(letters + COIL * (length - len(letters)), tuple(meanders))


def _helix(room: int, generator: torch.Generator) -> str:
    """One helix, long enough that what is left is a loop and another block, or an end."""
    if room < 7:
        return ""
    if room <= 19:
        return HELIX * (room - _between(0, min(3, room - 7), generator))
    longest = min(20, room - 10)
    return HELIX * _between(min(9, longest), longest, generator)


def _meander(room: int, sharing: bool, start: int, generator: torch.Generator) -> list[Meander]:
    """One meander, or none where there is no room; when `sharing`, one that leaves room for a helix."""
    most = max(12, room - 10) if sharing else room
    fitting = [meander for meander in MEANDERS if len(meander.letters) <= min(room, most)]
    return [replace(fitting[_between(0, len(fitting) - 1, generator)], start=start)] if fitting else []


def _between(low: int, high: int, generator: torch.Generator) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))
