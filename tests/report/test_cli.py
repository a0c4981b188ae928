"""The command line, on files like those of many runs."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments import store
from recbole_mambarec.experiments.group import read_group
from recbole_mambarec.report import cli, load, provenance
from recbole_mambarec.report.cli import main
from tests import warm
from tests.report.synthetic import Synthetic, everything

ROOT = Path(__file__).resolve().parents[2]


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_report_has_all_its_files_and_nothing_is_left_out(report):
    names = set(contents(report))
    assert {"index.html", "report.md", "tables.tex"} < names
    charts = {name for name in names if name.startswith("charts/")}
    svg, png = ({name[:-4] for name in charts if name.endswith(kind)} for kind in (".svg", ".png"))
    assert svg == png
    text = (report / "report.md").read_text()
    assert "## Left out" not in text
    for title in ("Main results", "Improvements", "Significance", "Learning curves", "Accuracy and cost", "Ablation"):
        assert f"## {title}\n" in text
    for name in (name for name in charts if name.endswith(".png")):
        assert f"]({name})" in text
    assert "Failed: GRCN on baby, seed 999: the process of the run was killed" in text
    assert "recbole\\_mambarec compare" not in text and "python -m recbole_mambarec compare --models=BPR," in text


def test_the_same_records_give_the_same_bytes(files, report, tmp_path):
    # in a process with other hash seeds and another time zone
    environment = os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "recbole_mambarec.report", *files, "--out", str(tmp_path / report.name)]
    subprocess.run(command, check=True, env=environment, cwd=tmp_path, capture_output=True)
    again, before = contents(tmp_path / report.name), contents(report)
    assert again.keys() == before.keys()
    assert [name for name in before if again[name] != before[name]] == []


def test_sections_without_data_are_listed_with_the_reason(tmp_path, capsys):
    made = Synthetic(tmp_path, users=0.05, bare=True)
    made.comparison(["BPR"], ["baby"], [999])
    assert main([str(made.runs), "--out", "out"]) == 0
    page, shown = Path("out/index.html").read_text(encoding="utf-8"), capsys.readouterr().out
    reasons = {
        "Beyond accuracy": "the key beyond_accuracy adds",
        "Improvements": "there is only one model",
        "Significance": "there is only one model",
        "Learning curves": "no record holds the validation scores of its epochs",
        "Users and items": "Left out on baby: BPR, without results per user",
        "Ablation": "no group of runs has variants of one model",
        "Hyper-parameter sensitivity": "there is no record of a search",
    }
    for title, reason in reasons.items():
        assert f"<dt>{title}</dt>" in page and f"left out: {title}: " in shown
        assert reason in page and reason in shown
    assert "<img" not in page and contents(Path("out")).keys() == {"index.html", "report.md", "tables.tex"}


def test_charts_of_an_earlier_report_are_removed_and_other_files_kept(files, tmp_path):
    assert main([*files, "--out", "out", "--sections=ablation,sensitivity"]) == 0
    first = {path.name for path in Path("out/charts").iterdir()}
    Path("out/charts/mine.png").write_bytes(b"x")
    Path("out/notes.txt").write_text("mine", encoding="utf-8")
    assert main([*files, "--out", "out", "--sections=sensitivity", "--dataset=sports"]) == 0
    second = {path.name for path in Path("out/charts").iterdir()} - {"mine.png"}
    assert second < first and {name.split("-")[0] for name in second} == {"sweep"}
    assert Path("out/notes.txt").exists() and Path("out/charts/mine.png").exists()


def test_options_choose_mask_metrics_reference_and_title(files):
    options = ["--mask=train+valid", "--metrics=ndcg@20", "--reference=BPR", "--title=Table 2", "--published=False"]
    assert main([*files, "--out", "out", "--sections=main,improvements", *options]) == 0
    text = Path("out/report.md").read_text(encoding="utf-8")
    assert text.startswith("# Table 2\n") and "recall@20" not in text and ", published" not in text
    assert "mask: train+valid" in text and "Relative difference from BPR" in text and "| reference |" in text


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--reference=FOO"], "--reference=FOO is not in the main table: it has LightGCN, BPR"),
        (["--metrics=mrr@3"], "no record has the metric 'mrr@3'"),
        (["--dataset=toys"], "no runs on 'toys' in these records: there are some on baby, sports"),
        (["--group=foo"], "no group 'foo'"),
        (["--sections=mian"], "no section 'mian': there are main"),
        (["--page=x.md"], "a page is about one dataset, and there are runs on baby, sports"),
        (["--page=x.md", "--out=y"], "give one of them"),
        (["--notes=n.md"], "--notes needs --page"),
        (["--page=x.md", "--dataset=baby", "--notes=n.md"], "notes n.md cannot be read"),
    ],
)
def test_impossible_options_are_explained_and_nothing_is_written(files, options, sentence):
    with pytest.raises(UserError, match=sentence):
        main([*files, *options])
    assert contents(Path()) == {}


def test_wrong_input_gives_one_sentence_and_no_traceback(tmp_path):
    Path("table.csv").write_text("a,b\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"line 1 of table.csv is not JSON"):
        main(["table.csv"])
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = warm.python("-m", "recbole_mambarec.report", "absent.jsonl", env=environment)
    assert done.returncode == 2 and done.stderr.startswith("error: there is no file of runs absent.jsonl")
    assert "Traceback" not in done.stderr


def test_a_folder_that_cannot_be_written_is_reported(files):
    Path("out").write_text("a file", encoding="utf-8")
    with pytest.raises(UserError, match=r"out/.* cannot be written"):
        main([*files, "--out", "out", "--sections=sensitivity"])


def test_an_interrupt_keeps_the_earlier_page(files, monkeypatch):
    assert main([*files, "--out", "out", "--sections=sensitivity"]) == 0
    before = Path("out/index.html").read_bytes()

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.page, "render", interrupt)
    with pytest.raises(KeyboardInterrupt):
        main([*files, "--out", "out", "--sections=ablation"])
    assert Path("out/index.html").read_bytes() == before and "Ablation" not in Path("out/report.md").read_text(
        encoding="utf-8"
    )


def test_the_page_of_a_dataset(files):
    notes = Path("results/notes/amazon-baby.md")
    notes.parent.mkdir(parents=True)
    notes.write_text(
        "# Amazon Baby\n\n**Features** are *stand-ins*.\n\n<!-- tables -->\n\nSeen by hand.\n", encoding="utf-8"
    )
    assert main([*files, "--page=results/amazon-baby.md", "--dataset=baby"]) == 0
    text = Path("results/amazon-baby.md").read_text(encoding="utf-8")
    assert text.startswith("<!-- Written by `python -m recbole_mambarec.report runs.jsonl trials.jsonl --page=")
    assert "# Amazon Baby\n\n**Features** are *stand-ins*." in text and text.endswith("\n\nSeen by hand.\n")
    assert "| *MambaRec, published* |  | *0.0660* | *0.1013* | *0.0363* | *0.0454* |" in text
    assert "(mask: train)" in text and "(mask: train+valid)" in text and "million parameters" in text
    assert "sports" not in text.replace("baby,sports", "") and "![" not in text
    assert contents(Path("results")).keys() == {"amazon-baby.md", "notes/amazon-baby.md"}


def test_the_page_needs_neither_notes_nor_matplotlib(tmp_path, monkeypatch):
    made = Synthetic(tmp_path, users=0.05)
    made.comparison(["BPR", "MambaRec"], ["baby"], [999])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.style", None)
    assert main([str(made.runs), "--page=baby.md"]) == 0
    assert "# baby\n" in Path("baby.md").read_text(encoding="utf-8")
    with pytest.raises(UserError, match=r"pip install \"recbole-mambarec\[report\]\""):
        main([str(made.runs), "--out=out"])


def test_without_results_per_user_the_report_compares_seeds(tmp_path):
    made = Synthetic(tmp_path / "runs", users=0.05)
    made.comparison(["BPR", "MambaRec"], ["baby"])
    for path in (tmp_path / "runs" / "per_user").iterdir():
        path.unlink()
    assert main([str(made.runs), "--out=out"]) == 0
    text = Path("out/report.md").read_text(encoding="utf-8")
    assert "paired by seed (n = 3: 999, 1000, 1001)" in text and "paired by user" not in text
    assert "results per user not found: there is no file per\\_user/" in text
    assert str(tmp_path) not in text


# ------------------------------------------------------------------------------------------------------------
# commands


def test_the_commands_repeat_the_same_runs(files, tmp_path):
    runs = load.read(files)
    comparison, grid = runs.comparison(), runs.ablations()["grid"]
    traced = provenance.trace([*comparison, *runs.ablations()["mambarec-ablation"], *grid, *load.rows(runs.trials)])
    commands = dict(traced.commands)
    models = "BPR,LightGCN,VBPR,FREEDOM,MGCN,LGMRec,CRANE,MambaRec"
    script, seeds = "python -m recbole_mambarec compare", "--seeds=999,1000,1001"
    assert commands["C1"] == f"{script} --models={models} --datasets=baby,sports {seeds}"
    assert commands["C2"] == f"{script} --group=mambarec-ablation --dataset=baby {seeds}"
    line, _, *tried = commands["C4"].splitlines()
    assert line == "python -m recbole_mambarec tune --model=MambaRec --dataset=sports"
    assert tried[0] == "#   mmd_weight: 0.05, 0.1, 0.2"  # none of the shipped space
    line, _, *file = commands["C3"].splitlines()
    assert line == f"{script} --group=grid.yaml --dataset=baby"
    path = tmp_path / "grid.yaml"
    path.write_text("\n".join(text.removeprefix("# ") for text in file))
    name, lines = read_group(str(path))
    assert name == "grid" and lines == {row.label: ("MambaRec", row.records[0].overrides) for row in grid}
    assert traced.of(comparison[:1]).startswith("Command C1; data baby ")


def test_overrides_and_single_seeds_are_in_the_command(tmp_path):
    made = Synthetic(tmp_path, users=0.05, bare=True)
    made.add("BPR", "baby", 7, 0.1, overrides={"modalities": ["image"], "epochs": 3})
    made.add("VBPR", "baby", 7, 0.1, "VBPR", overrides={"modalities": ["image"], "epochs": 3})
    rows = load.rows(store.read(made.runs))
    ((_, command),) = provenance.trace(rows).commands
    options = "--dataset=baby --seeds=7, --epochs=3 '--modalities=['\"'\"'image'\"'\"']'"
    assert command == f"python -m recbole_mambarec compare --models=BPR,VBPR {options}"
    made.add("BPR", "baby", 999, 0.1, "BPR (paper)", overrides={"variant": "paper"})
    _, (_, command) = provenance.trace(load.rows(store.read(made.runs))).commands
    assert command == "python -m recbole_mambarec compare --models=BPR --dataset=baby --label=paper --variant=paper"


def test_a_search_of_the_shipped_space_needs_no_note(tmp_path):
    rows = load.rows(load.read(everything(tmp_path, users=0.03)).trials)
    point = {"point": {"mmd_weight": 0.1, "mmd_bandwidth": 2}}
    shipped = [replace(row, records=tuple(replace(record, **point) for record in row.records)) for row in rows[:1]]
    ((_, command),) = provenance.trace(shipped).commands
    assert (
        command.startswith("python -m recbole_mambarec tune --model=MambaRec --dataset=sports") and "\n" not in command
    )


def test_synthetic_files_are_records(tmp_path):
    for path in everything(tmp_path, users=0.03):
        assert store.read(path)


def test_a_chosen_group_comes_without_the_grids_of_other_groups(files):
    other = [
        replace(record, key=f"{record.key}2", model="FREEDOM", group="other grid")
        for record in store.read(files[0])
        if record.group == "grid"
    ]
    for record in other:
        store.append("other.jsonl", record)
    for group, models in ((None, {"MambaRec", "FREEDOM"}), ("grid", {"MambaRec"}), ("other grid", {"FREEDOM"})):
        given = ["--sections=sensitivity"] + ([] if group is None else [f"--group={group}"])
        assert main([files[0], "other.jsonl", "--page=page.md", "--dataset=baby", *given]) == 0
        page = Path("page.md").read_text(encoding="utf-8")
        assert {model for model in ("MambaRec", "FREEDOM") if f"**{model} on baby by" in page} == models
