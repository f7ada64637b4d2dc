"""Configurations, composed by hydra from typed settings. Free of torch."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from typing import Any, get_origin, get_type_hints

import hydra.errors
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from rectiflow.domain import DomainSpec
from rectiflow.errors import ConfigError
from rectiflow.settings import CORE_GROUPS, TrainSettings

CORE_PACKAGE = "rectiflow"


def compose_training(spec: DomainSpec, overrides: list[str]) -> DictConfig:
    """The configuration of `rectiflow train`: settings, then the recipe, then the overrides.

    Raises:
        ConfigError: an unknown key, group option or recipe, or a value of the wrong type.
    """
    store = ConfigStore.instance()
    for group, options in (*CORE_GROUPS.items(), *spec.groups.items()):
        for name, node in options.items():
            store.store(group=group, name=name, node=node)
    settings = _with_open_names(OmegaConf.structured(TrainSettings))
    with open_dict(settings):
        for group in spec.groups.keys() - settings.keys():
            settings[group] = MISSING
    store.store(name="settings", node=settings)
    store.store(
        name="train",
        node={"defaults": ["settings", {"recipe": spec.default_recipe}, "_self_"], "domain": spec.name},
    )
    return _compose(spec.recipes, "train", overrides, options={**CORE_GROUPS, **spec.groups})


def compose_verb(
    settings: type,
    base: Mapping[str, Any],
    overrides: list[str],
    groups: Mapping[str, Mapping[str, type]] = CORE_GROUPS,
) -> DictConfig:
    """The configuration of another verb: its settings, updated by `base` (what the run says), then the overrides.

    A setting that is one of the groups (`times=u_shaped`) may be given by option, with its values after it (`times.sharpness=3`),
    and so may one inside another that has the name of a core group (`method.times=u_shaped`).

    Raises:
        ConfigError: an unknown key or option, or a value of the wrong type.
    """
    choices = {key: value for key, _, value in (text.partition("=") for text in overrides) if key in groups}
    for group, option in choices.items():
        if option not in groups[group]:
            raise ConfigError(f"{group}={option} is unknown; allowed: {', '.join(groups[group])}")
    try:
        node: Any = OmegaConf.merge(
            OmegaConf.structured(settings), {key: value for key, value in base.items() if key not in choices}
        )
        for group, option in choices.items():
            node[group] = OmegaConf.structured(groups[group][option])
        for key, (group, option) in _inner_choices(overrides).items():
            choices[key] = option
            OmegaConf.update(node, key, OmegaConf.structured(CORE_GROUPS[group][option]), merge=False)
    except OmegaConfBaseException as error:
        raise ConfigError(_one_line(error)) from error
    ConfigStore.instance().store(name="verb", node=_with_open_names(node))
    return _compose(
        CORE_PACKAGE, "verb", [text for text in overrides if text.partition("=")[0] not in choices], options={}
    )


def _inner_choices(overrides: list[str]) -> dict[str, tuple[str, str]]:
    """Core groups that stand deeper than at the top: full key -> group and option."""
    found = {}
    for key, _, value in (text.partition("=") for text in overrides):
        parent, _, group = key.rpartition(".")
        if parent and group in CORE_GROUPS and value.isidentifier():
            if value not in CORE_GROUPS[group]:
                raise ConfigError(f"{key}={value} is unknown; allowed: {', '.join(CORE_GROUPS[group])}")
            found[key] = group, value
    return found


def _with_open_names(node: DictConfig) -> DictConfig:
    """The settings with those whose keys are names that only the domain knows (`dict[str, float]`) open to any key."""
    for key, hint in get_type_hints(OmegaConf.get_type(node)).items():
        if get_origin(hint) is dict:
            OmegaConf.set_struct(node[key], False)
        elif is_dataclass(hint):
            _with_open_names(node[key])
    return node


def _compose(module: str, name: str, overrides: list[str], options: Any) -> DictConfig:
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module(config_module=module, version_base="1.3"):
            config = compose(config_name=name, overrides=overrides)
    except (hydra.errors.HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(error, module, name, overrides, options)) from error
    return config


def check_complete(config: DictConfig) -> None:
    """Refuse a configuration in which a required value is still open.

    Raises:
        ConfigError: names the first such key.
    """
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ConfigError(f"{missing[0]} is not given; add {missing[0]}=… to the command")


def _explain(error: Exception, module: str, name: str, overrides: list[str], options: Any) -> str:
    """One line of what is wrong, with the nearest key or option that exists."""
    text = _one_line(error)
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown or "Key '" in text:
        key = unknown.group(1) if unknown else re.findall(r"Key '([^']+)'", text)[0]
        return f"key {key!r} is unknown{_nearest(key, _known_keys(module, name, overrides, key))}"
    group = re.search(r"Could not find '([^']+)/([^'/]+)'|In '[^']*': Could not load '([^']+)/([^'/]+)'", text)
    if group:
        parent, option = (part for part in group.groups() if part is not None)
        known = list(options.get(parent, {})) or re.findall(r"^\t(\w+)$", str(error), re.MULTILINE)
        return f"{parent}={option} is unknown; allowed: {', '.join(known)}"
    cause = _one_line(error.__cause__) if error.__cause__ is not None else ""
    return f"{text}: {cause}" if cause and cause not in text else text


def _known_keys(module: str, name: str, overrides: list[str], key: str) -> list[str]:
    good = [text for text in overrides if re.split(r"[=@]", text.lstrip("+~"))[0] != key]
    try:
        with initialize_config_module(config_module=module, version_base="1.3"):
            return list(_leaves(compose(config_name=name, overrides=good)))
    except (hydra.errors.HydraException, OmegaConfBaseException):
        return []


def _leaves(node: Any, prefix: str = "") -> Iterable[str]:
    for key in node:
        path = f"{prefix}{key}"
        yield path
        if not OmegaConf.is_missing(node, key) and isinstance(node[key], DictConfig):
            yield from _leaves(node[key], f"{path}.")


def _nearest(key: str, known: list[str]) -> str:
    """The keys that were probably meant: the same last name elsewhere, else the nearest spelling."""
    last = key.rsplit(".", 1)[-1]
    same_name = [path for path in known if path.rsplit(".", 1)[-1] == last]
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    names = {path.rsplit(".", 1)[-1]: path for path in known}
    spelled = [names[name] for name in difflib.get_close_matches(last, names, n=1)]
    suggestions = close or same_name[:3] or spelled
    return f"; did you mean {' or '.join(suggestions)}?" if suggestions else "; see --help for the keys"


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(
        line for line in lines if line and not line.startswith(("full_key:", "object_type=", "reference_type="))
    )


def as_typed(settings: type, arguments: list[str], bare: str = "") -> list[str]:
    """Arguments of a verb as overrides: text stands as it was typed, and repetition makes a list of texts.

    `bare` names the setting whose value may stand without its key, once: `mix.wav` for `mix=mix.wav`.
    """
    hints = get_type_hints(settings)
    lists: dict[str, list[str]] = {}
    overrides = []
    for text in arguments:
        key, equals, value = text.partition("=")
        if bare and not equals and not text.startswith("-"):
            key, value, bare = bare, text, ""
        quoted = value[:1] + value[-1:] in ("''", '""', "[]")
        if hints.get(key) == list[str] and not quoted:
            lists.setdefault(key, []).append(_quote(value))
        elif hints.get(key) is str and not quoted:
            overrides.append(f"{key}={_quote(value)}")
        else:
            overrides.append(text)
    return overrides + [f"{key}=[{','.join(values)}]" for key, values in lists.items()]


def _quote(text: str) -> str:
    """Text as a quoted value of hydra's, in which nothing has a meaning of its own."""
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text)
    return "'" + escaped.replace("${", "\\${") + "'"


def check_overrides(overrides: list[str]) -> None:
    """Refuse arguments that are not hydra overrides, and sweeps, before anything is composed.

    Raises:
        ConfigError: an argument does not parse, or asks for several values.
    """
    for text in overrides:
        if text.startswith("-") or "=" not in text:
            raise ConfigError(f"argument {text!r} is not a setting; write key=value, for example training.steps=500")
        try:
            parsed = OverridesParser.create().parse_override(text)
        except hydra.errors.HydraException as error:
            raise ConfigError(
                f"argument {text!r} does not parse: {_one_line(error)}; quote special characters"
            ) from error
        if parsed.is_sweep_override():
            raise ConfigError(f"argument {text!r} holds several values; give one (run the command once for each)")
