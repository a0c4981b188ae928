"""A small bundle and a server of it, once for all tests that only ask."""

from __future__ import annotations

import importlib.util

import pytest

_ABSENT = [
    name
    for name in ("fastapi", "uvicorn", "prometheus_client", "safetensors", "pyarrow")
    if importlib.util.find_spec(name) is None
]
# what the extra [serve] brings
collect_ignore_glob = ["test_*.py"] if _ABSENT else []


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """The folder of a bundle."""
    from tests.server.bundles import write

    return write(tmp_path_factory.mktemp("bundle") / "bundle")


@pytest.fixture(scope="session")
def server(bundle):
    """A server of the bundle, without a token."""
    from recbole_mambarec_serving.server.options import Options
    from tests.server.running import running

    with running(bundle, Options(max_k=30, max_batch=20, max_body=2000)) as started:
        yield started
