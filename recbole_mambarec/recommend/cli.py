"""Command line of ``recbole-mambarec export``."""

from __future__ import annotations

import argparse
import sys

from recbole_mambarec.mistakes import user_errors_of_recbole
from recbole_mambarec.recommend.export import BUNDLE, DEPTH, FORMS
from recbole_mambarec.recommend.export import export as write
from recbole_mambarec.scoring.changed import read_values
from recbole_mambarec_command.command_line import example, termination_as_interrupt
from recbole_mambarec_common.options import SCORING_KEYS, configuration


def export(argv: list[str] | None = None, prog: str = "recbole-mambarec export") -> int:
    """Export a trained model.

    Raises:
        UserError: an option is faulty, or the model cannot be exported; nothing has been written by then.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Write a trained model as a bundle: a folder with embeddings (or what else scores need), ids, "
        "titles and seen items, from which recommendations need neither torch nor RecBole, nor the dataset. Any other "
        f"--key=value scores with another value of {', '.join(SCORING_KEYS)} than in the training.",
        epilog=f"Example: {example(prog)} --model-file saved/MambaRec-....pth --out bundle. Checkpoints that RecBole's "
        "own models have written are pickles: set RECBOLE_MAMBAREC_TRUST_CHECKPOINTS=1 if you trust them.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model-file", required=True, metavar="PATH", help="checkpoint or fusion")
    add("--out", required=True, metavar="FOLDER", help="which must not exist")
    add("--data-path", help="folder with the dataset's folder (default: where the model was trained)")
    add(
        "--format",
        choices=FORMS,
        default=BUNDLE,
        help="a bundle; or embeddings as arrays (npy), or with the ranking as a program (onnx) (default %(default)s)",
    )
    add("--ann", action="store_true", help="add an index for approximate search to the bundle (extra [ann])")
    add("--no-features", action="store_true", help="leave out the items' features, by which items are compared")
    add("--no-metrics", action="store_true", help="do not evaluate the model for the card")
    add("--licence", help="of model and data, for the card")
    add(
        "--depth",
        type=int,
        default=DEPTH,
        help="items per user in the bundle of a model that has neither embeddings nor weights between items "
        "(default %(default)s)",
    )
    options, rest = parser.parse_known_args(argv)
    changed = read_values(configuration(rest, rest))
    with termination_as_interrupt(), user_errors_of_recbole():
        folder = write(
            options.model_file,
            options.out,
            options.data_path,
            form=options.format,
            features=not options.no_features,
            ann=options.ann,
            metrics=not options.no_metrics,
            licence=options.licence,
            depth=options.depth,
            changed=changed,
        )
    print(f"written to {folder}", file=sys.stderr)
    return 0
