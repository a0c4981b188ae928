"""The collector of ranked lists gives the same as RecBole's own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.evaluator import Collector, Evaluator

from recbole_mambarec.ranking import HitCollector
from recbole_mambarec.testing.data import PlainConfig


def collector_config(*metrics, topk=(2, 5)):
    return PlainConfig(
        metrics=list(metrics),
        topk=list(topk),
        eval_args={"mode": {"valid": "full", "test": "full"}},
        device=torch.device("cpu"),
        metric_decimal_place=4,
        LABEL_FIELD="label",
    )


def blocks(seed, n_blocks=3, users=4, items=9):
    """Scores and positive items, including users without positive items and repeated pairs."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n_blocks):
        scores = torch.randn(users, items, generator=generator)
        scores[:, 0] = -torch.inf
        count = int(torch.randint(1, 12, (), generator=generator))
        rows = torch.randint(0, users, (count,), generator=generator).sort().values
        yield scores, rows, torch.randint(1, items, (count,), generator=generator)


def collected(collector, seed):
    for scores, rows, wanted in blocks(seed):
        collector.eval_batch_collect(scores, None, rows, wanted)
    return collector.get_data_struct()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_hits_and_counts_equal_recboles(seed):
    config = collector_config("Recall", "NDCG", "Hit", "MRR", "MAP", "Precision")
    ours, theirs = HitCollector(config), Collector(config)
    for _ in range(2):  # the second evaluation starts from nothing
        mine, expected = collected(ours, seed), collected(theirs, seed)
        assert torch.equal(mine["rec.topk"], expected["rec.topk"].long())
    if (expected["rec.topk"][:, -1] > 0).all():
        assert Evaluator(config).evaluate(mine) == Evaluator(config).evaluate(expected)


@pytest.mark.parametrize("metric", ["ItemCoverage", "GAUC"])
def test_metrics_that_need_more_are_left_to_recbole(metric):
    config = collector_config("Recall", metric)
    mine, expected = collected(HitCollector(config), 1), collected(Collector(config), 1)
    for name in ("rec.topk", "rec.items", "rec.meanrank"):
        assert (name in mine) == (name in expected)
        if name in mine:
            assert torch.equal(mine[name], expected[name])
