import os
import platform
import subprocess
import sys

import pytest

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")

FAULTS = """
import resource, torch
from recbole_mambarec.allocator import keep_freed_memory
{call}
def step():
    for _ in range(10):
        torch.zeros(2 ** 22)[::1024].sum()
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def python(code: str, **environment: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | environment).stdout


@glibc
def test_freed_tensors_are_reused_without_page_faults():
    # glibc's own settings, as numbers, so that the comparison holds whatever the environment says
    default = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    plain = int(python(FAULTS.format(call=""), **default))
    kept = int(python(FAULTS.format(call="assert keep_freed_memory()")))
    assert kept * 10 < plain


@glibc
def test_settings_of_the_user_are_left_alone():
    code = "from recbole_mambarec.allocator import keep_freed_memory; print(keep_freed_memory())"
    assert python(code, MALLOC_TOP_PAD_="65536").strip() == "False"
