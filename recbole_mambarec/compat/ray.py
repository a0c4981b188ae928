"""ray, any version: RecBole imports it at once, and reports to it as versions before 2.7 expected."""

from __future__ import annotations

import importlib
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

from recbole_mambarec.compat.patching import replace, wrap


def at_import() -> None:
    """Import ``recbole.quick_start`` without ray, which it only uses to report inside a ray trial.

    The module starts with ``from ray import tune``. Where ray is missing or broken, nothing of RecBole's quick start
    can be used; where it works, importing it takes seconds. While the module is imported, ``ray`` is a stand-in, and
    ``tune.report`` passes metrics on to the real ray if that runs a trial (:class:`RayTune`).

    https://github.com/RUCAIBox/RecBole/issues/1518, https://github.com/RUCAIBox/RecBole/issues/1820
    """
    name = "recbole.quick_start.quick_start"
    if name not in sys.modules:
        # everything else that quick_start imports comes first, so that the stand-in is there only briefly
        for needed in ("recbole.config", "recbole.data", "recbole.data.transform", "recbole.utils"):
            importlib.import_module(needed)
        stand_in = types.ModuleType("ray")
        vars(stand_in)["tune"] = RayTune
        missing: Any = object()
        real = sys.modules.get("ray", missing)
        sys.modules["ray"] = stand_in
        try:
            importlib.import_module(name)
        finally:
            if real is missing:
                del sys.modules["ray"]
            else:
                sys.modules["ray"] = real
    replace(sys.modules[name], "tune", RayTune)


class RayTune:
    """The part of ``ray.tune`` that RecBole uses; does nothing unless this process runs a trial of ray's."""

    @staticmethod
    def report(**metrics: float | str) -> None:
        """Report ``metrics`` to the ray trial that this process runs, if any.

        RecBole passes keywords, as ray expected before 2.7.
        """
        tune = sys.modules.get("ray.tune")
        if tune is None:
            return
        if not hasattr(tune, "get_context"):
            warnings.warn("ray is older than 2.45: nothing is reported to it", stacklevel=2)
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # ray's own, where no trial is running
            trial_id = tune.get_context().get_trial_id()
        if trial_id is not None:
            tune.report(metrics)


def worker_arguments() -> None:
    """Let a ``Config`` be built in a ray worker, whose command line consists of ray's own arguments.

    ``Config`` takes every ``--key=value`` on the command line for a setting, and would find unknown keys such as
    ``--worker-id=...`` there.

    No upstream issue known.
    """
    config = importlib.import_module("recbole.config.configurator").Config
    wrap(config, "_load_cmd_line", _ignore_the_command_line_of_ray)


def _ignore_the_command_line_of_ray(original: Callable, self) -> dict:
    program = sys.argv[0].replace("\\", "/")
    return {} if program.endswith("ray/_private/workers/default_worker.py") else original(self)
