"""Each shim of ``recbole_mambarec.compat`` does what it promises; no model is trained."""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
import threading
import types
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import recbole.quick_start
import recbole.trainer.trainer as trainer_module
import scipy.sparse
import torch
from recbole.config import Config
from recbole.data import create_dataset
from recbole.data.dataset import Dataset
from recbole.evaluator import Collector
from recbole.evaluator.collector import DataStruct
from recbole.evaluator.metrics import AveragePopularity, TailPercentage
from recbole.trainer import HyperTuning, Trainer

import recbole_mambarec
from recbole_mambarec import compat, restored
from recbole_mambarec.compat import checkpoints, distributed, python
from recbole_mambarec.compat import numpy as compat_numpy
from recbole_mambarec.compat import pandas as compat_pandas
from recbole_mambarec.compat import scipy as compat_scipy
from recbole_mambarec.errors import UserError

ROOT = Path(recbole_mambarec.__file__).parents[1]


def run_python(code: str, *paths: Path) -> str:
    """Standard output of a fresh interpreter that finds modules in ``paths`` first, then this checkout."""
    search = os.pathsep.join(map(str, [*paths, ROOT]))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": search},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_applying_twice_changes_nothing():
    def state():
        return [
            Dataset._fill_nan,
            Dataset._load_feat,
            Config._init_device,
            Trainer.__init__,
            Trainer._save_checkpoint,
            trainer_module.torch,
            trainer_module.torch.nn.SyncBatchNorm,
            trainer_module.DistributedDataParallel,
            recbole.quick_start.load_data_and_model,
            recbole.quick_start.run_recboles,
            distributed.run_recboles.original,
        ]

    before = state()
    compat.apply()
    assert all(old is new for old, new in zip(before, state()))


# ------------------------------------------------------------------------------------------------------------
# Python


@pytest.mark.parametrize(
    ("file", "shown"),
    [("/lib/recbole/model/a.py", 0), (r"C:\lib\recbole\utils\b.py", 0), ("/home/me/mine.py", 1)],
)
@pytest.mark.parametrize("message", [r"invalid escape sequence '\p'", r'"\p" is an invalid escape sequence.'])
@pytest.mark.parametrize("category", [SyntaxWarning, DeprecationWarning])
def test_docstrings_of_recbole_are_not_warned_of(file, shown, message, category):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        python.docstring_escapes()
        warnings.warn_explicit(message, category, file, 3)
    assert len(seen) == shown


# ------------------------------------------------------------------------------------------------------------
# numpy and scipy


@pytest.mark.parametrize(
    ("alias", "scalar_type"),
    [("float_", float), ("complex_", complex), ("unicode_", str), ("bool8", bool), ("object0", object)],
)
def test_numpy_aliases_are_the_old_types(alias, scalar_type):
    assert np.dtype(getattr(np, alias)) == np.dtype(scalar_type)


def test_numpy_aliases_leave_what_is_there(monkeypatch):
    monkeypatch.setattr(np, "bool8", "mine")
    compat_numpy.scalar_aliases()
    assert vars(np)["bool8"] == "mine"


def test_dok_update_sets_the_entries():
    matrix = scipy.sparse.dok_matrix((2, 3), dtype=np.float32)
    matrix._update({(0, 1): 2.0, (1, 2): 3.0})
    assert matrix.tocoo().toarray().tolist() == [[0, 2, 0], [0, 0, 3]]


def test_dok_update_leaves_what_is_there(monkeypatch):
    monkeypatch.setattr(scipy.sparse.dok_matrix, "_update", "mine")
    compat_scipy.dok_matrix_update()
    assert scipy.sparse.dok_matrix._update == "mine"


# ------------------------------------------------------------------------------------------------------------
# pandas


def tiny_dataset(tmp_path, **settings):
    """Items 1, 2, 3 with one blank in each column; item 4 has interactions only."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    inter = ["user_id:token\titem_id:token\trating:float"]
    inter += ["u1\ti1\t1", "u1\ti2\t2", "u2\ti3\t", "u2\ti1\t3", "u3\ti4\t6"]
    item = ["item_id:token\tprice:float\tbrand:token\ttags:token_seq\tsize:float_seq"]
    item += ["i1\t1\ta\tx y\t0.5 1.5", "i2\t\tb\t\t2.5", "i3\t4\t\ty\t"]
    for name, lines in ("inter", inter), ("item", item):
        (folder / f"tiny.{name}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    columns = {
        "inter": ["user_id", "item_id", "rating"],
        "item": ["item_id", "price", "brand", "tags", "size"],
    }
    settings = {
        **settings,
        "data_path": str(tmp_path),
        "load_col": columns,
        "eval_args": {"split": {"RS": [1, 0, 0]}},
        "filter_inter_by_user_or_item": False,
    }
    return create_dataset(Config(model="BPR", dataset="tiny", config_dict=settings))


@pytest.fixture
def dataset(tmp_path):
    return tiny_dataset(tmp_path)


def by_token(dataset, values) -> dict:
    """Values of the item rows by item token."""
    return {token: values[dataset.token2id("item_id", token)] for token in ("[PAD]", "i1", "i2", "i3", "i4")}


def test_missing_features_are_filled(dataset):
    # the mean is that of the two prices in the file; the padding row counts as missing
    assert by_token(dataset, dataset.item_feat["price"].tolist()) == {
        "[PAD]": 2.5,
        "i1": 1.0,
        "i2": 2.5,
        "i3": 4.0,
        "i4": 2.5,
    }
    assert sorted(dataset.inter_feat["rating"]) == [1.0, 2.0, 3.0, 3.0, 6.0]  # (1 + 2 + 3 + 6) / 4 = 3
    a, b = dataset.token2id("brand", ["a", "b"])
    brands = by_token(dataset, dataset.item_feat["brand"].tolist())
    assert brands == {"[PAD]": 0, "i1": a, "i2": b, "i3": 0, "i4": 0}
    sizes = by_token(dataset, [row.tolist() for row in dataset.item_feat["size"]])
    assert sizes == {"[PAD]": [], "i1": [0.5, 1.5], "i2": [2.5], "i3": [], "i4": []}


def test_missing_features_are_filled_in_the_tensors(dataset):
    frame = dataset.item_feat
    train = dataset.build()[0]
    assert by_token(train, train.item_feat["price"].tolist())["i2"] == 2.5
    assert train.inter_feat["rating"].isfinite().all()
    assert train.item_feat["brand"].dtype == torch.int64
    x, y = train.token2id("tags", ["x", "y"])
    tags = by_token(train, train.item_feat["tags"].tolist())
    assert tags == {"[PAD]": [0, 0], "i1": [x, y], "i2": [0, 0], "i3": [y, 0], "i4": [0, 0]}
    assert by_token(train, train.item_feat["size"].tolist())["i1"] == [0.5, 1.5]
    if compat_pandas.chained_fillna_is_lost():  # with pandas 3, a tensor shares its memory with nothing
        train.item_feat["item_id"][0] = 99
        assert frame["item_id"].tolist() == [0, 1, 2, 3, 4]


def test_pandas_has_nothing_to_say(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ChainedAssignmentError)
        tiny_dataset(tmp_path).build()


def test_sequences_are_normalised(tmp_path):
    dataset = tiny_dataset(tmp_path, normalize_field=["size"])
    sizes = by_token(dataset, [row.tolist() for row in dataset.item_feat["size"]])
    assert sizes == {"[PAD]": [], "i1": [0.0, 0.5], "i2": [1.0], "i3": [], "i4": []}


# ------------------------------------------------------------------------------------------------------------
# torch.load

RAN: list[str] = []


def ran(what: str) -> str:
    RAN.append(what)
    return what


class Code:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return ran, ("code",)


@pytest.fixture(autouse=True)
def _nothing_trusted(monkeypatch):
    monkeypatch.delenv(checkpoints.TRUST_VARIABLE, raising=False)
    RAN.clear()


@pytest.mark.parametrize("name", checkpoints.LOADING_MODULES)
def test_code_from_elsewhere_is_refused(name):
    module = importlib.import_module(name)
    torch.save({"state_dict": Code()}, "other.pth")
    with pytest.raises(UserError, match=rf"other\.pth .* run code .*{checkpoints.TRUST_VARIABLE}=1\.$"):
        module.torch.load("other.pth")
    assert RAN == []
    assert module.torch.Tensor is torch.Tensor  # all else is torch's


def test_code_from_elsewhere_is_loaded_when_trusted(monkeypatch):
    torch.save({"value": Code()}, "other.pth")
    monkeypatch.setenv(checkpoints.TRUST_VARIABLE, "1")
    assert trainer_module.torch.load("other.pth", map_location="cpu") == {"value": "code"}


def test_plain_values_from_elsewhere_are_loaded():
    torch.save({"state_dict": {"weight": torch.ones(2)}}, "plain.pth")
    assert trainer_module.torch.load(Path("plain.pth"))["state_dict"]["weight"].tolist() == [1, 1]


def test_own_file_is_loaded_until_it_is_replaced():
    trainer_module.torch.save({"value": Code()}, "own.pth", pickle_protocol=4)
    Path("link.pth").symlink_to("own.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trainer_module.torch.load("own.pth") == {"value": "code"}
    assert trainer_module.torch.load("link.pth") == {"value": "code"}
    RAN.clear()
    Path("copy.pth").write_bytes(Path("own.pth").read_bytes())
    with pytest.raises(UserError, match="run code"):
        trainer_module.torch.load("copy.pth")
    os.replace("copy.pth", "own.pth")
    with pytest.raises(UserError, match="run code"):
        trainer_module.torch.load("own.pth")
    assert RAN == []


def test_whole_models_can_be_saved_and_loaded():
    # as NeuMF.dump_parameters does
    trainer_module.torch.save(torch.nn.Linear(2, 1), Path("model.pth"))
    assert isinstance(trainer_module.torch.load("model.pth"), torch.nn.Linear)


@pytest.mark.parametrize("trusted", ["0", "1"])
@pytest.mark.parametrize("content", ["missing", "folder", "empty", "text", "truncated"])
def test_bad_files_are_one_sentence(content, trusted, monkeypatch):
    monkeypatch.setenv(checkpoints.TRUST_VARIABLE, trusted)
    path = Path("bad.pth")
    torch.save({"weight": torch.arange(1000.0)}, "good.pth")
    good = Path("good.pth").read_bytes()
    if content == "folder":
        path.mkdir()
    elif content != "missing":
        path.write_bytes({"empty": b"", "text": b"hello", "truncated": good[:-99]}[content])
    with pytest.raises(UserError, match=r"^the checkpoint bad\.pth (cannot be opened|is damaged).*\.$") as error:
        trainer_module.torch.load("bad.pth")
    assert "\n" not in str(error.value)


def test_everybody_elses_torch_load_is_as_strict_as_ever():
    assert torch.load is torch.serialization.load
    trainer_module.torch.save({"value": Code()}, "own.pth")
    with pytest.raises(pickle.UnpicklingError):
        torch.load("own.pth", weights_only=True)
    assert RAN == []


def test_load_data_and_model_has_the_policy_for_its_thread_only():
    seen = []

    def original(model_file):
        seen.append(torch.load is not torch.serialization.load)
        other = threading.Thread(target=lambda: seen.append(torch.load(model_file, weights_only=False)))
        other.start()
        other.join()
        return torch.load(model_file)

    torch.save({"value": Code()}, "code.pth")
    with pytest.raises(UserError, match="run code"):
        restored._load_data_and_model(original, "code.pth")
    assert seen == [True, {"value": "code"}]
    assert torch.load is torch.serialization.load


# ------------------------------------------------------------------------------------------------------------
# ray

REPORT = "recbole.quick_start.quick_start.tune.report(loss=1)"
QUIET_REPORT = f"import recbole_mambarec, recbole.quick_start; print({REPORT})"


@pytest.mark.parametrize(
    "ray", ["raise ImportError('no ray')", "raise AttributeError('old ray')", "import time; time.sleep(99)"]
)
def test_quick_start_does_not_import_ray(ray, tmp_path):
    (tmp_path / "ray.py").write_text(ray, encoding="utf-8")
    code = f"import sys, recbole_mambarec, recbole.quick_start; {REPORT}"
    code += "; print({'hyperopt', 'ray'} & {*sys.modules})"
    assert run_python(code, tmp_path) == "set()\n"


@pytest.mark.parametrize("quick_start", ["", "import recbole.quick_start"])
def test_ray_that_was_there_first_keeps_working(quick_start, tmp_path):
    package = tmp_path / "ray"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "tune.py").write_text(
        "from types import SimpleNamespace as Context\n"
        "def get_context(): return Context(get_trial_id=lambda: '7')\n"
        "def report(metrics, *, checkpoint=None): print(metrics)\n",
        encoding="utf-8",
    )
    code = f"""
import ray, ray.tune, sys
{quick_start}
import recbole_mambarec, recbole.quick_start
assert sys.modules["ray"] is ray and ray.__file__
{REPORT}
"""
    assert run_python(code, tmp_path) == "{'loss': 1}\n"


@pytest.mark.parametrize(("program", "seen"), [("/lib/ray/_private/workers/default_worker.py", None), ("mine.py", 7)])
def test_the_command_line_of_a_ray_worker_has_no_settings(program, seen, monkeypatch):
    monkeypatch.setattr("sys.argv", [program, "--seed=7", "--worker-id=0"])
    config = Config(model="BPR", dataset="ml-100k", config_dict={"strict_keys": False})
    assert config.cmd_config_dict.get("seed") == seen


def test_without_a_trial_nothing_is_reported():
    pytest.importorskip("ray.tune", reason="needs the extra [ray]", exc_type=ImportError)
    assert run_python(f"import warnings, ray.tune; warnings.simplefilter('error'); {QUIET_REPORT}") == "None\n"


def test_an_old_ray_is_told_of(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.tune", types.SimpleNamespace(report=lambda **metrics: 1 / 0))
    with pytest.warns(UserWarning, match=r"ray is older than 2\.45"):
        recbole.quick_start.quick_start.tune.report(**{"recall@10": 0.5})


# ------------------------------------------------------------------------------------------------------------
# hyperopt


def parabola(config_dict, config_file_list):
    score = 9 - (config_dict["x"] - 2) ** 2 - config_dict["y"]
    return {
        "model": "Parabola",
        "best_valid_score": score,
        "valid_score_bigger": True,
        "best_valid_result": {"score": score},
        "test_result": {"score": score},
    }


@pytest.mark.parametrize("algo", ["exhaustive", "random", "bayes"])
def test_hyper_tuning_finds_the_best(algo, monkeypatch):
    pytest.importorskip("hyperopt")
    monkeypatch.setenv("HYPEROPT_FMIN_SEED", "1")
    space = {"choice": {"x": [0, 1, 2, 3], "y": [0.0, 0.5]}}
    tuning = HyperTuning(parabola, params_dict=space, algo=algo, early_stop=50, max_evals=40)
    tuning.run()
    assert tuning.best_params["x"] == 2
    if algo == "exhaustive":
        assert tuning.best_params["y"] == 0
        assert sorted(tuning.params_list) == [f"x:{x}, y:{y}" for x in range(4) for y in (0.0, 0.5)]


def test_hyper_tuning_is_drawn(monkeypatch):
    pytest.importorskip("hyperopt")
    pytest.importorskip("plotly")
    monkeypatch.delattr(np, "str", raising=False)
    space = {"choice": {"x": [1, 2], "y": [0.0]}}
    tuning = HyperTuning(parabola, params_dict=space, display_file="tuning.html")
    # plotly opens the page in a browser where there is one
    monkeypatch.setattr("webbrowser.open", lambda *args, **kwargs: True)
    tuning.run()
    assert "Parabola tuning process" in Path("tuning.html").read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------
# warnings and distributed runs


def test_grad_scaler_gives_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(trainer_module.amp.GradScaler(enabled=False), torch.amp.GradScaler)
    assert trainer_module.amp.autocast is torch.cuda.amp.autocast


@pytest.fixture
def group():
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
    yield
    torch.distributed.destroy_process_group()


def test_batch_norm_trains_in_a_group_on_the_cpu(group):
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    assert trainer_module.torch.nn.SyncBatchNorm.convert_sync_batchnorm(model) is model
    parallel = trainer_module.DistributedDataParallel(model, device_ids=[0])
    parallel(torch.randn(4, 3)).sum().backward()
    assert model[0].weight.grad is not None


def test_sync_batch_norm_is_kept_for_other_devices():
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(2, device="meta"))
    converted = trainer_module.torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert type(converted[0]) is torch.nn.SyncBatchNorm


@pytest.mark.skipif(torch.cuda.is_available(), reason="a run without CUDA")
@pytest.mark.parametrize("rank", [0, 1])
def test_config_of_a_group_on_the_cpu(rank, monkeypatch):
    groups = []
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda **settings: groups.append(settings))
    settings = {"local_rank": rank, "nproc": 2, "offset": 4, "world_size": 8, "ip": "localhost", "port": 12}
    config = Config(model="BPR", dataset="ml-100k", config_dict=settings)
    assert groups == [{"backend": "gloo", "rank": 4 + rank, "world_size": 8, "init_method": "tcp://localhost:12"}]
    assert (config["device"], config["single_spec"], config["local_rank"]) == (
        torch.device("cpu"),
        False,
        rank,
    )
    assert (config["state"], config["show_progress"]) == (("INFO", True) if rank == 0 else ("error", False))


def test_anomaly_detection_is_not_left_on():
    script = """
import torch
import recbole_mambarec, recbole.model.sequential_recommender
print(torch.is_anomaly_enabled())
torch.autograd.set_detect_anomaly(True)
recbole_mambarec.compat.apply()
print(torch.is_anomaly_enabled())
"""
    assert run_python(script).split() == ["False", "True"]


def test_processes_that_start_together_make_the_same_folder(tmp_path):
    from recbole.utils import ensure_dir, logger

    assert logger.ensure_dir is ensure_dir
    for _ in range(2):
        ensure_dir(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


# ------------------------------------------------------------------------------------------------------------
# metrics


def test_counts_are_collected_beside_tensors():
    struct = Collector.__new__(Collector)
    struct.data_struct = DataStruct()
    for name, value in {"data.num_items": 7, "data.count_items": Counter("ab"), "rec.items": torch.ones(2, 3)}.items():
        struct.data_struct.set(name, value)
    for _ in range(2):  # what belongs to one evaluation goes, what belongs to the data stays
        given = struct.get_data_struct()
        assert given["data.num_items"] == 7 and given["data.count_items"] == Counter("ab")
        assert "rec.items" not in struct.data_struct
    assert struct.data_struct["data.num_items"] == 7


@pytest.mark.parametrize("tail_ratio", [None, 0.3, 2])
def test_popularity_is_looked_up_as_recbole_does(tail_ratio):
    rng = np.random.default_rng(0)
    recommended = rng.integers(1, 20, (30, 5))
    counts = Counter(rng.integers(1, 15, 60).tolist())  # items that nobody trained on are recommended, too
    config = {"topk": [2, 5], "metric_decimal_place": 4, "tail_ratio": tail_ratio}
    for metric, method in ((AveragePopularity, "get_pop"), (TailPercentage, "get_tail")):
        look_up = getattr(metric(config), method)
        expected = look_up.__func__.__wrapped__(metric(config), recommended, counts)
        found = look_up(recommended, counts)
        assert found.dtype == expected.dtype and (found == expected).all() and found.any()
