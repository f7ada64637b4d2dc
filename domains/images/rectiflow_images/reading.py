"""One image file to one tensor: what Pillow lets through silently is checked or scaled here."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from rectiflow.errors import ConfigError, DataError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
MOST_PIXELS = 1 << 26  # 8192 x 8192: 200 MB decoded
_DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


def read_image(path: Path, size: int, channels: int) -> Tensor:
    """Read one image as (channels, size, size) float32 in [-1, 1].

    The largest centred square is taken and resized (Lanczos). Transparent parts are laid on white before that, 16-bit
    grey is scaled by 65535, and the orientation in the Exif header is followed. channels: 1 (grey) or 3 (RGB).

    Raises:
        ConfigError: another number of channels, or a size below 1.
        DataError: the file is not an image of the formats PNG, JPEG, WebP or BMP, is truncated or damaged, or its
            header announces more than 2^26 pixels (seen before anything is decoded).
    """
    if channels not in (1, 3) or size < 1:
        raise ConfigError(
            f"images were asked for with {channels} channels at size {size}; "
            "channels must be 1 (grey) or 3 (RGB), size at least 1: set data.channels and data.size"
        )
    try:
        with warnings.catch_warnings():
            # Pillow only warns of a huge image; the check below refuses it.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(path, formats=FORMATS)
        with opened as image:
            if image.width * image.height > MOST_PIXELS:
                raise DataError(
                    f"{path} is {image.width} x {image.height}; at most {MOST_PIXELS} pixels are read: make it smaller"
                )
            flat = _flattened(ImageOps.exif_transpose(image), channels)
        return _resized(flat, size, channels)
    except _DECODING_ERRORS as error:
        raise DataError(
            f"{path} cannot be read: {error}; it must be a whole PNG, JPEG, WebP or BMP: "
            "replace or delete it, or set data.on_error=skip"
        ) from error


def _flattened(image: Image.Image, channels: int) -> Image.Image:
    """Return the image without transparency, in mode L or RGB (8 bits a channel) or F in [0, 255] (16-bit grey)."""
    mode = "L" if channels == 1 else "RGB"
    # Pillow opens 16-bit grey as one of these, and clips it at 255 when it is converted.
    if image.mode.startswith("I"):
        grey = np.asarray(image, dtype=np.float32) * (255 / 65535)
        key = image.info.get("transparency")
        if isinstance(key, int):
            grey[np.asarray(image) == key] = 255
        return Image.fromarray(grey)
    if image.has_transparency_data:
        drawn = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn).convert(mode)
    return image.convert(mode)


def _resized(image: Image.Image, size: int, channels: int) -> Tensor:
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    pixels = np.array(image.resize((size, size), Image.Resampling.LANCZOS, box=box), dtype=np.float32)
    tensor = torch.from_numpy(np.atleast_3d(pixels)).permute(2, 0, 1).expand(channels, size, size)
    # Lanczos overshoots where pixels are not bytes.
    return (tensor / 127.5 - 1).clamp(-1, 1).contiguous()
