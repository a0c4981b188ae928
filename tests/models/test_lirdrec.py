from typing import ClassVar

import numpy as np
import pytest
import scipy.fft
import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_mambarec.errors import UserError
from recbole_mambarec.layers.spectral import dct, idct
from recbole_mambarec.testing.contract import ModelContract
from recbole_mambarec.testing.data import random_dataset


class TestLIRDRec(ModelContract):
    name = "LIRDRec"
    settings: ClassVar = {"epochs": 40, "learning_rate": 0.01}

    def test_the_spectrum_is_applied_to_weights(self):
        """What the branch computes is the map of the transformed features."""
        dataset = random_dataset()
        model = self.build(dataset)
        transformed = torch.cat([dct(model.features[m]()) for m in model.modalities], dim=1)
        expected = model.output[model.spectrum](
            torch.nn.functional.leaky_relu(model.hidden[model.spectrum](transformed))
        )
        torch.testing.assert_close(model._items(model.spectrum), expected, atol=1e-5, rtol=1e-4)

    def test_weight_moves_from_scores_to_what_is_remembered(self):
        model = self.build(decay_weight=0.9, decay_base=0.5)
        first, second = 0.9, 0.1
        for epoch in range(3):
            model.train().embed()
            remembered = model.theta.detach().clone() if epoch == 0 else model.last_attention.clone()
            model.pre_epoch(epoch)
            first = first * 0.5 ** (epoch + 1)
            first, second = first / (first + second), second / (first + second)
            assert model.weights.tolist() == pytest.approx([first, second])
            torch.testing.assert_close(model.theta.detach(), remembered)

    def test_a_weight_that_is_no_share_is_refused(self):
        with pytest.raises(UserError, match="decay_weight"):
            self.build(decay_weight=1.5)


@given(st.integers(1, 40), st.integers(0, 1000))
def test_the_transform_is_scipys_and_its_inverse_undoes_it(size, seed):
    x = np.random.default_rng(seed).normal(size=(3, size)).astype(np.float32)
    ours = dct(torch.from_numpy(x))
    np.testing.assert_allclose(ours.numpy(), scipy.fft.dct(x, norm="ortho", axis=1), atol=1e-5)
    np.testing.assert_allclose(idct(ours).numpy(), x, atol=1e-5)
