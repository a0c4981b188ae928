"""Random configurations end in a result or in one sentence; the benchmark of the same name tries thousands."""

import logging
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from benchmarks.fuzz_config import MODELS, PREPARED, Draw, draws, outcome, write_data

OURS = tuple(model for model, (data, _) in MODELS.items() if data == PREPARED)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    write_data(folder)
    return folder


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("model", MODELS)
def test_each_model_runs_as_it_is(data, model):
    assert outcome(Draw(model, ()), data).kind == "finished"


@pytest.mark.parametrize(("models", "count"), [(OURS, 60), (tuple(m for m in MODELS if m not in OURS), 60)])
def test_random_configurations(data, models, count):
    ends = []

    @settings(max_examples=count, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
    @given(draws(models))
    def check(draw):
        end = outcome(draw, data)
        ends.append(end.kind)
        assert not end.is_finding, f"{draw}: {end.kind}: {end.said}"

    check()
    # neither everything refused nor everything let through
    assert min(ends.count("finished"), ends.count("refused")) > count // 20


def test_a_finding_is_one(data, monkeypatch):
    from recbole.model.general_recommender import BPR

    monkeypatch.setattr(BPR, "calculate_loss", lambda self, interaction: 1 // 0)
    end = outcome(Draw("BPR", (("seed", 1),)), data)
    assert end.is_finding and end.kind.startswith("ZeroDivisionError in")
