"""Embeddings for other stores and runtimes: arrays with lists of ids, and the ranking as a program for ONNX."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recbole_mambarec.errors import UserError
from recbole_mambarec_common.extras import need
from recbole_mambarec_common.files import atomic_folder
from recbole_mambarec_serving.ids import Ids
from recbole_mambarec_serving.recommender import Recommender
from recbole_mambarec_serving.scoring import InnerProducts

# of the operators that the program uses; runtimes from 2021 on know it
_OPSET = 13


def write_arrays(path: str | Path, recommender: Recommender, card: Mapping[str, Any], as_onnx: bool) -> Path:
    """Write ``users.npy`` and ``items.npy``, whose rows are the lines of ``user_ids.txt`` and ``item_ids.txt``.

    A score is the inner product of a row of each. ``seen.npz`` has what each user has, as in a bundle.

    Args:
        as_onnx: write ``model.onnx`` instead of ``items.npy``: from ``users``, float32 ``(B, d)``, and ``k``, int64
            ``(1,)``, it computes ``scores`` and ``items`` ``(B, k)``, lines of ``item_ids.txt`` from 0.

    Raises:
        UserError: the model does not rank by embeddings, or an id has a line break.
    """
    scoring = recommender.scoring
    if not isinstance(scoring, InnerProducts):
        raise UserError(f"{recommender.name} does not rank by embeddings of users and items: export it as a bundle")
    with atomic_folder(path) as folder:
        np.save(folder / "users.npy", scoring.users)
        if as_onnx:
            _write_program(folder / "model.onnx", scoring.items)
        else:
            np.save(folder / "items.npy", scoring.items)
        for name, ids in (("user_ids.txt", recommender.users), ("item_ids.txt", recommender.items)):
            _write_ids(folder / name, ids)
        text = json.dumps({"model": recommender.name, **card}, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / "card.json").write_text(text + "\n", encoding="utf-8")
    return Path(path)


def _write_ids(path: Path, ids: Ids) -> None:
    tokens = ids.tokens.tolist()
    broken = [token for token in tokens if token.splitlines() != [token]]
    if broken:
        raise UserError(f"{ids.what} {broken[0]!r} has a line break in its id: export a bundle, which holds any id")
    path.write_text("\n".join([*tokens, ""]), encoding="utf-8")


def _write_program(path: Path, items: np.ndarray) -> None:
    onnx = need("onnx", "onnx")
    helper, numpy_helper, types = onnx.helper, onnx.numpy_helper, onnx.TensorProto
    float_matrix, int_matrix = (types.FLOAT, ["batch", "k"]), (types.INT64, ["batch", "k"])
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["users", "items_transposed"], ["all_scores"]),
            helper.make_node("TopK", ["all_scores", "k"], ["scores", "items"], axis=1, largest=1, sorted=1),
        ],
        "recommend",
        [
            helper.make_tensor_value_info("users", types.FLOAT, ["batch", items.shape[1]]),
            helper.make_tensor_value_info("k", types.INT64, [1]),
        ],
        [
            helper.make_tensor_value_info("scores", *float_matrix),
            helper.make_tensor_value_info("items", *int_matrix),
        ],
        [numpy_helper.from_array(np.ascontiguousarray(items.T), "items_transposed")],
    )
    opsets = [helper.make_opsetid("", _OPSET)]
    model = helper.make_model(graph, producer_name="recbole_mambarec", opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
