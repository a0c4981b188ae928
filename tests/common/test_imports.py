"""What both packages share can be imported without loading torch and patching RecBole; recbole_mambarec does both."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import recbole_mambarec.errors
import recbole_mambarec_common
import recbole_mambarec_common.errors

ROOT = Path(__file__).resolve().parents[2]
MODULES = [
    f"recbole_mambarec_common.{module.name}" for module in pkgutil.iter_modules(recbole_mambarec_common.__path__)
]


# masks are arrays; the command, which answers at once, does not import it
NEED_NUMPY = {"recbole_mambarec_common.masks"}


def test_shared_modules_have_no_side_effects():
    assert "recbole_mambarec_common.errors" in MODULES
    code = f"""
import importlib, sys
for name in {[name for name in MODULES if name not in NEED_NUMPY]!r}:
    importlib.import_module(name)
loaded = {{"torch", "recbole", "numpy", "pandas", "recbole_mambarec"}} & set(sys.modules)
assert not loaded, loaded
for name in {sorted(NEED_NUMPY)!r}:
    importlib.import_module(name)
loaded = {{"torch", "recbole", "pandas", "recbole_mambarec"}} & set(sys.modules)
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_one_import_still_makes_recbole_work():
    code = """
import recbole_mambarec.errors
from recbole.utils import get_model
print(get_model("MambaRec").__module__)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "recbole_mambarec.models.mambarec", done.stderr


def test_errors_have_one_class_under_two_names():
    for name in recbole_mambarec.errors.__all__:
        assert getattr(recbole_mambarec.errors, name) is getattr(recbole_mambarec_common.errors, name)
