"""Configurations: typed, explained when wrong, and turned into objects from the allow-list only."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from omegaconf import OmegaConf

from rectiflow.config import as_typed, check_complete, check_overrides, compose_training, compose_verb
from rectiflow.domain import load_spec
from rectiflow.errors import ConfigError
from rectiflow.instantiation import instantiate
from rectiflow.interpolants import Trigonometric
from rectiflow.settings import ReflowVerbSettings, SampleSettings
from rectiflow.times import UShaped
from rectiflow_images.settings import FolderSettings, MnistSettings

SPEC = load_spec("images")


def test_recipe_then_overrides() -> None:
    config = compose_training(SPEC, ["model.width=16", "training.steps=7", "times=mode", "times.scale=0.5"])
    assert (config.model.width, config.training.steps, config.times.scale) == (16, 7, 0.5)
    assert config.data._target_ == "rectiflow_images.data.digits"
    assert config.reflow.training.steps != 7


def test_each_compose_starts_afresh() -> None:
    compose_training(SPEC, ["training.steps=7"])
    assert compose_training(SPEC, []).training.steps != 7


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("trainig.steps=4", "did you mean training.steps"),
        ("model.widht=4", "did you mean model.width"),
        ("steps=4", "training.steps"),
        ("model=resnet", "allowed: unet, unet_patch, transformer"),
        ("recipe=nothing", "digits"),
        ("training.steps=many", "could not be converted to Integer"),
        ("training.betas=0.9", "betas"),
    ],
)
def test_wrong_setting_is_one_line_with_a_way_out(override: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_training(SPEC, [override])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["steps", "--steps", "steps=1,2", "steps=[1", "a.b=range(1,3)"])
def test_arguments_that_are_no_single_setting(text: str) -> None:
    with pytest.raises(ConfigError, match="argument"):
        check_overrides([text])


def test_verb_takes_the_runs_values_then_its_own() -> None:
    config = compose_verb(
        ReflowVerbSettings, {"pairs": 5, "steps": 3}, ["steps=4", "run=here", "times=u_shaped", "times.sharpness=2"]
    )
    assert (config.pairs, config.steps, config.times.sharpness) == (5, 4, 2)
    with pytest.raises(ConfigError, match="run is not given"):
        check_complete(compose_verb(SampleSettings, {}, []))
    with pytest.raises(ConfigError, match="allowed: uniform"):
        compose_verb(ReflowVerbSettings, {}, ["run=here", "times=gauss"])


@dataclass
class _WordsSettings:
    file: str = ""
    query: list[str] = field(default_factory=list)
    steps: int = 4


@pytest.mark.parametrize(
    "text", ["a dog, it's barking", "${x} {y: 1}", "C:\\d\\'x\\", "null", "3", "a=b", "", "[1", "rain (hard)"]
)
def test_text_stands_as_it_was_typed(text: str) -> None:
    overrides = as_typed(_WordsSettings, [f"file={text}", f"query=x{text}", "steps=3", f"query={text}"])
    check_overrides(overrides)
    config = compose_verb(_WordsSettings, {}, overrides)
    assert (config.file, list(config.query), config.steps) == (text, [f"x{text}", text], 3)


def test_a_quoted_value_or_a_written_list_is_left_to_hydra() -> None:
    arguments = ["query=[rain,'a dog']", "file='a b'"]
    config = compose_verb(_WordsSettings, {}, as_typed(_WordsSettings, arguments))
    assert (config.file, config.query) == ("a b", ["rain", "a dog"])


def test_one_setting_may_stand_without_its_key() -> None:
    assert (
        compose_verb(_WordsSettings, {}, as_typed(_WordsSettings, ["my mix.wav", "steps=2"], "file")).file
        == "my mix.wav"
    )
    for arguments in (["a.wav", "b.wav"], ["--steps"]):
        with pytest.raises(ConfigError, match="not a setting"):
            check_overrides(as_typed(_WordsSettings, arguments, "file"))


def test_instantiate_builds_what_is_allowed() -> None:
    assert instantiate({"_target_": "rectiflow.interpolants.Trigonometric"}, []) == Trigonometric()
    assert instantiate(OmegaConf.create({"_target_": "rectiflow.times.UShaped", "sharpness": 2.0}), []) == UShaped(2.0)


@pytest.mark.parametrize(
    "target", ["torch.hub.load", "builtins.open", "os.system", "pickle.loads", "rectiflowevil.thing", "torch.load"]
)
def test_instantiate_refuses_other_targets(target: str) -> None:
    with pytest.raises(ConfigError, match="not allowed"):
        instantiate({"_target_": target, "path": "x"}, [])
    with pytest.raises(ConfigError, match="not allowed"):
        instantiate({"_target_": "rectiflow.times.UShaped", "sharpness": [{"_target_": target}]}, [])


def test_instantiate_explains_wrong_settings() -> None:
    with pytest.raises(ConfigError, match="does not take these settings"):
        instantiate({"_target_": "rectiflow.times.UShaped", "width": 2}, [])
    with pytest.raises(ConfigError, match="does not exist"):
        instantiate({"_target_": "rectiflow.times.Nothing"}, [])
    with pytest.raises(ConfigError, match="must be a class or a function"):
        instantiate({"_target_": "rectiflow.settings.CORE_GROUPS"}, [])


def test_a_group_that_the_core_does_not_know_becomes_a_section() -> None:
    spec = replace(SPEC, groups={**SPEC.groups, "flavour": {"plain": MnistSettings, "mixed": FolderSettings}})
    config = compose_training(spec, ["+flavour=mixed", "flavour.path=here"])
    assert (config.flavour.path, config.data._target_) == ("here", "rectiflow_images.data.digits")
    with pytest.raises(ConfigError, match="flavour"):
        check_complete(compose_training(spec, []))
