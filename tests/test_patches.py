"""The list of patches is exactly what changes in RecBole."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import recbole_mambarec
from recbole_mambarec import patches
from recbole_mambarec.compat.patching import Overlay, is_wrapped, overlay, recorded_targets, wrap

ROOT = Path(recbole_mambarec.__file__).parents[1]


def of_this_package() -> list[str]:
    """What has been replaced, except by the tests of this file."""
    return [target for target in recorded_targets() if not target.startswith(__name__)]


def test_every_recorded_replacement_is_listed_and_the_other_way_round():
    listed = {target for patch in patches.PATCHES for target in patch.targets}
    always = {target for patch in patches.PATCHES if not patch.condition for target in patch.targets}
    recorded = set(of_this_package())
    assert recorded <= listed
    assert always <= recorded


# collects every attribute of RecBole's modules and classes, imports this package, and prints those that differ
CHANGES = """
import importlib, json, pkgutil, sys, types

sys.modules["ray"] = types.ModuleType("ray")
sys.modules["ray"].tune = types.ModuleType("ray.tune")
import recbole

for module in pkgutil.walk_packages(recbole.__path__, "recbole."):
    try:
        importlib.import_module(module.name)
    except Exception:  # what it needs is not installed
        pass


def attributes():
    found = {}
    for name, module in list(sys.modules.items()):
        if not (name == "recbole" or name.startswith("recbole.")):
            continue
        for key, value in list(vars(module).items()):
            found[f"{name}.{key}"] = value
            if isinstance(value, type) and value.__module__ == name:
                found.update({f"{name}.{value.__qualname__}.{k}": v for k, v in vars(value).items()})
    return {path: (value, list(value) if type(value) is list else None) for path, value in found.items()}


before = attributes()
import recbole_mambarec

after = attributes()
nothing = object()
changed = [
    path
    for path in {*before, *after}
    if before.get(path, (nothing,))[0] is not after.get(path, (nothing,))[0]
    or before.get(path, (0, 0))[1] != after.get(path, (0, 0))[1]
]
print(json.dumps(sorted(changed)))
"""
# what Python itself keeps in a class or a module
KEPT_BY_PYTHON = ("__pycache__", "__warningregistry__", "__abstractmethods__", "__annotations__", "__dict__")


def changed_attributes() -> set[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", CHANGES], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return {path for path in json.loads(done.stdout.splitlines()[-1]) if not path.endswith(KEPT_BY_PYTHON)}


def test_nothing_else_in_recbole_changes():
    listed = [target for patch in patches.PATCHES for target in patch.targets if target.startswith("recbole.")]
    always = [target for patch in patches.PATCHES if not patch.condition for target in patch.targets]
    changed = changed_attributes()
    # the target recbole.a.torch.load shows as a change of recbole.a.torch
    unlisted = [path for path in changed if not any(f"{target}.".startswith(f"{path}.") for target in listed)]
    # other modules have imported the list that is extended
    assert [path for path in unlisted if not path.endswith(".dataset_arguments")] == []
    unchanged = [
        target
        for target in always
        if target.startswith("recbole.") and not any(f"{target}.".startswith(f"{path}.") for path in changed)
    ]
    assert unchanged == []


@pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="the documentation is part of the repository only")
def test_the_page_is_the_list():
    spec = importlib.util.spec_from_file_location("patches_page", ROOT / "tools" / "patches_page.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.PAGE.read_text(encoding="utf-8") == tool.page(), "run python -m tools.patches_page"


def test_applying_all_again_changes_nothing():
    def state():
        return {target: _found(target) for target in of_this_package()}

    before = state()
    patches.apply()
    after = state()
    assert before.keys() == after.keys()
    assert [target for target in before if before[target] is not after[target]] == []


def _found(target: str) -> object:
    """The value of a qualified name."""
    names = target.split(".")
    for split in range(len(names), 0, -1):
        module = sys.modules.get(".".join(names[:split]))
        if module is not None:
            value: object = module
            for name in names[split:]:
                value = getattr(value, name)
            return value
    raise AssertionError(target)


# ------------------------------------------------------------------------------------------------------------
# patching


class Greeter:
    def greet(self, name: str) -> str:
        """Greets."""
        return f"hello {name}"


def test_a_method_is_wrapped_once(monkeypatch):
    def loudly(original, self, name):
        return original(self, name).upper()

    def twice(original, self, name):
        return f"{original(self, name)} {original(self, name)}"

    monkeypatch.setattr(Greeter, "greet", Greeter.greet)
    for wrapper in (loudly, twice, loudly, twice):
        wrap(Greeter, "greet", wrapper)
    assert Greeter().greet("you") == "HELLO YOU HELLO YOU"
    assert Greeter.greet.__doc__ == "Greets."
    assert is_wrapped(Greeter.greet, loudly) and is_wrapped(Greeter.greet, twice)
    assert f"{__name__}.Greeter.greet" in recorded_targets()


def test_wrappers_of_the_same_name_do_not_shadow_each_other(monkeypatch):
    def wrapper(original, self, name):
        return original(self, name) + "!"

    first = wrapper

    class Inner:
        def wrapper(original, self, name):
            return original(self, name) + "?"

    monkeypatch.setattr(Greeter, "greet", Greeter.greet)
    wrap(Greeter, "greet", first)
    wrap(Greeter, "greet", Inner.wrapper)
    assert Greeter().greet("you") == "hello you!?"


def test_an_overlay_is_seen_by_its_owner_only(monkeypatch):
    owner = sys.modules[__name__]
    monkeypatch.setattr(owner, "json", json)
    overlay(owner, "json", loads=lambda text: "read", decoder=Overlay(json.decoder, JSONDecoder="decoder"))
    overlay(owner, "json", dumps=lambda value: "written")
    assert owner.json.loads("1") == "read" and owner.json.dumps(1) == "written"
    assert owner.json.decoder.JSONDecoder == "decoder"
    assert owner.json.decoder.scanner is importlib.import_module("json.scanner")
    assert importlib.import_module("json").loads("1") == 1
    assert "loads" in dir(owner.json) and "JSONEncoder" in dir(owner.json)
    recorded = recorded_targets()
    assert {f"{__name__}.json.loads", f"{__name__}.json.dumps", f"{__name__}.json.decoder.JSONDecoder"} <= {*recorded}
