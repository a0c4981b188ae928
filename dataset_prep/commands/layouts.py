"""``mmrec``, ``lattice`` and ``diffmm``: folders of other projects that bring their own split."""

from __future__ import annotations

import argparse

from .arguments import add_command, add_output, show_written


def add(commands) -> None:
    mmrec = add_command(
        commands,
        "mmrec",
        "a folder in MMRec's or MRLib's layout",
        "Read MMRec's layout (NAME.inter with x_label 0/1/2, *_feat.npy or *_feat.pt, optional id maps) or MRLib's "
        "(inter.csv), check it, and write a dataset that keeps its split.",
        "mmrec downloads/baby --name baby",
        _mmrec,
    )
    mmrec.add_argument("source", metavar="SOURCE", help="the folder, or the interaction file in it")
    lattice = add_command(
        commands,
        "lattice",
        "a folder in LATTICE's or MMSSL's layout",
        "Read train.json, val.json and test.json (number of a user -> numbers of the items), *_feat.npy beside them or "
        "above 5-core, and item_list.txt and user_list.txt if they are there; check them, and write a dataset that "
        "keeps the split.",
        "lattice downloads/sports --name sports",
        _lattice,
        aliases=("mmssl",),
    )
    lattice.add_argument("source", metavar="SOURCE", help="the folder with train.json, or the one above 5-core")
    diffmm = add_command(
        commands,
        "diffmm",
        "a folder in DiffMM's layout",
        "Read trnMat.pkl, valMat.pkl and tstMat.pkl (scipy sparse matrices of users x items; also MMSSL's train_mat, "
        "val_mat and test_mat) and *_feat.npy, check them, and write a dataset that keeps the split. The pickles are "
        "read without running anything in them.",
        "diffmm downloads/tiktok --name tiktok",
        _diffmm,
    )
    diffmm.add_argument("source", metavar="SOURCE", help="the folder")
    for command in (mmrec, lattice, diffmm):
        add_output(command)


def _mmrec(args: argparse.Namespace) -> int:
    from ..readers.mmrec import read_mmrec

    return _write(args, read_mmrec)


def _lattice(args: argparse.Namespace) -> int:
    from ..readers.lattice import read_lattice

    return _write(args, read_lattice)


def _diffmm(args: argparse.Namespace) -> int:
    from ..readers.diffmm import read_diffmm

    return _write(args, read_diffmm)


def _write(args: argparse.Namespace, read) -> int:
    from ..write import write_dataset

    prepared = read(args.source, args.name, max_bad=args.max_bad)
    prepared.card["command"] = args.command_line
    return show_written(args, write_dataset(prepared, args.out))
