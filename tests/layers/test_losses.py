import torch
import torch.nn.functional as F

from recbole_mambarec.layers.losses import bpr, info_nce, l2_half, mmd_gaussian


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


def test_mmd_never_holds_batch_by_batch_by_width():
    x, y = torch.randn(400, 64), torch.randn(400, 64)
    with torch.profiler.profile(profile_memory=True) as profile:
        mmd_gaussian(x, y, 1.0)
    assert max(event.cpu_memory_usage for event in profile.events()) < 400 * 400 * 64 * 4 / 8


def test_mmd_gradient():
    x = torch.randn(5, 3, dtype=torch.float32, requires_grad=True)
    y = torch.randn(5, 3)
    (ours,) = torch.autograd.grad(mmd_gaussian(x, y, 1.0), x)
    (plain,) = torch.autograd.grad(brute_mmd(x, y, 1.0), x)
    torch.testing.assert_close(ours, plain, atol=1e-6, rtol=1e-4)


def test_info_nce_prefers_aligned_pairs_and_equals_the_formula():
    a = torch.randn(20, 6)
    b = a + 0.1 * torch.randn(20, 6)
    assert info_nce(a, b, 0.2) < info_nce(a, b.roll(1, 0), 0.2)
    similarity = torch.exp(F.normalize(a) @ F.normalize(b).T / 0.2)
    expected = -torch.log(similarity.diagonal() / similarity.sum(1)).mean()
    torch.testing.assert_close(info_nce(a, b, 0.2), expected)


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


def test_losses_stay_in_float32_under_autocast():
    x = torch.randn(16, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = (x @ torch.eye(8)).to(torch.bfloat16)
        values = [bpr(half, half, -half), info_nce(half, half, 0.2), mmd_gaussian(half, -half, 1.0)]
    assert all(value.dtype == torch.float32 for value in values)
