"""Every option is checked, by name, without torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from omegaconf import OmegaConf

from rectiflow.errors import ConfigError
from rectiflow.training.options import TrainingOptions

BAD: list[tuple[str, Any]] = [
    ("steps", -1), ("steps", 0), ("batch", 0), ("accumulate", 0), ("learning_rate", 0.0), ("learning_rate", float("nan")),
    ("betas", [0.9]), ("betas", [0.9, 1.0]), ("weight_decay", -0.1), ("warmup", -1), ("schedule", "linear"),
    ("final_fraction", 1.5), ("clip", -1.0), ("clip", float("inf")), ("ema", 1.0), ("ema", -0.1), ("precision", "16-mixed"),
    ("accelerator", "tpu"), ("devices", 0), ("nodes", 0), ("strategy", "fsdp"), ("seed", -1), ("nonfinite", "ignore"),
    ("max_skips", 0), ("checkpoint_every", 0), ("keep", 0), ("log_every", 0), ("preview_every", -1), ("workers", -1),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_value_out_of_range_is_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"training\.{name}=.*must be"):
        TrainingOptions(**{name: value}).validate()


def test_defaults_pass_also_as_a_structured_config() -> None:
    TrainingOptions().validate()
    config = OmegaConf.merge(OmegaConf.structured(TrainingOptions), {"steps": 7, "betas": [0.5, 0.6]})
    options = OmegaConf.to_object(config)
    assert isinstance(options, TrainingOptions)
    options.validate()
    assert (options.steps, options.betas) == (7, [0.5, 0.6])


def test_options_need_no_torch() -> None:
    code = "import sys, rectiflow.training.options; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
