"""run_hyper.py as a user types it; the trials are real trainings in their own processes.

Tests of processes themselves, which start from nothing, are in test_processes.py.
"""

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from recbole_mambarec.cli import run_recbole
from recbole_mambarec.errors import UserError, run_main
from recbole_mambarec.experiments import hyper, processes, store
from recbole_mambarec.experiments.hyper import main
from recbole_mambarec.experiments.plan import resolve
from recbole_mambarec.experiments.trial import evaluate, trial
from recbole_mambarec.testing.planted import QUICK, write_planted
from recbole_mambarec_common.files import locked
from tests import warm
from tests.helpers import posix

pytest.importorskip("hyperopt")
ROOT = Path(__file__).resolve().parents[2]
HARD = {"users_per_group": 6, "items_per_group": 24}


@pytest.fixture(autouse=True)
def _processes(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(processes, "_CONTEXT", warm.server())


def arguments(tmp_path, *more: str, space: str | None = None, **overrides) -> list[str]:
    write_planted(tmp_path, **HARD)
    if space is not None:
        (tmp_path / "mine.hyper").write_text(space)
        more = (*more, f"--params_file={tmp_path / 'mine.hyper'}")
    values = QUICK | {"data_path": tmp_path, "epochs": 2, "embedding_size": 4} | overrides
    return ["--dataset=planted", *more, *(f"--{key}={value}" for key, value in values.items())]


def run_command(monkeypatch, *options: str) -> int:
    monkeypatch.setattr("sys.argv", ["run_hyper.py", *options])
    with pytest.raises(SystemExit) as stop:
        run_main(main)
    return stop.value.code


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Sums are rounded differently with more threads; the trials take their number from the environment."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_a_search_from_the_command_line(tmp_path, monkeypatch, capsys):
    """Two trials at once in fresh processes, the test of the better one, and a run with its file."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = arguments(
        tmp_path, "--model=MambaRec", "--jobs=2", "--write-best=mine/best.yaml", space="n_mm_layers choice [0, 1]\n"
    )
    assert run_command(monkeypatch, *options) == 0
    out = capsys.readouterr().out
    assert len(re.findall(r"^trial \d of 2: n_mm_layers=\d: Recall@20 0\.\d{4} after epoch \d of 2", out, re.M)) == 2
    (folder,) = Path("tuning").iterdir()
    trials = store.read(folder / "trials.jsonl")
    (chosen,) = store.read(folder / "chosen.jsonl")
    assert [t.test for t in trials] == [{}, {}]
    assert chosen.score == max(t.score for t in trials) and set(chosen.test) == {"train", "train+valid"}
    assert trials[0].memory_gib > 0.1 and len(trials[0].curve) == 2
    assert not (folder / "running").exists()
    # the run that picks up the file is the chosen trial
    assert Path("mine/best.yaml").read_text(encoding="utf-8") == (folder / "best.yaml").read_text()
    written = yaml.safe_load(Path("mine/best.yaml").read_text(encoding="utf-8"))
    assert written["model"] == "MambaRec" and written["dataset"] == "planted" and written["epochs"] == 2
    assert written["n_mm_layers"] == chosen.point["n_mm_layers"]
    monkeypatch.setattr("sys.argv", ["run_recbole.py", "--config_files=mine/best.yaml", f"--data_path={tmp_path}"])
    with one_thread():
        run_recbole()
    valid, test = (
        dict(re.findall(r"(\S+@\d+): (\d\.\d+)", line)) for line in capsys.readouterr().out.splitlines()[-2:]
    )
    assert valid == {name: f"{value:.4f}" for name, value in chosen.valid.items()}
    assert test == {name: f"{value:.4f}" for name, value in chosen.test["train+valid"].items()}
    # again: nothing is trained, nothing is tested
    before = (folder / "chosen.jsonl").read_bytes(), (folder / "trials.jsonl").read_bytes()
    monkeypatch.setattr(hyper, "call_apart", None)
    assert run_command(monkeypatch, *options) == 0
    assert "2 are already recorded" in capsys.readouterr().out
    assert before == ((folder / "chosen.jsonl").read_bytes(), (folder / "trials.jsonl").read_bytes())


@pytest.mark.parametrize("model", ["MambaRec", "BPR", "ItemKNN"])
def test_the_weights_of_a_trial_give_the_scores_of_its_run(tmp_path, model):
    """Also for RecBole's own models, whose checkpoints other processes may not load."""
    write_planted(tmp_path, **HARD)
    overrides = {"data_path": str(tmp_path), "epochs": 2, "show_progress": False, "checkpoint_dir": "running"}
    run = resolve(model, "planted", overrides=overrides)
    reports = []
    record = trial(run, Path("kept/weights.pth"), reports.append)
    assert [r["entry"]["epoch"] for r in reports] == [0, 1][: len(reports)] and reports[-1]["memory_gib"] > 0
    assert not run.checkpoint.exists() and record.test == {}
    if model == "ItemKNN":  # a sparse matrix is more than tensors: such a model is trained again
        assert not list(Path("kept").iterdir())
        return
    from recbole_mambarec.experiments.run import execute

    scores = evaluate(run, Path("kept/weights.pth"), reports.append)
    whole = execute(run, "runs.jsonl", per_user=False)
    assert scores == whole.test and record.valid == whole.valid


def test_without_the_weights_the_best_trial_is_trained_again(tmp_path, monkeypatch, capsys):
    options = arguments(tmp_path, "--model=BPR", space="weight_decay choice [0.001]\n")
    assert run_command(monkeypatch, *options) == 0
    (folder,) = Path("tuning").iterdir()
    (first,) = store.read(folder / "chosen.jsonl")
    (folder / "chosen.jsonl").unlink()
    for file in folder.glob("*.pth"):
        file.unlink()
    assert run_command(monkeypatch, *options) == 0
    assert "it is trained again, then tested" in capsys.readouterr().out
    (second,) = store.read(folder / "chosen.jsonl")
    assert second.test == first.test and second.valid == first.valid


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--params_file=none.hyper"], "params file 'none.hyper' not found"),
        (["--model=BPR"], "no search space comes with BPR"),
        (["--algo=grid"], "search algorithm 'grid' is unknown: use one of exhaustive, random, bayes"),
        (["--tool=optuna"], "tool 'optuna' is unknown: use one of hyperopt, ray"),
        (["--jobs=0"], "jobs must be a whole number from 1, got 0"),
        (["--max_evals=-1"], "max_evals must be a whole number from 1"),
        (["--early_stop=-2"], "early_stop must be a whole number from 1"),
        (["--mmd_weight=0.1"], "mmd_weight is both set and tuned"),
        (["--nproc=2"], "nproc cannot be given here"),
        (["--resume_from=old.pth"], "resume_from cannot be given here"),
        (["--model=MambaReq"], "did you mean MambaRec"),
        (["--modalities"], "argument '--modalities' is not understood"),
        (["--write_best=/proc/best.yaml"], "/proc/best.yaml"),
        (["--output_file=."], "Is a directory: ."),
    ],
)
def test_a_mistake_gets_one_sentence_and_status_2(tmp_path, monkeypatch, capsys, options, sentence):
    assert run_command(monkeypatch, *options, *arguments(tmp_path)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert sentence in line
    assert not Path("tuning").exists()


def test_a_mistake_that_only_a_trial_notices_is_explained(tmp_path, monkeypatch, capsys):
    options = arguments(tmp_path, space="variant choice ['best']\n")
    assert run_command(monkeypatch, *options) == 2
    captured = capsys.readouterr()
    assert "failed: variant 'best' is unknown: use one of released, paper" in captured.out
    assert "error: none of 1 trials has finished: variant 'best' is unknown" in captured.err
    (folder,) = Path("tuning").iterdir()
    assert not (folder / "chosen.jsonl").exists() and not (folder / "best.yaml").exists()


def test_a_search_of_another_process_is_refused(tmp_path):
    write_planted(tmp_path)
    overrides = QUICK | {"data_path": str(tmp_path)}
    folder = Path("tuning") / f"MambaRec-planted-{resolve('MambaRec', 'planted', overrides=overrides).key[:8]}"
    folder.mkdir(parents=True)
    with (
        open(folder / "lock", "ab") as stream,
        locked(stream),
        pytest.raises(UserError, match="another process is running this search"),
    ):
        hyper.tune("MambaRec", "planted", overrides)


def stopped(command: list[str], how: signal.Signals, when) -> tuple[int, str]:
    """Start the script and send it a signal when ``when()`` is true; returns its exit status and output."""
    process = warm.Python(*command)
    try:
        wait_for(when, process)
    finally:
        os.kill(process.pid, how)
    return process.wait(120), process.output()


@posix
def test_a_killed_search_continues(tmp_path):
    """The script is killed during its second trial, which then continues from its checkpoint."""
    options = arguments(tmp_path, space="n_mm_layers choice [0, 1]\n", epochs=30, embedding_size=8, stopping_step=100)
    command = [str(ROOT / "run_hyper.py"), *options]
    _, output = stopped(command, signal.SIGKILL, checkpoint_of_second_trial)
    assert "Traceback" not in output
    (folder,) = Path("tuning").iterdir()
    assert [t.point for t in store.read(folder / "trials.jsonl")] == [{"n_mm_layers": 0}]
    finished = (folder / "trials.jsonl").read_text().splitlines()[0]
    again = warm.python(*command)
    assert again.returncode == 0, again.stderr[-2000:]
    assert "1 are already recorded" in again.stdout and "trial 2 of 2: n_mm_layers=1" in again.stdout
    lines = (folder / "trials.jsonl").read_text().splitlines()
    assert lines[0] == finished and json.loads(lines[1])["epochs"] == 30
    log = (folder / "logs" / f"{json.loads(lines[1])['key'][:16]}.log").read_text()
    assert "Resume training from epoch" in log


@posix
def test_an_interrupted_search_says_how_to_continue(tmp_path):
    options = arguments(tmp_path, space="n_mm_layers choice [0, 1]\n", epochs=1000, stopping_step=1000)
    command = [str(ROOT / "run_hyper.py"), *options]
    status, output = stopped(command, signal.SIGTERM, lambda: list(Path("tuning").glob("*/running/*.pth")))
    assert status == 130 and "the same command continues" in output and "Traceback" not in output


def checkpoint_of_second_trial() -> bool:
    folders = list(Path("tuning").glob("*"))
    if not folders or not (folders[0] / "trials.jsonl").exists():
        return False
    return bool(list((folders[0] / "running").glob("*.pth")))


def wait_for(condition, process, seconds: float = 900) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
