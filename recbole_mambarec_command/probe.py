"""Imports packages one after another and reports the results: the child process of ``recbole-mambarec doctor``.

A package may hang, or end the process, when it is imported. The parent then knows which one it was, and starts another
process for the remaining ones. Each answer is a line that starts with :data:`MARK`; packages may print other lines.
"""

from __future__ import annotations

import importlib.util
import json
import warnings

from recbole_mambarec_command import requirements

MARK = "\x1erecbole-mambarec "
#: stands for importing this package, which patches RecBole
START = "recbole_mambarec"


def main(names: list[str]) -> None:
    """Import packages in this order."""
    for name in names:
        _say({"begin": name})
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                found = _PROBES.get(name, _plain)(name)
            found["warnings"] = [" ".join(str(warning.message).split()) for warning in caught]
        except Exception as error:
            found = {"error": requirements.reason(error), "sentence": _sentence(error)}
            found["culprit"] = requirements.broken_package(error)
        except SystemExit as error:
            found = {"error": f"it ends the process with {error.code!r} when it is imported"}
        _say({"end": name, **found})


def _say(message: dict) -> None:
    print(f"\n{MARK}{json.dumps(message)}", flush=True)


def _sentence(error: Exception) -> str | None:
    return str(error) if isinstance(error, requirements.ReportedError) else None


def _plain(name: str) -> dict:
    version = getattr(importlib.import_module(name), "__version__", None)
    return {"version": version if isinstance(version, str) else None}


def _torch(name: str) -> dict:
    import torch

    found = {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "hip": getattr(torch.version, "hip", None),
        "sees": torch.cuda.is_available(),
        "devices": [],
    }
    mps = getattr(torch.backends, "mps", None)
    found["mps"] = bool(mps and mps.is_available())
    torch.ones(2).sum()  # fails where numpy or a library of the processor does not fit
    if found["sees"]:
        found["devices"] = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
        try:
            # a build without code for this GPU sees it, and fails at the first operation
            float(torch.ones(2, device="cuda").sum())
        except Exception as error:
            found["cuda_error"] = requirements.reason(error)
    return found


def _recbole(name: str) -> dict:
    """Not imported, because it would fail before it is patched: its metadata have the version."""
    spec = importlib.util.find_spec("recbole")
    return {"version": requirements.version_of("recbole"), "where": next(iter(spec.submodule_search_locations), None)}


def _start(name: str) -> dict:
    """Import this package: RecBole's quick start is patched, and all models can be loaded."""
    import recbole_mambarec

    recbole_mambarec.start()
    from recbole.quick_start import quick_start
    from recbole.utils import get_model

    from recbole_mambarec import memory, registry
    from recbole_mambarec.compat.ray import RayTune
    from recbole_mambarec.data.cache import default_cache_folder

    if quick_start.tune is not RayTune:
        raise RuntimeError("recbole.quick_start is not patched: RecBole was imported in another way")
    for model in registry.built_in():
        get_model(model)
    outside = {}
    for model, package in registry.packages().items():
        try:
            get_model(model)
            outside[model] = {"package": package}
        except requirements.ReportedError as error:
            outside[model] = {"package": package, "error": str(error)}
    return {
        "models": len(registry.built_in()),
        "outside": outside,
        "of_recbole": len(registry.recbole_models()),
        "cache": str(default_cache_folder()),
        "free_gib": memory.free_gib(),
    }


_PROBES = {"torch": _torch, "recbole": _recbole, START: _start}
