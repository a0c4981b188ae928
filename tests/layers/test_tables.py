import pytest
import torch

from recbole_mambarec.layers.tables import DrawnTable


@pytest.mark.parametrize("trained", [False, True])
def test_a_drawn_table_is_always_saved_and_trained_on_request(trained):
    table = DrawnTable(4, 3, trained)
    assert list(table.state_dict()) == ["weight"] and table().shape == (4, 3)
    assert [p.requires_grad for p in table.parameters()] == ([True] if trained else [])
    restored = DrawnTable(4, 3, trained)
    assert not torch.equal(restored(), table())
    restored.load_state_dict(table.state_dict())
    assert torch.equal(restored(), table())
