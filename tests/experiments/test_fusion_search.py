"""Weights found on validation: the kept candidates give the metric of all items, and the searches find good weights."""

import numpy as np
import pytest
import torch
from recbole.config import Config

from recbole_mambarec.config import no_command_line
from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments.fusion_search import SEARCHES, Candidates

N_USERS, N_ITEMS = 13, 60


@pytest.fixture(scope="module")
def config():
    with no_command_line():
        return Config("BPR", "ml-100k")


def drawn(n_parts, seed, decimals=None):
    """Scores, masked pairs and positive pairs."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(1, N_USERS, N_ITEMS))
    scores = common + rng.normal(size=(n_parts, N_USERS, N_ITEMS))
    scores = scores if decimals is None else scores.round(decimals)
    kinds = rng.choice(3, size=(N_USERS, N_ITEMS), p=[0.75, 0.1, 0.15])
    masked, positive = (tuple(torch.from_numpy(axis) for axis in np.nonzero(kinds == kind)) for kind in (1, 2))
    return torch.from_numpy(scores), masked, positive


def brute_force(scores, masked, positive, weights, k):
    """(recall, NDCG) at k from sorted scores of all items."""
    total = sum(weight * part.numpy() for weight, part in zip(weights, scores))
    total[masked] = -np.inf
    recall, ndcg = [], []
    for user in range(N_USERS):
        wanted = set(positive[1][positive[0] == user].tolist())
        hits = np.array([item in wanted for item in np.argsort(-total[user], kind="stable")[:k]])
        gains = 1 / np.log2(np.arange(k) + 2)
        recall.append(hits.sum() / len(wanted))
        ndcg.append((hits * gains).sum() / gains[: min(k, len(wanted))].sum())
    return np.mean(recall), np.mean(ndcg)


def of(scores, masked, positive, metric, config):
    found = Candidates(metric, config)
    half = N_USERS // 2
    for first, last in ((0, half), (half, N_USERS)):  # in two blocks
        left_out = torch.zeros(N_USERS, N_ITEMS, dtype=torch.bool)
        left_out[masked] = True
        here = (positive[0] >= first) & (positive[0] < last)
        found.add(scores[:, first:last].clone(), left_out[first:last], (positive[0][here] - first, positive[1][here]))
    return found


@pytest.mark.parametrize("n_parts", [2, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_kept_candidates_give_the_metric_of_all_items_under_any_weights(config, n_parts, seed):
    scores, masked, positive = drawn(n_parts, seed)
    recall, ndcg = (of(scores, masked, positive, metric, config) for metric in ("Recall@5", "NDCG@5"))
    assert recall.per_user < N_ITEMS
    rng = np.random.default_rng(seed)
    for weights in (*np.eye(n_parts), *rng.dirichlet([0.5] * n_parts, 40)):
        expected = brute_force(scores, masked, positive, weights, 5)
        assert (recall.value(weights), ndcg.value(weights)) == pytest.approx(expected, abs=1e-12)


def test_items_that_are_the_same_in_all_parts_do_not_leave_each_other_out(config):
    """Every score is one of few values, so that many items tie everywhere: k of them must stay."""
    scores, masked, positive = drawn(2, 0, decimals=0)
    found = of(scores, masked, positive, "Hit@10", config)
    for weights in ([1, 0], [0, 1], [0.5, 0.5]):
        total = sum(weight * part for weight, part in zip(weights, scores))
        total[masked] = -torch.inf
        best = total.topk(10, dim=1).values.sort(dim=1, descending=True).values
        sums = [sum(w * part for w, part in zip(weights, block) if w) for block, *_ in found._blocks]
        kept = [each.topk(10, dim=1).values for each in sums]
        assert sorted(map(tuple, torch.cat(kept).tolist())) == sorted(map(tuple, best.tolist()))


def test_a_catalogue_smaller_than_the_cut_off(config):
    scores, masked, positive = drawn(2, 1)
    found = of(scores, masked, positive, f"Recall@{N_ITEMS + 5}", config)
    assert found.value([1, 1]) == 1.0


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_finds_weights_that_are_better_than_each_part(config, name):
    """Each part knows one half of the truth."""
    rng = np.random.default_rng(4)
    truth = rng.normal(size=(2, N_USERS, N_ITEMS))
    noise = 0.2 * rng.normal(size=(3, N_USERS, N_ITEMS))
    positive = torch.zeros(N_USERS, N_ITEMS, dtype=torch.bool)
    positive.scatter_(1, torch.from_numpy(truth.sum(axis=0)).topk(5).indices, True)
    scores = torch.from_numpy(np.stack([truth[0], truth[1], np.zeros_like(truth[0])]) + noise)
    nobody = (torch.empty(0, dtype=torch.int64),) * 2
    found = of(scores, nobody, positive.nonzero(as_tuple=True), "Recall@5", config)
    weights = SEARCHES[name](found.value, 3)
    alone = [found.value(each) for each in np.eye(3)]
    assert found.value(weights) > max(alone) + 0.2
    assert sum(weights) == pytest.approx(1, abs=1e-3) and weights[2] < min(weights[:2])


def test_the_default_search_is_never_worse_than_the_greedy_one(config):
    for seed in range(3):
        found = of(*drawn(4, seed), "NDCG@5", config)
        by_name = {name: found.value(search(found.value, 4)) for name, search in SEARCHES.items()}
        assert by_name["coordinate"] >= by_name["greedy"] - 1e-9


def test_a_part_that_only_harms_gets_no_weight():
    def value(weights):
        return weights[0] / sum(weights)

    assert [search(value, 3) for search in SEARCHES.values()] == [[1, 0, 0]] * len(SEARCHES)


@pytest.mark.parametrize("metric", ["AUC", "Recall", "Recall@0", "ItemCoverage@10", "Nothing@5"])
def test_metrics_by_which_nothing_can_be_chosen(config, metric):
    with pytest.raises(UserError, match=f"weights cannot be found by {metric}: name a metric of ranked lists"):
        Candidates(metric, config)
