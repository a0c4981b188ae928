import numpy as np
import pytest
import torch
from torch import nn

from recbole_mambarec.errors import UserError
from recbole_mambarec.layers.rca import RCA, RESIDUALS, SCOPES, correlation, unbiased
from recbole_mambarec.testing.memory import tensor_peak


def nodes(n: int = 40, dim: int = 8, count: int = 2, seed: int = 0) -> torch.Tensor:
    """``count`` modalities of n nodes side by side."""
    return torch.randn(n, count * dim, generator=torch.Generator().manual_seed(seed)) + 0.5


def build(dim: int = 8, count: int = 2, **settings) -> RCA:
    torch.manual_seed(1)
    return RCA(dim, count, **settings)


def plain_step(xs: list[np.ndarray], rca: RCA, step: int) -> list[np.ndarray]:
    """The formulas read literally, in float64."""
    weights = {name: p.detach().double().numpy() for name, p in rca.steps[step].named_parameters()}
    d = xs[0].shape[1]
    joint = np.concatenate(xs, axis=1) @ weights["joint.weight"].T + weights["joint.bias"]
    updates = []
    for m, x in enumerate(xs):
        found = np.corrcoef(x.T, joint.T)[:d, d:]
        c = np.tanh(np.sqrt(d) * found @ weights["correlated"][m])
        hidden = np.maximum(x @ weights["own"][m] + joint @ c.T @ weights["crossed"][m] / np.sqrt(d), 0)
        updates.append(hidden @ weights["output"][m])
    return updates


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("share", [True, False])
def test_feature_scope_equals_the_formulas(count, residual, share):
    rca = build(count=count, n_steps=3, share_steps=share, residual=residual)
    given = nodes(count=count)
    refined, joint = rca(given)
    start = xs = np.split(given.double().numpy(), count, axis=1)
    for r in range(3):
        updates = plain_step(xs, rca, 0 if share else r)
        xs = [x + update for x, update in zip(xs if residual == "previous" else start, updates)]
    expected = np.concatenate(xs, axis=1)
    np.testing.assert_allclose(refined.detach(), expected, atol=1e-4, rtol=1e-4)
    weight, bias = (p.detach().double().numpy() for p in (rca.joint.weight, rca.joint.bias))
    np.testing.assert_allclose(joint.detach(), expected @ weight.T + bias, atol=1e-4, rtol=1e-4)


def test_token_scope_equals_attention_of_each_node_alone():
    rca = build(scope="token", n_steps=2, share_steps=False)
    given = nodes(n=5)
    refined, _ = rca(given)
    for node in range(5):
        tokens = given[node].view(2, 8)
        for step in rca.steps:
            tokens = tokens + step.attention(tokens, tokens, tokens)[0]
        torch.testing.assert_close(refined[node], tokens.flatten(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("scope", SCOPES)
def test_without_steps_nothing_is_refined(scope):
    rca = build(n_steps=0, scope=scope)
    given = nodes()
    refined, joint = rca(given)
    assert torch.equal(refined, given)
    assert torch.equal(joint, rca.joint(refined))
    assert [name for name, _ in rca.named_parameters()] == ["joint.weight", "joint.bias"]


@pytest.mark.parametrize("scope", SCOPES)
def test_the_residuals_agree_at_one_step_only(scope):
    given = nodes()
    for steps, equal in ((1, True), (2, False)):
        one, other = (build(n_steps=steps, residual=residual, scope=scope)(given)[0] for residual in RESIDUALS)
        assert torch.equal(one, other) == equal


@pytest.mark.parametrize("scope", SCOPES)
def test_a_view_changes_when_only_another_does(scope):
    rca = build(scope=scope, n_steps=1)
    image, text = nodes().chunk(2, dim=1)
    before, after = (rca(torch.cat([image, x], dim=1))[0][:, :8] for x in (text, text.flip(1)))
    assert (before - after).abs().max() > 1e-3


def test_parameters_at_the_published_width():
    assert sum(p.numel() for p in RCA(64, 2).parameters()) == 49_280
    one, four = (sum(p.numel() for p in RCA(64, 2, n_steps=4, share_steps=s).steps.parameters()) for s in (True, False))
    assert four == 4 * one


def test_the_tanh_is_not_saturated_at_catalogue_size():
    """Features of low rank away from zero, as encoders give them, through a linear map."""
    torch.manual_seed(0)
    features = [torch.randn(7050, 20) @ torch.randn(20, width) + 1 for width in (512, 384)]
    items = torch.cat([unbiased(x.shape[1], 64)(x / x.norm(dim=1, keepdim=True)) for x in features], dim=1)
    # users are means of their items, which differ less
    users = items[torch.randint(len(items), (10_000, 5))].mean(dim=1)
    rca = RCA(64, 2)
    (step,) = rca.steps
    seen = []
    attention = step.attention
    step.attention = lambda given: seen.append(attention(given)) or seen[-1]
    for given in (items, users):
        rca.zero_grad()
        rca(given)[1].square().mean().backward(retain_graph=True)
        assert step.correlated.grad.abs().max() > 0
    assert len(seen) == 4  # two steps of each
    for c in seen:
        assert c.shape == (2, 64, 64)
        assert (c.abs() > 0.99).float().mean() < 0.05


def test_correlation_is_that_of_numpy_whatever_the_scale():
    x, map_ = nodes(n=50, dim=5, count=1, seed=3), nn.Linear(5, 3)
    for scale, shift in ((1, 0), (1e-6, 0), (1e6, 0), (1, 100)):
        given = scale * x + shift
        mapped = given.double().numpy() @ map_.weight.detach().double().numpy().T
        expected = np.corrcoef(given.double().numpy().T, mapped.T)[:5, 5:]
        found = correlation(given, map_.weight).detach()
        np.testing.assert_allclose(found, expected, atol=2e-4)
    assert correlation(x, torch.eye(5)).diagonal() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("shift", [0, 100])
def test_the_gradient_of_correlations_is_that_of_a_plain_reading(shift):
    """Also where means are large, of which what is left after rounding must not come back with the gradient."""
    x, map_ = (nodes(n=30, dim=4, count=1, seed=2) + shift).requires_grad_(), nn.Linear(4, 3)

    def plain(x, weight):
        both = torch.cat([x, x @ weight.T], dim=1)
        both = both - both.mean(dim=0)
        unit = both / both.norm(dim=0)
        return unit[:, :4].T @ unit[:, 4:]

    given = (x, map_.weight)
    mixed = torch.randn(4, 3, generator=torch.Generator().manual_seed(7))
    found = torch.autograd.grad((correlation(*given) * mixed).sum(), given)
    exact = [x.detach().double().requires_grad_() for x in given]
    expected = torch.autograd.grad((plain(*exact) * mixed.double()).sum(), exact)
    for ours, wanted in zip(found, expected):
        torch.testing.assert_close(ours.double(), wanted, atol=1e-5, rtol=1e-4)
    # what a step before would multiply by the mean
    assert found[0].sum(dim=0).abs().max() < 1e-6


def test_a_constant_column_correlates_with_nothing_and_has_no_wild_gradient():
    x = nodes(n=1000, dim=4, count=1)
    x[:, 1] = 0.1
    x[:, 2] = 0
    x.requires_grad_()
    weight = torch.ones(3, 4)
    weight[1] = 0  # a mapped column that does not vary
    weight[:, 1:3] = 0  # nor do the others through the constant ones
    weight.requires_grad_()
    found = correlation(x, weight)
    assert not found[1:3].any() and not found[:, 1].any() and found[0, 0] > 0
    found.sum().backward()
    assert x.grad.isfinite().all() and not x.grad[:, 1:3].any() and x.grad[:, 0].any()
    assert weight.grad.isfinite().all() and not weight.grad[1].any()


def test_one_node_gives_no_nan():
    given = nodes(n=1).requires_grad_()
    joint = build()(given)[1]
    joint.sum().backward()
    assert joint.isfinite().all() and given.grad.isfinite().all()


@pytest.mark.parametrize("scope", SCOPES)
def test_memory_is_linear_in_nodes(scope):
    """What a pass with gradient holds at its peak doubles with the nodes and is a few (N, M d) arrays."""
    peaks = []
    for n in (1500, 3000):
        rca, given = build(scope=scope), nodes(n=n).requires_grad_()
        peaks.append(tensor_peak(lambda rca=rca, given=given: rca(given)[1].sum().backward()))
    assert peaks[1] <= 2.1 * peaks[0]
    assert peaks[1] < 3000 * 2 * 8 * 4 * 24


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"residual": "none"}, "rca_residual 'none' is unknown: use one of previous, input"),
        ({"scope": "node"}, "rca_scope 'node' is unknown: use one of feature, token"),
        ({"scope": "token", "dim": 6}, "rca_scope 'token' has 4 heads .* not 6"),
    ],
)
def test_unknown_choices_are_refused(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        build(**settings)


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("scope", SCOPES)
def test_queries_are_refined_as_nodes_are_without_affecting_them(scope, residual):
    rca, given, others = build(scope=scope, residual=residual), nodes(), nodes(n=7, seed=5)
    alone, along = rca(given), rca(given, torch.cat([given[3:9], others]))
    for whole, part in zip(alone, along):
        torch.testing.assert_close(part[:6], whole[3:9])
    if scope == "token":
        # nodes do not see each other: all but the rows that are wanted are left alone
        torch.testing.assert_close(rca(torch.full_like(given, torch.nan), given[3:9])[0], along[0][:6])
    # rows of no node count for nothing
    again = rca(given, torch.cat([given[3:9], 100 * others]))
    torch.testing.assert_close(again[0][:6], along[0][:6])
    assert not torch.allclose(again[0][6:], along[0][6:])
