"""Samplers as they are written on the command line of `evaluate`."""

from __future__ import annotations

import pytest

from rectiflow.drawing import tolerances
from rectiflow.errors import ConfigError
from rectiflow.verbs.evaluate import Sampler, parse_sampler


@pytest.mark.parametrize(
    ("text", "sampler", "given"),
    [
        ("euler-10", Sampler("euler", 10), {}),
        ("dpm++2m-4", Sampler("dpm++2m", 4), {}),
        ("dopri5", Sampler("dopri5", 0), {"max_nfe": 70}),
        ("dopri5-0.001", Sampler("dopri5", 0, 1e-3), {"rtol": 1e-3, "atol": 1e-3, "max_nfe": 70}),
    ],
)
def test_samplers_are_read_and_written_alike(text: str, sampler: Sampler, given: dict[str, float]) -> None:
    assert parse_sampler(text) == sampler
    assert str(sampler) == text
    assert sampler.tolerances(70) == given
    assert "max_nfe" not in sampler.tolerances(None)
    assert parse_sampler("dopri5-1e-3") == Sampler("dopri5", 0, 1e-3)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("euler", "'euler' is not of the form method-steps"),
        ("euler-0", "at least one step"),
        ("eulr-3", "did you mean 'euler'"),
        ("dopri5-20", "'dopri5-20' chooses its own steps; .* between 0 and 1, for example dopri5-1e-3"),
        ("dopri5-0", "between 0 and 1"),
        ("dopri5-tight", "between 0 and 1"),
        ("dopri5-nan", "between 0 and 1"),
    ],
)
def test_other_texts_are_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_sampler(text)


def test_only_tolerances_that_are_given_count() -> None:
    assert tolerances({"method": "dopri5", "rtol": None, "atol": 1e-4}) == {"atol": 1e-4}
