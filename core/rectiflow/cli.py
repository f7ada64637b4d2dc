"""The command line: `rectiflow <verb> <domain> [key=value …]`. Help and configuration errors never import torch."""

from __future__ import annotations

import inspect
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import Field, dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from rectiflow.errors import ConfigError, RectiflowError

USAGE = """usage: rectiflow <verb> <domain> [key=value …]

  domains                      list the installed domains
  train    <domain> […]        train a flow                       -> runs/<domain>/<name>/
  reflow   <domain> run=… […]  rectify a run's flow               -> a new run
  distill  <domain> run=… […]  a few-step student, method=…       -> a new run
  sample   <domain> run=… […]  draw samples                       -> files a person opens
  evaluate <domain> run=… […]  figures per sampler                -> metrics.json, report.html
  demo     <domain> […]        all of it on embedded data, in minutes
  fetch    <domain> <data set> download a data set into the cache
  bench    <study> […]         domains, few-step, … side by side  -> tables, report.html
  doctor                       versions, devices, disk, what is missing

rectiflow <verb> <domain> --help   the settings of a verb
--cfg    print the configuration and stop        --debug    show tracebacks        --version
"""


@dataclass(frozen=True)
class Call:
    """A parsed command: verb, domain, overrides and flags."""

    verb: str
    domain: str
    overrides: list[str]
    flags: frozenset[str]


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code; mistakes of the user are one line on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `rectiflow … | head` ends quietly
    try:
        return dispatch([argument for argument in arguments if argument != "--debug"])
    except RectiflowError as error:
        if debug:
            raise
        print(f"rectiflow: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("rectiflow: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT


def dispatch(arguments: list[str]) -> int:
    """Do what the arguments say.

    Raises:
        RectiflowError: a mistake of the user, or a mishap that is reported in one line.
    """
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from rectiflow import __version__

        print(f"rectiflow {__version__}")
        return 0
    verb = arguments[0]
    if verb in GLOBAL_VERBS:
        if arguments[1:] and arguments[1] not in ("-h", "--help"):
            raise ConfigError(f"{verb} takes no arguments; got {arguments[1]!r}")
        return GLOBAL_VERBS[verb]()
    flags = frozenset(argument for argument in arguments[1:] if argument.startswith("--") or argument == "-h")
    rest = [argument for argument in arguments[1:] if argument not in flags]
    unknown = flags - {"-h", "--help", "--cfg"}
    if unknown:
        raise ConfigError(f"option {min(unknown)!r} is unknown; allowed: --help, --cfg, --debug")
    if not rest and verb in DOMAIN_VERBS:
        if flags & {"-h", "--help"}:
            print(USAGE, end="")
            return 0
        raise ConfigError(f"{verb} needs a domain; `rectiflow domains` lists them")
    return _domain_verb(Call(verb, rest[0] if rest else "", rest[1:], flags))


def _domain_verb(call: Call) -> int:
    from rectiflow.domain import load_spec

    if call.verb == "bench":
        return _bench(call)
    if call.domain and (call.verb in DOMAIN_VERBS or call.verb in _special_verbs()):
        spec = load_spec(call.domain)
        if call.verb in spec.verbs:
            return _own_verb(spec, call)
        if call.verb in DOMAIN_VERBS:
            return DOMAIN_VERBS[call.verb](spec, call)
    special = _special_verbs()
    allowed = list(dict.fromkeys([*GLOBAL_VERBS, *DOMAIN_VERBS, "bench", *special]))
    import difflib

    close = difflib.get_close_matches(call.verb, allowed, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    where = f" for {call.domain}" if call.verb in special else ""
    raise ConfigError(f"verb {call.verb!r} is unknown{where}; allowed: {', '.join(allowed)}{hint}")


def _own_verb(spec: Any, call: Call) -> int:
    """A verb that the domain brings."""
    from rectiflow.config import as_typed, check_overrides, compose_verb
    from rectiflow.domain import load_object

    verb = spec.verbs[call.verb]
    if isinstance(verb, str):
        return int(load_object(verb, extra=spec.name)(call.overrides) or 0)
    overrides = as_typed(verb.settings, call.overrides, verb.bare)
    check_overrides(overrides)
    section = _config_of_run(call).get(verb.section, {}) if verb.section else {}
    base = {field.name: section[field.name] for field in fields(verb.settings) if field.name in section}
    config = compose_verb(verb.settings, base, overrides)
    return _execute(call.verb, spec, config, call, verb.function)


def _bench(call: Call) -> int:
    """A study: of the core's, or of whichever installed domain has it."""
    from rectiflow.benchmarking.catalogue import STUDIES
    from rectiflow.benchmarking.settings import ReportSettings
    from rectiflow.config import check_overrides, compose_verb
    from rectiflow.domain import installed, load_object, load_spec
    from rectiflow.settings import BenchSettings

    if call.domain in STUDIES:
        return _core_bench(call, STUDIES[call.domain].settings, STUDIES[call.domain].run)
    if call.domain == "report":
        return _core_bench(call, ReportSettings, "rectiflow.benchmarking.reporting:run")
    studies = {study: spec for spec in map(load_spec, installed()) for study in spec.studies}
    if call.domain not in studies:
        allowed = ", ".join([*STUDIES, *sorted(studies), "report"])
        raise ConfigError(f"study {call.domain!r} is unknown; allowed: {allowed}")
    check_overrides(call.overrides)
    spec = studies[call.domain]
    config = compose_verb(BenchSettings, {}, call.overrides)
    if call.flags:
        return _execute("bench", spec, config, call)
    study = load_object(spec.studies[call.domain], extra=spec.name)
    import_module("rectiflow.verbs.bench").run(spec, study, config)
    return 0


def _core_bench(call: Call, settings: type, function: str) -> int:
    """A study of the core's, over all domains or none."""
    from omegaconf import OmegaConf

    from rectiflow.config import check_overrides, compose_verb
    from rectiflow.domain import load_object

    check_overrides(call.overrides)
    config = compose_verb(settings, {}, call.overrides)
    if call.flags & {"-h", "--help"}:
        print(f"rectiflow bench {call.domain} [key=value …]\n\n{inspect.cleandoc(settings.__doc__ or '')}\n")
        print("Settings and their present values, to be overridden as path.to.key=value:\n")
    if call.flags:
        print(OmegaConf.to_yaml(config), end="")
        return 0
    load_object(function, extra="bench")(config)
    return 0


def _special_verbs() -> list[str]:
    from rectiflow.domain import installed, load_spec

    return sorted({verb for name in installed() for verb in load_spec(name).verbs})


def _domains() -> int:
    from rectiflow.domain import installed, load_spec

    for name in installed():
        try:
            spec = load_spec(name)
        except RectiflowError as error:
            print(f"{name:12s} (not usable: {error})")
            continue
        print(f"{name:12s} {spec.summary}")
        if spec.datasets:
            print(f"{'':12s} data sets to fetch: {', '.join(spec.datasets)}")
        if spec.verbs:
            print(f"{'':12s} verbs of its own: {', '.join(spec.verbs)}")
    return 0


def _doctor() -> int:
    from rectiflow.verbs import doctor

    return 0 if doctor.run() else 1


def _train(spec: Any, call: Call) -> int:
    from rectiflow.config import check_overrides, compose_training

    check_overrides(call.overrides)
    config = compose_training(spec, call.overrides)
    return _execute("train", spec, config, call)


def _with_settings(settings: str, section: str = "") -> Callable[[Any, Call], int]:
    """A verb whose settings default to a section of the configuration of the run that it is given."""

    def verb(spec: Any, call: Call) -> int:
        import rectiflow.settings
        from rectiflow.config import check_overrides, compose_verb

        check_overrides(call.overrides)
        base = dict(_config_of_run(call).get(section, {})) if section else {}
        if spec.conditions is not None and call.verb == "sample":
            base = {**base, "cond": spec.conditions}
        config = compose_verb(getattr(rectiflow.settings, settings), base, call.overrides)
        return _execute(call.verb, spec, config, call)

    return verb


def _distill(spec: Any, call: Call) -> int:
    """A verb whose settings default to the network of the run that it is given, and to how that one would be rectified."""
    from rectiflow.config import check_overrides, compose_verb
    from rectiflow.rectify.settings import METHODS
    from rectiflow.settings import DistillSettings

    check_overrides(call.overrides)
    base, config = {}, _config_of_run(call)
    if config:
        reflow = config["reflow"]
        pairs = {
            name: reflow[name] for name in ("method", "steps", "guidance", "exponential", "seed") if name in reflow
        }
        model = {**_newer_settings(spec, config["model"], call.overrides), **config["model"]}
        base = {
            "model": {**model, **_slow_times(spec, model, call.overrides)},
            "training": reflow["training"],
            "pairs": {"count": reflow["pairs"], "batch": reflow["pair_batch"], **pairs},
            "guidance_range": config.get("distill", {}).get("guidance_range", []),
        }
    return _execute("distill", spec, compose_verb(DistillSettings, base, call.overrides, {"method": METHODS}), call)


def _newer_settings(spec: Any, model: Any, overrides: list[str]) -> dict[str, Any]:
    """Defaults of settings of a run's network that are to be changed and that did not exist when it was trained."""
    wanted = {text.partition("=")[0].removeprefix("model.") for text in overrides if text.startswith("model.")}
    return {
        setting.name: setting.default
        for setting in _settings_of(spec, model)
        if setting.name in wanted and setting.name not in model
    }


def _slow_times(spec: Any, model: Any, overrides: list[str]) -> dict[str, float]:
    """A time embedding that waves slowly, where the network has the choice and the method takes derivatives in time."""
    from rectiflow.rectify.settings import SLOW_TIMES, takes_derivatives

    named = [text.partition("=")[2] for text in overrides if text.startswith("method=")]
    choice = any(setting.name == "time_scale" for setting in _settings_of(spec, model))
    return {"time_scale": SLOW_TIMES} if choice and takes_derivatives(*named[-1:]) else {}


def _settings_of(spec: Any, model: Any) -> list[Field[Any]]:
    """What may be set of a run's network today."""
    options = [option for option in spec.groups["model"].values() if option._target_ == model["_target_"]]
    return [setting for option in options for setting in fields(option)]


def _config_of_run(call: Call) -> dict[str, Any]:
    """The configuration of the run that is given, {} when there is none."""
    from rectiflow.runs import read_config

    given = [text.partition("=")[2] for text in call.overrides if text.startswith("run=")]
    return dict(read_config(Path(given[-1].strip("'\"")))) if given else {}


def _execute(verb: str, spec: Any, config: Any, call: Call, function: str = "") -> int:
    """Do a verb, a function "module:name" of the domain or the core's own, or print its settings if that was asked for."""
    from omegaconf import OmegaConf

    from rectiflow.config import check_complete
    from rectiflow.domain import load_object

    if call.flags & {"-h", "--help"}:
        _print_help(verb, spec, config)
        return 0
    check_complete(config)
    if "--cfg" in call.flags:
        print(OmegaConf.to_yaml(config), end="")
        return 0
    run = load_object(function, extra=spec.name) if function else import_module(f"rectiflow.verbs.{verb}").run
    run(spec, config)
    return 0


def _print_help(verb: str, spec: Any, config: Any) -> None:
    from omegaconf import OmegaConf

    import rectiflow.settings as settings

    print(f"rectiflow {verb} {spec.name} [key=value …]\n")
    if verb == "train":
        recipes = sorted(path.stem for path in _recipe_folder(spec).glob("*.yaml"))
        print(
            f"recipe (data, model and numbers that fit together): {', '.join(recipes)}; default {spec.default_recipe}"
        )
        for group, options in {**spec.groups, **settings.CORE_GROUPS}.items():
            print(f"{group}: {', '.join(options)}")
    if verb == "distill":
        from rectiflow.rectify.settings import METHODS

        for name, method in METHODS.items():
            print(f"method={name:20s} {(method.__doc__ or '').splitlines()[0]}")
    print("\nSettings and their present values, to be overridden as path.to.key=value:\n")
    print(OmegaConf.to_yaml(config), end="")


def _recipe_folder(spec: Any) -> Path:
    from importlib.util import find_spec

    found = find_spec(spec.recipes)
    locations = list(found.submodule_search_locations or []) if found else []
    return Path(locations[0]) / "recipe" if locations else Path(os.devnull)


def _fetch(spec: Any, call: Call) -> int:
    from rectiflow.domain import load_object

    if call.flags or not call.overrides:
        for name, summary in spec.datasets.items():
            print(f"{name:16s} {summary}")
        return 0 if call.flags else 2
    for name in call.overrides:
        if name not in spec.datasets:
            raise ConfigError(
                f"data set {name!r} is unknown to {spec.name}; allowed: {', '.join(spec.datasets) or 'none'}"
            )
    for name in call.overrides:
        print(f"{name}: {load_object(spec.fetcher, extra=spec.name)(name)}")
    return 0


GLOBAL_VERBS: dict[str, Callable[[], int]] = {"domains": _domains, "doctor": _doctor}
DOMAIN_VERBS: dict[str, Callable[[Any, Call], int]] = {
    "train": _train,
    "reflow": _with_settings("ReflowVerbSettings", section="reflow"),
    "distill": _distill,
    "sample": _with_settings("SampleSettings", section="sampling"),
    "evaluate": _with_settings("EvaluateSettings", section="evaluation"),
    "demo": _with_settings("DemoSettings"),
    "fetch": _fetch,
}


if __name__ == "__main__":
    sys.exit(main())
