"""Small trained models, and their bundles."""

from __future__ import annotations

import os

import pytest

from recbole_mambarec.compat.checkpoints import TRUST_VARIABLE
from recbole_mambarec.experiments import run, store
from recbole_mambarec.experiments.fusion import fuse
from recbole_mambarec.experiments.fusion_parts import Part
from recbole_mambarec.experiments.plan import resolve
from recbole_mambarec.testing.planted import QUICK, write_planted

# embeddings of this package and of RecBole, several of them and weights between items, the latter alone, and neither
MODELS = ("MambaRec", "BPR", "LightGCN", "ThreeViews", "MultiEASE", "EASE", "Pop")
FUSION = "Fusion"
_READ_KNN_K = ("MambaRec", "ThreeViews")


class Trained:
    """A folder with the dataset ``planted`` and a checkpoint of each of :data:`MODELS` and of a fusion."""

    def __init__(self, root) -> None:
        self.root, self.files = root, {}
        folder = write_planted(root)
        _add_titles(folder / "planted.item")
        for model in MODELS:
            values = {key: value for key, value in QUICK.items() if key != "knn_k" or model in _READ_KNN_K}
            values |= {"data_path": str(root), "checkpoint_dir": str(root / "saved"), "epochs": 2, "state": "ERROR"}
            values |= {"topk": [3, 5], "valid_metric": "Recall@5", "protocol": "multimodal"}
            record = run.execute(resolve(model, "planted", 999, values), root / "runs.jsonl")
            assert record.is_finished, record.error
            (self.files[model],) = (root / "saved").glob(f"{model}-*.pth")
        parts = [Part(self.files[model]) for model in ("MambaRec", "EASE")]
        made = fuse(parts, runs=root / "runs.jsonl", weights=[0.6, 0.4], per_user=False, progress=False)
        self.files[FUSION] = made.file

    def record(self, model: str) -> store.Record:
        """The run of a model."""
        (record,) = (each for each in store.read(self.root / "runs.jsonl") if each.model == model)
        return record


def _add_titles(path) -> None:
    first, *tokens = path.read_text(encoding="utf-8").splitlines()
    lines = [f"{token}\tThing number {token[1:]}\thttps://example.org/{token}.jpg" for token in tokens]
    # one item without either
    lines[0] = f"{tokens[0]}\t\t"
    text = "\n".join([f"{first}\ttitle:token_seq\timage_url:token", *lines])
    path.write_text(text + "\n", encoding="utf-8")


@pytest.fixture(scope="package")
def trained(tmp_path_factory):
    before = os.environ.get(TRUST_VARIABLE)
    os.environ[TRUST_VARIABLE] = "1"
    yield Trained(tmp_path_factory.mktemp("trained"))
    if before is None:
        del os.environ[TRUST_VARIABLE]
    else:
        os.environ[TRUST_VARIABLE] = before


@pytest.fixture(scope="package")
def bundles(trained):
    """Model -> its bundle, made when it is asked for."""
    pytest.importorskip("safetensors", reason="bundles need the extra [serve]")
    from recbole_mambarec.recommend.export import export

    class Bundles(dict):
        def __missing__(self, model):
            self[model] = export(trained.files[model], trained.root / "bundles" / model, progress=False)
            return self[model]

    return Bundles()
