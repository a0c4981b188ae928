"""A GPU gives the CPU's results and no step waits for it; without a GPU, the benchmark for this starts."""

import pytest
import torch

from benchmarks.gpu import TOLERANCE, check_every, difference_to_cpu, main, measure, prepare, waits
from recbole_mambarec import registry
from recbole_mambarec.errors import UserError
from recbole_mambarec.testing.planted import QUICK, write_planted

SETTINGS = {k: v for k, v in QUICK.items() if k not in ("epochs", "show_progress")}
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@needs_gpu
@pytest.mark.parametrize("model", registry.built_in())
def test_results_equal_those_on_the_cpu(model, tmp_path):
    folder = write_planted(tmp_path)
    assert difference_to_cpu(model, folder.name, str(tmp_path), "cuda").largest <= TOLERANCE


@needs_gpu
@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("model", registry.built_in())
def test_no_step_waits(model, amp, tmp_path):
    folder = write_planted(tmp_path)
    trainer, train, _ = prepare(model, folder.name, str(tmp_path), "cuda", **SETTINGS, enable_amp=amp)
    assert not waits(trainer, train, "cuda")


@needs_gpu
@pytest.mark.parametrize("amp", [False, True])
def test_features_on_disk_are_held_as_they_are_stored(amp, tmp_path):
    folder = write_planted(tmp_path)
    settings = SETTINGS | {"freeze_features": True, "feature_memory": 0, "enable_amp": amp}
    trainer, train, valid = prepare("MambaRec", folder.name, str(tmp_path), "cuda", **settings)
    assert trainer.model.features["image"].weight.is_cuda
    assert measure(trainer, train, valid, "cuda", 2)["peak_gib"] > 0


def test_the_benchmark_runs_without_a_gpu(tmp_path):
    folder = write_planted(tmp_path)
    trainer, train, valid = prepare("MambaRec", folder.name, str(tmp_path), "cpu", **SETTINGS)
    assert not waits(trainer, train, "cpu")
    figures = measure(trainer, train, valid, "cpu", 2)
    assert figures["step_ms"] > 0 and figures["gb_per_s"] > 0 and figures["epoch_s"] > 0
    assert not difference_to_cpu("MambaRec", folder.name, str(tmp_path), "cpu").draws


def test_models_that_draw_are_compared_by_their_scores(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("recbole_mambarec.registry.built_in", lambda: ("VBPR", "SELFCFED_LGN"))
    rows = check_every(300, "cpu", str(tmp_path))
    assert rows["SELFCFED_LGN"]["draws"] and rows["SELFCFED_LGN"]["where"] == "scores"
    assert not rows["VBPR"]["draws"] and rows["VBPR"]["largest"] == 0 and rows["VBPR"]["step_ms"] > 0
    assert "SELFCFED_LGN" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_there_is_a_message(monkeypatch):
    monkeypatch.setattr("sys.argv", ["gpu"])
    with pytest.raises(UserError, match="no CUDA device is visible: run this where there is one"):
        main()
