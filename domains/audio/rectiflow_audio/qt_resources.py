"""Files out of Qt's compiled resource containers (.rcc), in which some packages keep their sounds."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from rectiflow.errors import DataError

_ZLIB, _FOLDER, _ZSTD = 1, 2, 4


def resources(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of each file in a container; files compressed with Zstandard are left out.

    The format: a header of "qres" and big-endian version and offsets of the tree, the data and the names; nodes of 22 bytes
    (14 in version 1) that name either the first child and the number of children, or where the data begin.

    Raises:
        DataError: it is no such container, or a damaged one.
    """
    try:
        magic, version, tree, data, names = struct.unpack_from(">4s4I", content)
        if magic != b"qres":
            raise DataError(f"a resource container starts with {magic!r}; it must start with b'qres': check the file")
        yield from _walk(content, tree, data, names, 14 if version == 1 else 22, 0, "")
    except (struct.error, zlib.error, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"a resource container is damaged: {error}; fetch its package again") from error


def _walk(
    content: bytes, tree: int, data: int, names: int, size: int, number: int, parent: str
) -> Iterator[tuple[str, bytes]]:
    node = tree + number * size
    name, flags = struct.unpack_from(">IH", content, node)
    path = parent
    if number:  # the root has no name
        (length,) = struct.unpack_from(">H", content, names + name)
        text = content[names + name + 6 : names + name + 6 + 2 * length].decode("utf-16-be")
        path = f"{parent}/{text}" if parent else text
    if flags & _FOLDER:
        count, first = struct.unpack_from(">II", content, node + 6)
        for child in range(first, first + count):
            yield from _walk(content, tree, data, names, size, child, path)
    elif not flags & _ZSTD:
        (offset,) = struct.unpack_from(">I", content, node + 10)
        (length,) = struct.unpack_from(">I", content, data + offset)
        body = content[data + offset + 4 : data + offset + 4 + length]
        # zlib-compressed data begin with their plain length.
        yield path, zlib.decompress(body[4:]) if flags & _ZLIB else body
