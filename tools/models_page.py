"""A card of every model: ``python -m tools.models_page`` writes docs/models.md and the README's column of parity.

Everything is taken from where it is kept: docstrings, YAML files, published scores, and the records of what was
measured. What was not measured stays blank.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import NamedTuple

from recbole.utils import get_model

from recbole_mambarec import registry
from recbole_mambarec.models import cold
from recbole_mambarec.report import load, published
from recbole_mambarec.testing.data import model_config, random_dataset
from tools.markdown import from_docstring, table

ROOT = Path(__file__).resolve().parents[1]
PAGE, README = ROOT / "docs" / "models.md", ROOT / "README.md"
RESULTS = ROOT / "results"
PARITY, COST = RESULTS / "parity.json", RESULTS / "models.md"
RUNS = RESULTS / "runs.jsonl", RESULTS / "lfm2k.jsonl"
#: scores of a card, and the mask under which tables are published
METRICS, MASK = ("recall@10", "recall@20", "ndcg@10", "ndcg@20"), "train"

_HEAD = """\
# Models

A card of every model of this package: what it does, the code that it is held against, its keys, what it costs and how
well it ranks. `python -m tools.models_page` writes this page from the docstrings, the YAML files and the records of
measurements; the tests compare. What was not measured is blank.

* **Parity**: the largest error of any array against golden numbers, as a share of the tolerance
  ([their origin](../tests/parity/fixtures/README.md); `python -m tests.parity --json results/parity.json`).
* **Cost**: a training step at Amazon Baby's size, on random data, under the conditions of
  [results/models.md](../results/models.md).
* **Accuracy**: test split, validation items ranked as in published tables; means over seeds. Measured scores are those
  of [results/runs.jsonl](../results/runs.jsonl) and [results/lfm2k.jsonl](../results/lfm2k.jsonl); on baby with
  stand-ins for the public features ([results/amazon-baby.md](../results/amazon-baby.md)), on lfm2k with real ones
  ([results/lfm2k.md](../results/lfm2k.md)).
* **New items**: how the model can score items without training interactions
  ([Recommending items nobody has bought yet](new-items.md)).
* **Citation**: please cite the paper of the model, RecBole and this package ([CITATION.cff](../CITATION.cff)).

"""


class Key(NamedTuple):
    """A configuration key of a model."""

    name: str
    default: str
    kind: str
    meaning: str


def page() -> str:
    """The page, Markdown."""
    records = Records()
    names = registry.built_in()
    index = [
        (f"[{name}](#{name.lower()})", paper(name).removeprefix(f"{name}, "), parity(name, records.parity))
        for name in names
    ]
    return _HEAD + table(("Model", "Paper", "Parity"), index) + "".join(_card(name, records) for name in names)


def readme(text: str) -> str:
    """The README with today's parity in its table of models."""
    files = Records().parity
    head, title, rest = text.partition("\n## Models\n")
    rows = []
    for line in rest.split("\n"):
        cells = line.split(" | ")
        name = cells[0].removeprefix("| ")
        if len(cells) == 5 and name in registry.built_in():
            cells[3] = re.sub(r"^(none|<?[\d.]*)", parity(name, files), cells[3])
        rows.append(" | ".join(cells))
    return head + title + "\n".join(rows)


class Records:
    """What was measured and published, by model."""

    def __init__(self) -> None:
        self.parity: dict[str, dict] = json.loads(PARITY.read_text(encoding="utf-8"))["files"]
        self.cost = _costs(COST.read_text(encoding="utf-8"))
        self.rows = load.read(RUNS).comparison(load.COMPARISON)
        folder = next(entry.published for entry in registry.entries().values() if entry.published)
        self.datasets = [file.stem for file in sorted(folder.glob("*.yaml"))]
        self.published = {dataset: published.read(dataset, MASK) for dataset in self.datasets}


def paper(model: str) -> str:
    """The first paragraph of a model's docstring, with links."""
    text = " ".join(_docstring(model)[0].split())
    text = re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)
    return re.sub(r"doi (10\.[^\s)]+)", r"[doi \1](https://doi.org/\1)", text)


def parity(model: str, files: dict[str, dict]) -> str:
    """The largest error of all files of a model, two digits; ``none`` for a model of our own, which has no files."""
    errors = [file["largest_error"] for file in files.values() if file["model"] == model]
    if not errors:
        return "none"
    largest = max(errors)
    return f"{largest:.2f}" if largest >= 0.005 else "<0.01"


def keys(model: str) -> tuple[str, list[Key]]:
    """The comment at the top of a model's YAML file, and its keys."""
    comment, found = [], []
    for line in registry.entry(model).defaults.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            comment.append(line.removeprefix("#").strip())
        elif match := re.fullmatch(r"(\w+):\s+(.*?)\s+# \(([^)]+)\) (.+)", line):
            found.append(Key(*match.groups()))
        elif line.strip():
            raise ValueError(f"{registry.entry(model).defaults}: '{line}' is not `key: value  # (type) meaning`")
    return " ".join(comment), found


def _card(model: str, records: Records) -> str:
    comment, settings = keys(model)
    body = from_docstring("\n\n".join(_docstring(model)[1:]))
    parts = [f"\n## {model}\n", paper(model) + "\n", body + "\n"]
    forms = next((key.meaning for key in settings if key.name == "variant"), None)
    if forms:
        parts.append(f"**Forms**, key `variant`: {forms}\n")
    parts.append(_new_items(model))
    parts.append(_parity(model, records.parity))
    parts.append(_accuracy(model, records))
    if model in records.cost:
        parts.append("**Cost**\n\n" + table(*records.cost[model]))
    else:
        parts.append("**Cost**: not measured yet.\n")
    entry = registry.entry(model)
    files = {"defaults": entry.defaults, "search space": entry.search_space, "presets": entry.presets}
    links = ", ".join(f"[{what}](../{file.relative_to(ROOT).as_posix()})" for what, file in files.items() if file)
    rows = [(f"`{key.name}`", f"`{key.default}`", _cell(f"{key.kind}: {key.meaning}")) for key in settings]
    listed = table(("Key", "Default", "Meaning"), rows)
    parts.append(f"**Keys**: {comment} Files: {links}.\n")
    parts.append(f"<details><summary>{len(rows)} keys</summary>\n\n{listed}\n</details>\n")
    return "\n".join(parts)


def _new_items(model: str) -> str:
    """What the model supports of the key ``cold_items``, found on random data."""
    config = model_config(model)
    data = random_dataset(dims={} if config["modalities"] == [] else None)
    made = get_model(model)(config, data)
    reason = cold.obstacle(made, made.data)
    if reason is None:
        return f"**New items**: `cold_items` can be {', '.join(f'`{choice}`' for choice in cold.COLD_ITEMS)}.\n"
    return f"**New items**: `cold_items` can only be `id`, because the model {reason}.\n"


def _parity(model: str, files: dict[str, dict]) -> str:
    rows = []
    for name, file in files.items():
        if file["model"] == model:
            repository, _, commit = file["reference"].partition("@")
            link = f"[{repository}](https://github.com/{repository}/tree/{commit})"
            rows.append((name, link, str(file["arrays"]), f"{file['largest_error']:.3g}"))
    if not rows:
        return "**Parity**: there is no published code; the tests compare with the plain formula in float64.\n"
    return "**Parity**\n\n" + table(("Golden numbers", "Computed by", "Arrays", "Largest error"), rows)


def _accuracy(model: str, records: Records) -> str:
    measured = [row for row in records.rows if row.model == model]
    rows = []
    for dataset in sorted({*records.datasets, *(row.dataset for row in measured)}):
        for row in (row for row in measured if row.dataset == dataset):
            means = {metric: load.mean(row.test(MASK, metric)) for metric in METRICS}
            rows.append([dataset, f"measured: {_cell(row.label)}", str(len(row.records)), *_scores(means)])
        if given := records.published.get(dataset, {}).get(model):
            rows.append([dataset, f"published: {_cell(given.source)}", "", *_scores(given.scores)])
    if not rows:
        return "**Accuracy**: neither measured nor published on these data.\n"
    return "**Accuracy**\n\n" + table(("Dataset", "Scores", "Seeds", *METRICS), rows)


def _scores(scores: dict[str, float | None]) -> list[str]:
    return ["" if scores.get(metric) is None else f"{scores[metric]:.4f}" for metric in METRICS]


def _costs(text: str) -> dict[str, tuple[list[str], list[list[str]]]]:
    """Header and row of each model in the table of results/models.md."""
    found: dict[str, tuple[list[str], list[list[str]]]] = {}
    header = None
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if cells and cells[0] == "model":
            header = cells[1:]
        elif header and len(cells) == len(header) + 1 and not cells[0].startswith("-"):
            found.setdefault(cells[0], (header, [cells[1:]]))
        elif not cells:
            header = None
    return found


def _docstring(model: str) -> list[str]:
    """Paragraphs of the docstring of a model's class."""
    return (inspect.getdoc(get_model(model)) or "").split("\n\n")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    README.write_text(readme(README.read_text(encoding="utf-8")), encoding="utf-8")
