import pytest
import torch
import torch.nn.functional as F

from recbole_mambarec.layers import losses
from recbole_mambarec.layers.losses import (
    bpr,
    cosine_distance,
    dot_nce,
    embedding_norm,
    info_nce,
    info_nce_among,
    info_nce_distinct,
    l2_half,
    mean_over_distinct,
    mmd_gaussian,
    moment_gap,
    sampled_softmax,
)


def brute_mmd(x, y, sigma):
    def kernel(a, b):
        return torch.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / (2 * sigma**2)).mean()

    return kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)


def test_mmd_equals_brute_force_is_symmetric_and_zero_on_itself():
    x, y = F.normalize(torch.randn(30, 8)), F.normalize(torch.randn(30, 8))
    for sigma in (0.5, 1.5):
        assert torch.allclose(mmd_gaussian(x, y, sigma), brute_mmd(x, y, sigma), atol=1e-6)
    assert torch.allclose(mmd_gaussian(x, y, 1.0), mmd_gaussian(y, x, 1.0), atol=1e-7)
    assert mmd_gaussian(x, x, 1.0).abs() < 1e-6
    assert mmd_gaussian(x, y, 1.0) > 1e-3


def test_mmd_never_holds_the_kernel_of_the_batch(monkeypatch):
    monkeypatch.setattr(losses, "_PAIRS_AT_A_TIME", {"cpu": 1 << 16})
    x, y = torch.randn(2, 2000, 8, requires_grad=True)
    with torch.profiler.profile(profile_memory=True) as profile:
        mmd_gaussian(x, y, 1.0).backward()
    assert max(event.cpu_memory_usage for event in profile.events()) < 2000 * 2000 * 4 / 8


@pytest.mark.parametrize("block", [1, 37, 1 << 20])
def test_mmd_gradient(monkeypatch, block):
    monkeypatch.setattr(losses, "_PAIRS_AT_A_TIME", {"cpu": block})
    x, y = torch.randn(13, 3, requires_grad=True), torch.randn(7, 3, requires_grad=True)
    ours, plain = mmd_gaussian(x, y, 1.0), brute_mmd(x, y, 1.0)
    torch.testing.assert_close(ours, plain)
    for one, other in zip(torch.autograd.grad(2 * ours, (x, y)), torch.autograd.grad(2 * plain, (x, y))):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_info_nce_prefers_aligned_pairs_and_equals_the_formula():
    a = torch.randn(20, 6)
    b = a + 0.1 * torch.randn(20, 6)
    assert info_nce(a, b, 0.2) < info_nce(a, b.roll(1, 0), 0.2)
    similarity = torch.exp(F.normalize(a) @ F.normalize(b).T / 0.2)
    expected = -torch.log(similarity.diagonal() / similarity.sum(1)).mean()
    torch.testing.assert_close(info_nce(a, b, 0.2), expected)


@pytest.mark.parametrize(("pairs", "columns"), [(1, 1), (60, 7), (1 << 20, 8)])
def test_tiles_of_a_contrast_change_nothing(monkeypatch, pairs, columns):
    """Neither the value nor the gradient, be it of cross-entropies or of sums of exponentials."""
    anchors, candidates = torch.randn(9, 3, requires_grad=True), torch.randn(20, 3, requires_grad=True)
    index, weights = torch.randint(0, 20, (9,)), torch.randn(9)
    unit, targets = F.normalize(anchors, dim=1), F.normalize(candidates, dim=1)
    logits = unit @ targets.T / 0.3
    expected = F.cross_entropy(logits, index, reduction="sum"), (logits.exp().sum(dim=1) * weights).sum()
    monkeypatch.setattr(losses, "_PAIRS_AT_A_TIME", {"cpu": pairs})
    monkeypatch.setattr(losses, "_COLUMNS_AT_A_TIME", {"cpu": columns})
    found = (
        info_nce_among(anchors, candidates, index, 0.3),
        (losses.sums_of_exponentials(unit, targets, 1 / 0.3) * weights).sum(),
    )
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other)
        gradients = (torch.autograd.grad(x, (anchors, candidates), retain_graph=True) for x in (one, other))
        for ours, plain in zip(*gradients):
            torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("few", "pairs", "columns"), [(100, 1 << 20, 1 << 20), (100, 45, 4), (0, 45, 4)])
def test_sums_on_lists_and_their_gradients(few, pairs, columns, monkeypatch):
    """In blocks of rows and of columns, as at once."""
    monkeypatch.setattr(losses, "_FEW_CANDIDATES", few)
    monkeypatch.setattr(losses, "_PAIRS_AT_A_TIME", {"cpu": pairs})
    monkeypatch.setattr(losses, "_COLUMNS_AT_A_TIME", {"cpu": columns})
    anchors, candidates = (torch.randn(n, 5).requires_grad_() for n in (7, 15))
    lists = [torch.stack([torch.randperm(15)[:k] for _ in range(7)]) for k in (3, 14)]
    found = losses.sums_and_listed_sums(anchors, candidates, lists, 0.7)
    plain = (anchors @ candidates.T / 0.7).exp()
    expected = [plain.sum(dim=1), *(plain.gather(1, chosen).sum(dim=1) for chosen in lists)]
    weights = torch.randn(3, 7)
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other)
    totals = ((torch.stack(list(sums)) * weights).sum() for sums in (found, expected))
    for ours, theirs in zip(*(torch.autograd.grad(total, (anchors, candidates)) for total in totals)):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_info_nce_survives_a_small_temperature():
    a = torch.randn(20, 6)
    assert torch.isfinite(info_nce(a, -a, 0.001))


def test_bpr():
    u, p, n = torch.randn(3, 10, 4)
    expected = -torch.log(torch.sigmoid((u * p).sum(1) - (u * n).sum(1))).mean()
    torch.testing.assert_close(bpr(u, p, n), expected)
    assert torch.isfinite(bpr(1e4 * u, -1e4 * u, 1e4 * u))


def test_l2_half_divides_by_the_configured_batch():
    x = torch.ones(2, 3)
    assert l2_half(x, x, batch_size=4) == 0.5 * 12 / 4


@pytest.mark.parametrize("block", [1, 37, 1 << 22])
def test_info_nce_among_all_equals_the_formula_and_its_gradient(monkeypatch, block):
    monkeypatch.setattr(losses, "_PAIRS_AT_A_TIME", {"cpu": block})
    a, c = torch.randn(9, 4, requires_grad=True), torch.randn(20, 4, requires_grad=True)
    index = torch.tensor([3, 3, 0, 19, 5, 6, 7, 3, 1])
    logits = F.normalize(a, dim=1) @ F.normalize(c, dim=1).T / 0.2
    expected = F.cross_entropy(logits, index, reduction="sum")
    ours = info_nce_among(a, c, index, 0.2)
    torch.testing.assert_close(ours, expected)
    for one, other in zip(torch.autograd.grad(3 * ours, (a, c)), torch.autograd.grad(3 * expected, (a, c))):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_in_batch_contrasts_have_the_gradient_of_their_formula():
    a, b = torch.randn(2, 300, 8, requires_grad=True)
    own = torch.arange(300)
    unit = F.cross_entropy(F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / 0.1, own)
    for ours, expected in ((info_nce(a, b, 0.1), unit), (dot_nce(a, b, 0.7), F.cross_entropy(a @ b.T / 0.7, own))):
        torch.testing.assert_close(ours, expected)
        for one, other in zip(torch.autograd.grad(ours, (a, b)), torch.autograd.grad(expected, (a, b))):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_info_nce_among_all_never_holds_all_logits(monkeypatch):
    monkeypatch.setattr(losses, "_PAIRS_AT_A_TIME", {"cpu": 1 << 16})
    a, c = torch.randn(500, 8, requires_grad=True), torch.randn(4000, 8, requires_grad=True)
    with torch.profiler.profile(profile_memory=True) as profile:
        info_nce_among(a, c, torch.arange(500), 0.2).backward()
    assert max(event.cpu_memory_usage for event in profile.events()) < 500 * 4000 * 4 / 8


@pytest.mark.parametrize("block", [1, 37, 1 << 20])
@pytest.mark.parametrize("left_out", [[], [3, 11]])
def test_distinct_contrast_equals_the_contrast_of_one_row_per_node(monkeypatch, block, left_out):
    monkeypatch.setattr(losses, "_PAIRS_AT_A_TIME", {"cpu": block})
    a, b = torch.randn(2, 12, 4, requires_grad=True)
    nodes = torch.tensor([3, 3, 0, 11, 5, 3, 7, 0, 1])
    counted = ~torch.isin(nodes, torch.tensor(left_out)) if left_out else None
    ours = info_nce_distinct(a[nodes], b[nodes], nodes, 0.2, counted)
    once = nodes[slice(None) if counted is None else counted].unique()
    expected = info_nce(a[once], b[once], 0.2)
    torch.testing.assert_close(ours, expected)
    for one, other in zip(torch.autograd.grad(2 * ours, (a, b)), torch.autograd.grad(2 * expected, (a, b))):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_means_over_distinct_nodes_leave_out_those_that_do_not_count():
    nodes = torch.tensor([4, 4, 2, 9])
    values = torch.tensor([1.0, 3.0, 5.0, 100.0])
    torch.testing.assert_close(mean_over_distinct(values, nodes, nodes < 9), torch.tensor(3.5))
    none = torch.zeros(4, dtype=torch.bool)
    assert mean_over_distinct(values, nodes, none) == 0
    a = torch.randn(4, 3)
    assert info_nce_distinct(a, a, nodes, 0.2, none) < 1e-30


def test_small_losses_equal_their_formulas():
    a, b = torch.randn(2, 6, 4)
    torch.testing.assert_close(embedding_norm(a, b[:3]), (a.norm() + b[:3].norm()) / 3)
    torch.testing.assert_close(moment_gap(a, a + 2), torch.tensor(2.0))
    torch.testing.assert_close(moment_gap(a, 2 * a), 3 * a.var() + a.mean().abs())
    small = losses.mean_cosine(torch.tensor([[1.0, 0.0]]), torch.tensor([[1e-6, 1.0]]))
    torch.testing.assert_close(small, torch.tensor(1e-6), rtol=1e-5, atol=0.0)
    assert cosine_distance(a, 3 * a).abs() < 1e-6 and (cosine_distance(a, -a) - 2).abs() < 1e-6
    torch.testing.assert_close(dot_nce(a, b, 0.5), F.cross_entropy(2 * a @ b.T, torch.arange(6)))


def test_losses_stay_in_float32_under_autocast():
    x = torch.randn(16, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = (x @ torch.eye(8)).to(torch.bfloat16)
        values = [bpr(half, half, -half), info_nce(half, half, 0.2), mmd_gaussian(half, -half, 1.0)]
    assert all(value.dtype == torch.float32 for value in values)


def test_sampled_softmax_is_the_cross_entropy_over_the_item_and_the_negatives_that_count():
    torch.manual_seed(0)
    users, positives, negatives = (torch.randn(n, 5, requires_grad=True) for n in (4, 4, 6))
    seen = torch.rand(4, 6) < 0.4
    found = sampled_softmax(users, positives, negatives, seen, 0.3)
    for row in range(4):
        items = torch.cat([positives[row : row + 1], negatives[~seen[row]]])
        cosines = F.cosine_similarity(users[row][None], items) / 0.3
        torch.testing.assert_close(found[row], torch.logsumexp(cosines, dim=0) - cosines[0])
    assert seen.any() and not seen.all()
    found.sum().backward()
    assert all(x.grad.isfinite().all() for x in (users, positives, negatives))
