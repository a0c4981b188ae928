"""The cards of the models: ``python -m tools.models_page`` writes docs/models.md and the pages in docs/models/.

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
from tools import bibliography
from tools.markdown import from_docstring, table, with_links

ROOT = Path(__file__).resolve().parents[1]
INDEX, CARDS = ROOT / "docs" / "models.md", ROOT / "docs" / "models"
RESULTS = ROOT / "results"
PARITY, COST = RESULTS / "parity.json", RESULTS / "models.md"
RUNS = RESULTS / "runs.jsonl", RESULTS / "lfm2k.jsonl", RESULTS / "tiktok.jsonl"
#: scores of a card, and the mask under which tables are published
METRICS, MASK = ("recall@10", "recall@20", "ndcg@10", "ndcg@20"), "train"

_HEAD = """\
# Models

Each model has a card: what it does, its formula ([notation](#notation)), how well it ranks, what a training step costs,
its keys, and the published code that it is checked against. To use one, name it: `recbole-mambarec run --model=FREEDOM
--dataset=baby`. RecBole's own models work in the same way and have no card here.

"""

_TAIL = """
* **Computation**: whose computation the model reproduces. Where the published code and the paper differ, the model has
  the key `variant`: `released` is what the code computes, `paper` what the text describes. `released` is the default,
  except for LGMRec, whose published code gives other scores on every call, and for CRANE. CRANE's formulas were not
  available and its released code has none of the paper's parts, so its default is a design of our own within the
  abstract and the figure.
* **Parity**: the largest error of any array against numbers that the published code produced on small data, as a share
  of the tolerance, which is 2e-5 of the array's largest value ([where they come
  from](../tests/parity/fixtures/README.md)). "none": there is no published code, and tests compare the model with its
  plain formula in float64.
* **R@20**: Recall@20 on the test split of Amazon Baby, with validation items ranked as in published tables and features
  that stand in for the public ones ([Amazon Baby](../results/amazon-baby.md)). It is that of the default form, the mean
  where there are several seeds. Blank: not measured.

What was not measured is blank here and on the cards. They are generated, by `python -m tools.models_page`, from the
docstrings, the YAML files and the records of measurements.
"""

# what the formulas in the docstrings have in common
_NOTATION = """
## Notation

The formula on a card gives the final embeddings, or the score, and the loss, with the default settings. All formulas
share these symbols; what else one needs is explained beside it.

Embeddings and features:

* `user`, `item`: final embeddings, a row per user and per item. The score `s(u, i)` is the inner product of two rows.
* `U`, `I`: id embeddings of users and items, which are trained, of width d (`embedding_size`).
* `P_m`: trained embeddings of the users for modality m, their preferences.
* `F_m`, `X_m`: raw features of the items in modality m, and what a linear map to width d makes of them. There
  are `M` modalities.
* `H`: LightGCN's embeddings, `LightGCN([U; I])`. `LightGCN(x)` is the mean of `x`, `A x`, ..., `A^L x`.
* `x_u`, `x_i`: the rows of users and of items in a table x of both; `Z_mu` and `Z_mi` are those of `Z_m`.
* `[a; b]`, `[a | b]`: tables one below the other, and side by side.

Interactions and graphs:

* `R`: training interactions, 0 or 1, a row per user. With `D_u` and `D_i` the degrees of users and items, `D_u^-1 R x`
  gives a user the mean of their items, and `D_i^-1 R^T x` an item the mean of its users.
* `A`: the graph of users and items, `D^-1/2 [0 | R; R^T | 0] D^-1/2`. `A_u` is its block `D_u^-1/2 R D_i^-1/2`, by
  which users receive from their items.
* `S_m`: the graph of each item's `knn_k` nearest neighbours in `F_m`, weighted by cosine and normalised by the roots of
  the row sums on both sides.
* `S`: FREEDOM's item graph, in which all neighbours of an item in a modality weigh the same. It is a mean over the
  modalities, in which `image` has the weight `mm_image_weight`.
* `C`: the user graph. A user receives from the `user_knn_k` users who share most items with them, weighted by the
  softmax of how many they share.
* `L`, `n`: layers over the user-item graph (`n_ui_layers`), and hops over an item graph (`n_mm_layers`).

Functions:

* `W`, `V`, `Q`, `q`, `MLP`: trained maps, which have weights of their own wherever they stand. Biases are not written.
* `a * b`, `a . b`, `cos(a, b)`: product of each coordinate; inner product and cosine of each row. Squares and roots of
  a table are those of its coordinates.
* `|x|`, `unit(x)`: length of a vector, or root of the sum of squares of a table; x with rows of length 1.
* `sigma`, `leaky`, `softmax_m`: sigmoid; leaky ReLU; softmax over m, the modalities.
* `drop(x)`, `sg(x)`: dropout in training; x without gradient.

Losses, over a batch of users u, training items i of theirs and random other items j. Tables in a loss stand for their
rows in the batch, and names with an underscore are keys of the model:

* `BPR`: the mean of `-ln sigma(s(u, i) - s(u, j))`; `BPR(a, b)` has rows of a and b in place of user and item.
* `InfoNCE(a, b)`: the mean of `-ln(e^(cos(a_r, b_r) / t) / sum_q e^(cos(a_r, b_q) / t))`, where t is the `temperature`:
  row r of a should find row r of b among those of the batch.
* `L2(x)`: half the squares of the rows, over `train_batch_size`; `mean(x^2)`: the mean of the squares of all entries.
* `n_items`, `n_batch`: how many items there are, and rows in the batch.
"""

_CITING = """
## Citing

In a publication, cite the paper of each model that you use, RecBole, and this package:

* The card of a model ends with the BibTeX entry of its paper. All entries are in one file, [models.bib](models.bib).
* This package has no paper: [CITATION.cff](../CITATION.cff) says how to cite it.
* RecBole [asks for](https://github.com/RUCAIBox/RecBole#cite) these three papers:

"""

_TOCTREE = """
```{toctree}
:hidden:
:glob:

models/*
```
"""

# columns of results/models.md, in the words of a card
_COSTS = {
    "s to build": "seconds to build the model",
    "CPU s / step": "seconds per training step",
    "step / need": "the same, relative to what the arithmetic of a step needs",
    "CPU s / epoch": "seconds per training epoch",
    "CPU s / evaluation": "seconds per evaluation of all users",
    "peak memory GiB": "peak memory, GiB",
    "trained parameters": "trained parameters",
}

_CONDITIONS = """\
Scores on the test split, with validation items ranked as in published tables; means over seeds. On baby, the features
stand in for the public ones ([Amazon Baby](../../results/amazon-baby.md)); on lfm2k they are real
([Last.fm-2K](../../results/lfm2k.md)).
"""

_PACKAGE = "this package ([CITATION.cff](../../CITATION.cff))"
_RECBOLE = "[RecBole](../models.md#citing)"


class Key(NamedTuple):
    """A configuration key of a model."""

    name: str
    default: str
    kind: str
    meaning: str


def pages() -> dict[Path, str]:
    """Every page that this tool writes, and its text."""
    records = Records()
    names = registry.built_in()
    return {INDEX: _index(names, records)} | {CARDS / f"{name}.md": card(name, records) for name in names}


def _index(names: list[str], records: Records) -> str:
    chosen, _ = load.chosen_by_validation(records.rows, "recall@20", smaller=False)
    # other labels of a model are other forms of it
    mine = [row for row in chosen if row.dataset == "baby" and row.label == row.model]
    scores = {row.model: load.mean(row.test(MASK, "recall@20")) for row in mine}
    rows = []
    for name in sorted(names, key=str.lower):
        title = paper(name).removeprefix(f"{name}, ")
        score = scores.get(name)
        cells = (_computed_by(name, records.parity), parity(name, records.parity), f"{score:.4f}" if score else "")
        rows.append((f"[{name}](models/{name}.md)", title, *cells))
    models = table(("Model", "Paper", "Computation", "Parity", "R@20"), rows)
    recbole = bibliography.block(bibliography.of("RecBole", records.papers))
    return _HEAD + models + _TAIL + _NOTATION + _CITING + recbole + _TOCTREE


def _computed_by(model: str, files: dict[str, dict]) -> str:
    """The repositories whose computation the golden numbers of a model are."""
    found = {file["reference"].partition("@")[0]: None for file in files.values() if file["model"] == model}
    return ", ".join(found) or "our own"


class Records:
    """What was measured and published, by model."""

    def __init__(self) -> None:
        self.parity: dict[str, dict] = json.loads(PARITY.read_text(encoding="utf-8"))["files"]
        self.papers = bibliography.read(bibliography.FILE.read_text(encoding="utf-8"))
        self.cost = costs(COST.read_text(encoding="utf-8"))
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


def card(model: str, records: Records) -> str:
    """The page of one model, Markdown."""
    comment, settings = keys(model)
    prose, formula = _description(model)
    parts = [f"# {model}\n", paper(model) + "\n", prose + "\n"]
    forms = next((key.meaning for key in settings if key.name == "variant"), None)
    if forms:
        parts.append(f"**Forms**, key `variant`: {forms}\n")
    parts.append(_new_items(model))
    if formula:
        parts.append(f"## Formula\n\nThe symbols are [the same on all cards](../models.md#notation).\n\n{formula}\n")
    parts.append(_accuracy(model, records))
    if model in records.cost:
        conditions = "At Amazon Baby's size, on one core of a CPU ([Cost of every model](../../results/models.md)).\n"
        parts.append(f"## Cost\n\n{conditions}\n" + table(("Quantity", "Value"), _cost(*records.cost[model])))
    else:
        parts.append("## Cost\n\nNot measured yet.\n")
    entry = registry.entry(model)
    files = {"defaults": entry.defaults, "search space": entry.search_space, "presets": entry.presets}
    links = ", ".join(f"[{what}](../../{file.relative_to(ROOT).as_posix()})" for what, file in files.items() if file)
    rows = [(f"`{key.name}`", f"`{key.default}`", _cell(f"{key.kind}: {key.meaning}")) for key in settings]
    parts.append(f"## Keys\n\n{comment}\n\n" + table(("Key", "Default", "Meaning"), rows))
    parts.append(f"Files: {links}.\n")
    parts.append(_parity(model, records.parity))
    parts.append(_citation(model, records))
    return "\n".join(parts)


def _description(model: str) -> tuple[str, str]:
    """What the docstring says after its first paragraph, as Markdown: up to the formula, and from there on.

    The formula is the first indented block, with the paragraph that introduces it.
    """
    paragraphs = _docstring(model)[1:]
    formula = next((n for n, text in enumerate(paragraphs) if text.startswith("    ")), len(paragraphs) + 1) - 1
    parts = paragraphs[:formula], paragraphs[formula:]
    prose, rest = (with_links(from_docstring("\n\n".join(part)), "../../") for part in parts)
    return prose, rest


def _new_items(model: str) -> str:
    """What the model supports of the keys ``cold_items`` and ``cold_scale``, found on random data."""
    config = model_config(model)
    data = random_dataset(dims={} if config["modalities"] == [] else None)
    made = get_model(model)(config, data)
    reason = cold.obstacle(made, made.data)
    choices = ", ".join(f"`{choice}`" for choice in cold.COLD_ITEMS)
    ids = f"can be {choices}" if reason is None else f"can only be `id`, because the model {reason}"
    scaled = cold.scale_obstacle(made, made.data) is None
    scale = f"`cold_scale` scales their {made.cold_scale_of}" if scaled else "`cold_scale` has no effect"
    return f"**New items**: `cold_items` {ids}. {scale}.\n"


def _parity(model: str, files: dict[str, dict]) -> str:
    rows = []
    for name, file in files.items():
        if file["model"] == model:
            repository, _, commit = file["reference"].partition("@")
            link = f"[{repository}](https://github.com/{repository}/tree/{commit})"
            rows.append((name, link, str(file["arrays"]), f"{file['largest_error']:.3g}"))
    if not rows:
        return "## Parity\n\nThere is no published code; the tests compare with the plain formula in float64.\n"
    header = ("Golden numbers", "Computed by", "Arrays", "Largest error")
    return "## Parity\n\nErrors are shares of the tolerance.\n\n" + table(header, rows)


def _citation(model: str, records: Records) -> str:
    """How to cite a model: by its paper, or one of our own by this package and the papers on which it stands."""
    papers = bibliography.of(model, records.papers)
    own = "This model is our own and has no paper. Please cite"
    if parity(model, records.parity) != "none":
        text = f"Please cite this paper, {_RECBOLE}, and {_PACKAGE}:"
    elif papers:
        text = f"{own} {_PACKAGE}, {_RECBOLE}, and the papers on which it stands:"
    else:
        text = f"{own} {_PACKAGE} and {_RECBOLE}."
    return f"## Citation\n\n{text}\n" + (f"\n{bibliography.block(papers)}" if papers else "")


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
        return "## Accuracy\n\nNeither measured nor published on these data.\n"
    return f"## Accuracy\n\n{_CONDITIONS}\n" + table(("Dataset", "Scores", "Seeds", *METRICS), rows)


def _scores(scores: dict[str, float | None]) -> list[str]:
    return ["" if scores.get(metric) is None else f"{scores[metric]:.4f}" for metric in METRICS]


def _cost(header: list[str], values: list[str]) -> list[tuple[str, str]]:
    """The columns of a model's row that tell a user what it costs, in words; a closed form takes no steps."""
    found = dict(zip(header, values))
    return [(words, found[column]) for column, words in _COSTS.items() if found.get(column, "0.0") != "0.0"]


def costs(text: str) -> dict[str, tuple[list[str], list[str]]]:
    """Header and row of each model in the first table of results/models.md that has it."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    header = None
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if cells and cells[0] == "model":
            header = cells[1:]
        elif header and len(cells) == len(header) + 1 and not cells[0].startswith("-"):
            found.setdefault(cells[0], (header, cells[1:]))
        elif not cells:
            header = None
    return found


def _docstring(model: str) -> list[str]:
    """Paragraphs of the docstring of a model's class."""
    return (inspect.getdoc(get_model(model)) or "").split("\n\n")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    CARDS.mkdir(exist_ok=True)
    written = pages()
    for stale in set(CARDS.glob("*.md")) - set(written):
        stale.unlink()
    for path, text in written.items():
        path.write_text(text, encoding="utf-8")
