"""Recommendations from a checkpoint and from its bundle: they are the evaluator's lists."""

from pathlib import Path

import numpy as np
import pytest
from recbole.utils.case_study import full_sort_scores

from recbole_mambarec import Recommender
from recbole_mambarec.experiments.store import MASKS
from recbole_mambarec.scoring.restore import restore
from tests.recommend.conftest import FUSION, MODELS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def live(trained):
    """Model -> recommender over its checkpoint."""

    class Live(dict):
        def __missing__(self, model):
            self[model] = Recommender.load(trained.files[model])
            return self[model]

    return Live()


def evaluated(run, loader):
    """Scores of all users as RecBole's case study has them, masked: ``(n_users, n_items)``."""
    model = run.model
    if model is None:
        from recbole_mambarec.scoring.scorer import ScorerModel

        model = ScorerModel(run.config, run.splits.dataset, run.scorer)
    users = np.arange(1, len(run.splits.users) + 1)
    return full_sort_scores(users, model, loader, device=run.config["device"]).cpu()[:, 1:]


@pytest.mark.parametrize("model", [*MODELS, FUSION])
def test_lists_are_those_of_the_evaluator(trained, live, model):
    """Bit for bit, under both masks; where scores are equal, in the order of the catalogue."""
    run, k, ties = restore(trained.files[model]), 10, 0
    for mask, loader in run.splits.tests().items():
        scores = evaluated(run, loader)
        wanted = scores.topk(k, dim=1)
        lists = dict(live[model].recommend(live[model].users.tokens.tolist(), k, exclude_seen=mask))
        for user, values, row, columns in zip(run.splits.users.tokens, wanted.values, scores, wanted.indices):
            found = lists[user]
            assert [r.score for r in found] == values.tolist()
            places = live[model].items.positions([r.item for r in found])
            ties += len(set(values.tolist())) < k
            if len(set(row.tolist())) == len(row) - int(row.isinf().sum()) + 1:  # no two are equal
                assert places.tolist() == columns.tolist()
            order = np.lexsort((np.arange(len(row)), -row.numpy()))
            assert places.tolist() == order[:k].tolist()
    assert ties or model != "Pop"


@pytest.mark.parametrize("model", [*MODELS, FUSION])
def test_a_bundle_gives_the_same_lists(live, bundles, model):
    bundle, one = Recommender.load(bundles[model]), live[model]
    for mask in (*MASKS, True, False):
        users = one.users.tokens
        for wanted, found in zip(*(each.ranked(users, 10, exclude_seen=mask) for each in (one, bundle))):
            # the order of scores that differ by rounding may be another
            np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-4, atol=1e-6)
            assert (found.items == wanted.items).mean() > 0.98
