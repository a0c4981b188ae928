"""The command ``run``, and how it and the other commands that train read their options.

The table of all commands is in :mod:`recbole_mambarec_command.command`.
"""

from __future__ import annotations

import argparse
import sys

from recbole_mambarec.config_checks import PROCESSES, value_fault
from recbole_mambarec.errors import UserError
from recbole_mambarec.mistakes import user_errors_of_recbole
from recbole_mambarec.yaml_files import read_yaml_mapping
from recbole_mambarec_command.command_line import example
from recbole_mambarec_common.options import configuration

DEFAULT_MODEL, DEFAULT_DATASET = "MambaRec", "ml-100k"


def read_config_files(text: str | None) -> tuple[list[str], dict]:
    """The option ``--config_files``: names separated by blanks, as for RecBole, or by commas.

    Returns:
        The names, and the contents of all files; later files take precedence.

    Raises:
        UserError: a file does not exist or is not a YAML mapping.
    """
    files, contents = (text or "").replace(",", " ").split(), {}
    for file in files:
        contents.update(read_yaml_mapping(file))
    return files, contents


def processes(options: dict, files: dict) -> dict:
    """The arguments of RecBole's ``run`` about processes.

    Args:
        options: of the command line, which take precedence.
        files: contents of the configuration files.

    Raises:
        UserError: a value is faulty.
    """
    given = {key: files[key] for key in PROCESSES if files.get(key) is not None}
    given |= {key: options[key] for key in PROCESSES if options.get(key) is not None}
    for key, value in given.items():
        fault = value_fault(key, value)
        if fault:
            raise UserError(fault)
    return given


def run_recbole(argv: list[str] | None = None, prog: str = "run_recbole.py") -> int:
    """Train and test one model; takes the options of RecBole's ``run_recbole.py``.

    Raises:
        UserError: an option, the configuration or the data are faulty.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Train, validate and test a model of RecBole or recbole_mambarec.",
        epilog="Any other --key=value sets a configuration key of RecBole, the model or the dataset. "
        f"Without arguments: MambaRec on ml-100k. Example: {example(prog)} --model=MambaRec --dataset=baby "
        "--learning_rate=0.0005 --variant=paper",
        allow_abbrev=False,
    )
    parser.add_argument("--model", "-m", default=None, help=f"model name (default {DEFAULT_MODEL})")
    parser.add_argument("--dataset", "-d", default=None, help=f"dataset name (default {DEFAULT_DATASET})")
    parser.add_argument("--config_files", default=None, help="YAML files, separated by blanks")
    parser.add_argument("--nproc", type=int, help="processes on this machine (default 1)")
    parser.add_argument("--ip", help="address of the master node (default localhost)")
    parser.add_argument("--port", help="port of the master node (default 5678)")
    parser.add_argument("--world_size", type=int, help="processes on all machines (default: those on this machine)")
    parser.add_argument("--group_offset", type=int, help="global rank offset of this machine (default 0)")
    options, rest = parser.parse_known_args(argv)
    configuration(argv, rest)  # RecBole reads it from the command line by itself
    config_files, files = read_config_files(options.config_files)

    from recbole.quick_start import run

    with user_errors_of_recbole():
        result = run(
            options.model or files.get("model") or DEFAULT_MODEL,
            options.dataset or files.get("dataset") or DEFAULT_DATASET,
            config_file_list=config_files or None,
            **processes(vars(options), files),
        )
    if result is not None:
        for part in ("best_valid_result", "test_result"):
            scores = "    ".join(f"{name}: {value:.4f}" for name, value in (result[part] or {}).items())
            print(f"{part.replace('_', ' '):17} {scores}")
    return 0
