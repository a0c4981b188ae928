"""The command line as a user types it."""

import os
import sys
from pathlib import Path

import pytest

from recbole_mambarec.cli import run_recbole
from recbole_mambarec.errors import UserError, run_main
from recbole_mambarec.testing.planted import QUICK, write_planted
from tests import warm

ROOT = Path(__file__).resolve().parents[1]


def run_command(monkeypatch, *arguments):
    """Run the command in this process, as ``python run_recbole.py ARGUMENTS`` does; returns the exit status."""
    monkeypatch.setattr("sys.argv", ["run_recbole.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        run_main(run_recbole)
    return stop.value.code


def quick(tmp_path, **overrides):
    values = QUICK | {"data_path": tmp_path, "epochs": 1} | overrides
    return [f"--{key}={value}" for key, value in values.items()]


def test_a_run_prints_the_scores_at_the_end(tmp_path, monkeypatch, capsys):
    write_planted(tmp_path)
    assert run_command(monkeypatch, "--model=MambaRec", "--dataset=planted", *quick(tmp_path)) == 0
    last = capsys.readouterr().out.strip().splitlines()[-2:]
    assert last[0].startswith("best valid result") and last[1].startswith("test result")
    assert "recall@20: " in last[1]


def test_options_may_be_separated_by_blanks_and_files_name_model_and_dataset(tmp_path, monkeypatch):
    write_planted(tmp_path)
    file = tmp_path / "mine.yaml"
    file.write_text("model: BPR\ndataset: planted\nembedding_size: 8\n")
    settings = [s for s in quick(tmp_path) if "embedding_size" not in s and "knn_k" not in s]
    assert run_command(monkeypatch, "--config_files", str(file), *settings) == 0
    assert list(Path("saved").glob("BPR-*.pth"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--dataset=nowhere"], "dataset 'nowhere' not found"),
        (["--model=MambaReq", "--dataset=planted"], "did you mean MambaRec"),
        (["--dataset=planted", "--learnin_rate=0.1"], "did you mean 'learning_rate'"),
        (["--dataset=planted", "--modalities=video"], "no modality 'video'"),
        (["--dataset=planted", "epochs=3"], "argument 'epochs=3' is not understood"),
        (["--dataset=planted", "--epochs"], "argument '--epochs' is not understood"),
        (["--dataset=planted", "--epochs=1", "--epochs=1"], "--epochs is given more than once"),
        (["--config_files=none.yaml"], "configuration file 'none.yaml' not found"),
        (["--dataset=planted", "--variant=best"], "variant 'best' is unknown"),
        (["--dataset=planted", "--resume_from=old.pth"], "checkpoint old.pth not found"),
    ],
)
def test_a_mistake_gets_one_sentence_and_status_2(tmp_path, monkeypatch, capsys, arguments, sentence):
    write_planted(tmp_path)
    values = [v for v in quick(tmp_path) if v.split("=")[0] not in {a.split("=")[0] for a in arguments}]
    assert run_command(monkeypatch, *arguments, *values) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert sentence in line
    assert not list(Path(".").glob("saved/*.pth"))


def test_a_configuration_file_that_is_no_mapping(tmp_path, monkeypatch, capsys):
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    assert run_command(monkeypatch, f"--config_files={tmp_path / 'list.yaml'}") == 2
    assert "not a YAML mapping" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        ("nproc: 2\nport: 5701\n", [], {"nproc": 2, "port": 5701}),
        ("nproc: 2\nworld_size: 4\ngroup_offset: 2\n", ["--nproc=3"], {"nproc": 3, "world_size": 4, "group_offset": 2}),
        ("epochs: 1\n", [], {}),
    ],
)
def test_processes_of_a_configuration_file_are_started(tmp_path, monkeypatch, content, options, expected):
    write_planted(tmp_path)
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    started = []
    monkeypatch.setattr("recbole.quick_start.run", lambda *args, **kwargs: started.append(kwargs))
    assert run_command(monkeypatch, "--dataset=planted", f"--config_files={file}", *options, *quick(tmp_path)) == 0
    (given,) = started
    assert {key: value for key, value in given.items() if key != "config_file_list"} == expected


def test_processes_that_cannot_be(tmp_path, monkeypatch, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text("nproc: several\n")
    assert run_command(monkeypatch, f"--config_files={file}") == 2
    assert "nproc must be a whole number from 1" in capsys.readouterr().err


def test_a_mistake_that_only_a_process_notices_is_a_sentence(tmp_path, monkeypatch, capsys):
    write_planted(tmp_path)
    file = tmp_path / "mine.yaml"
    file.write_text("nproc: 2\nport: 5703\n")
    arguments = ["--model=BPR", "--dataset=planted", f"--data_path={tmp_path}", f"--config_files={file}", "--topk=9999"]
    assert run_command(monkeypatch, *arguments, "--valid_metric=Recall@9999", "--show_progress=False") == 2
    assert "topk [9999] asks for more items than" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["LightGBM", "XGBoost", "lightgbm"])
def test_a_model_whose_package_is_not_there(monkeypatch, capsys, model):
    # as if they were not installed; a module that is None cannot be imported
    for name in ("lightgbm", "xgboost"):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, f"recbole.model.exlib_recommender.{name}", raising=False)
    monkeypatch.delitem(sys.modules, "recbole.model.exlib_recommender", raising=False)
    assert run_command(monkeypatch, f"--model={model}", "--dataset=ml-100k") == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {model} needs the packages lightgbm and xgboost, which are not installed: pip inst")


def test_a_package_that_a_model_needs_later(tmp_path, monkeypatch, capsys):
    write_planted(tmp_path)
    monkeypatch.setitem(sys.modules, "networkx", None)
    arguments = ["--model=NNCF", "--neigh_info_method=louvain", "--dataset=planted", *quick(tmp_path)]
    arguments = [a for a in arguments if not a.startswith(("--knn_k", "--embedding_size"))]
    assert run_command(monkeypatch, *arguments) == 2
    assert "NNCF needs the package networkx, which is not installed: pip install networkx" in capsys.readouterr().err


def test_a_file_that_recbole_cannot_parse(tmp_path, monkeypatch, capsys):
    folder = write_planted(tmp_path)
    with open(folder / "planted.train.inter", "a", encoding="utf-8") as stream:
        stream.write('u1\t"i1\n')
    assert run_command(monkeypatch, "--model=BPR", "--dataset=planted", f"--data_path={tmp_path}") == 2
    assert "RecBole cannot read an atomic file" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made(tmp_path, monkeypatch, capsys):
    write_planted(tmp_path)
    (tmp_path / "file").write_text("in the way")
    target = tmp_path / "file" / "saved"
    assert run_command(monkeypatch, "--dataset=planted", f"--checkpoint_dir={target}", *quick(tmp_path)) == 2
    assert "Not a directory" in capsys.readouterr().err


def test_a_number_that_is_none(tmp_path, monkeypatch, capsys):
    folder = write_planted(tmp_path)
    for part in ("train", "valid", "test"):
        path = folder / f"planted.{part}.inter"
        lines = path.read_text().splitlines()
        path.write_text("\n".join([lines[0] + "\trating:float", *(f"{line}\tgood" for line in lines[1:])]) + "\n")
    assert run_command(monkeypatch, "--model=BPR", "--dataset=planted", f"--data_path={tmp_path}") == 2
    assert "Unable to convert column rating:float" in capsys.readouterr().err


def test_run_main():
    def mistake():
        raise UserError("too bad")

    def interrupt():
        raise KeyboardInterrupt

    def defect():
        raise RuntimeError("ours")

    for main, status in ((mistake, 2), (interrupt, 130), (lambda: 1, 1), (lambda: None, 0)):
        with pytest.raises(SystemExit) as stop:
            run_main(main)
        assert stop.value.code == status
    with pytest.raises(RuntimeError, match="ours"):
        run_main(defect)


@pytest.mark.parametrize("script", ["run_recbole.py", "run_hyper.py"])
def test_the_script_itself(tmp_path, script):
    done = warm.python(str(ROOT / script), "--dataset=nowhere", env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: dataset 'nowhere' not found")
