"""Command line of ``recbole-mambarec fuse``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments import store
from recbole_mambarec.experiments.fusion import (
    DEFAULT_NORMALISATION,
    DEFAULT_SEARCH,
    Fused,
    Scores,
    fuse,
)
from recbole_mambarec.experiments.fusion_parts import Part, choose, common_seeds
from recbole_mambarec.experiments.fusion_search import SEARCHES
from recbole_mambarec.experiments.group import DEFAULT_RUNS
from recbole_mambarec.mistakes import user_errors_of_recbole
from recbole_mambarec.scoring.fused import NORMALISATIONS
from recbole_mambarec_command.command_line import example, termination_as_interrupt
from recbole_mambarec_common.terminal import table

EACH = "each"


def main(argv: list[str] | None = None, prog: str = "recbole-mambarec fuse") -> int:
    """Fuse finished runs.

    Raises:
        UserError: an option is faulty, or the runs cannot be fused; nothing has been written by then.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Rank by a weighted sum of the scores of finished runs, with weights found on the validation split "
        "alone. The fusion is evaluated and recorded like a run, and its file can be loaded like a checkpoint.",
        epilog=f"Example: {example(prog)} --models=MambaRec,PGL,EASE --dataset=baby. "
        "Checkpoints that RecBole's own models have written are pickles: set RECBOLE_MAMBAREC_TRUST_CHECKPOINTS=1 if "
        "you trust them.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--models", "-m", help="models or labels of recorded runs, separated by commas; the best of each on validation")
    add("--dataset", "-d", help="the dataset of these runs (default: the only one in the file of runs)")
    add("--seeds", help=f"only runs with these seeds, one fusion for each (1,2,3; '{EACH}': all that the models share)")
    add("--checkpoint_dir", default="saved", help="folder with the checkpoints of recorded runs (default %(default)s)")
    add("--checkpoints", nargs="+", metavar="FILE", help="instead of --models: checkpoint files, recorded or not")
    add("--runs", default=DEFAULT_RUNS, help="file of records, which also gets the fusion's (default %(default)s)")
    add("--out", help="file of the fusion (default: Fusion-<key>.pth beside the first checkpoint)")
    add("--label", help="its name in tables (default 'Fusion: A + B')")
    add(
        "--normalisation",
        choices=list(NORMALISATIONS),
        default=DEFAULT_NORMALISATION,
        help="what is done with each user's scores before they are added: deviations from their mean, "
        "1 / (60 + rank), or nothing (default %(default)s)",
    )
    add("--search", choices=list(SEARCHES), help=f"for weights (default {DEFAULT_SEARCH})")
    add("--metric", help="by which validation chooses the weights (default: the one that chose the epochs)")
    add("--weights", help="weights, separated by commas, instead of a search")
    add("--per_user", choices=("True", "False"), default="True", help="keep results per user (default %(default)s)")
    add("--data_path", help="folder with the dataset's folder (default: where the runs found it)")
    options = parser.parse_args(argv)
    with termination_as_interrupt(), user_errors_of_recbole():
        plans = _plans(options)
        if len(plans) > 1 and options.out:
            raise UserError(f"--out names one file, and there would be {len(plans)} fusions, one for each seed")
        for number, parts in enumerate(plans):
            made = fuse(
                parts,
                runs=options.runs,
                out=options.out,
                label=options.label,
                normalisation=options.normalisation,
                search=options.search,
                metric=options.metric,
                weights=_numbers(options.weights),
                per_user=options.per_user == "True",
                data_path=options.data_path,
            )
            print("\n" * bool(number) + summary(made))
    print(f"recorded in {options.runs}")
    return 0


def _plans(options: argparse.Namespace) -> list[list[Part]]:
    """The parts of each fusion."""
    if bool(options.models) == bool(options.checkpoints):
        raise UserError("name either recorded runs with --models=A,B or checkpoint files with --checkpoints A B")
    if options.checkpoints:
        if options.seeds or options.dataset:
            raise UserError("--seeds and --dataset choose recorded runs: they have no effect on --checkpoints")
        return [[Part(Path(file)) for file in options.checkpoints]]
    names = [name.strip() for name in options.models.split(",") if name.strip()]
    if len(names) < 2:
        raise UserError(f"a fusion needs at least two models, got --models={options.models}")
    records = store.read(options.runs)
    dataset = options.dataset or _only_dataset(records, options.runs)
    chosen: list[int | None] = [None]
    if options.seeds == EACH:
        chosen = [*common_seeds(records, names, dataset)]
    elif options.seeds is not None:
        chosen = [*_seeds(options.seeds)]
    return [choose(records, names, dataset, options.checkpoint_dir, seed) for seed in chosen]


def _seeds(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() for part in parts) or len(set(parts)) < len(parts):
        raise UserError(f"--seeds={text} is not understood: give distinct seeds (999,1000) or '{EACH}'")
    return [int(part) for part in parts]


def _only_dataset(records: list[store.Record], runs: str) -> str:
    found = sorted({record.dataset for record in records if record.is_finished})
    if len(found) != 1:
        have = f"runs on {', '.join(found)}" if found else "no finished runs"
        raise UserError(f"{runs} has {have}: name one dataset with --dataset")
    return found[0]


def _numbers(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--weights={text} is not understood: give a number for each model, such as 0.7,0.3") from None


def summary(made: Fused) -> str:
    """A line per part and for the fusion, with the gain over the part that is best on validation."""
    how = made.record.fusion
    assert how is not None  # it is the record of a fusion
    chosen_by, masks = how["metric"], list(made.whole.test)
    metric = chosen_by if chosen_by in made.whole.valid else str(made.record.config["valid_metric"]).lower()
    best = max(made.parts, key=lambda part: part.valid.get(metric, 0.0))

    def values(scores: Scores) -> list[float | None]:
        return [scores.valid.get(metric), *(scores.test.get(mask, {}).get(metric) for mask in masks)]

    def line(name: str, weight: str, scores: Scores) -> list[str]:
        return [name, weight, *("-" if value is None else f"{value:.4f}" for value in values(scores))]

    gains = [
        f"{100 * (new / old - 1):+.1f} %" if new is not None and old else "-"
        for new, old in zip(values(made.whole), values(best))
    ]
    lines = [
        *(
            line(f"{part.label}, seed {entry['seed']}", f"{part.weight:.3f}", part)
            for part, entry in zip(made.parts, how["parts"])
        ),
        line(made.whole.label, "", made.whole),
        [f"gain over {best.label}", "", *gains],
    ]
    header = [f"{metric} on {made.record.dataset}", "weight", "validation", *(f"test, {m} masked" for m in masks)]
    unused = [part.label for part in made.parts if not part.weight]
    notes = [f"no weight, so not in the file: {', '.join(unused)}"] if unused and made.kept_items is not None else []
    if made.kept_items is not None:
        notes.append(
            f"weights: {how['search']} search on validation {chosen_by}, {how['normalisation']}, "
            f"{made.kept_items:.0f} items of a user in the comparison"
        )
    return "\n".join([table(header, lines), *notes, f"written: {made.file}"])
