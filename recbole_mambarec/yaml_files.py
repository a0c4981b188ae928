"""Configuration files, checked before RecBole reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml

from recbole_mambarec.errors import UserError, one_line
from recbole_mambarec_common.files import what_it_is


def read_yaml_mapping(path: str | Path) -> dict:
    """The keys and values of a YAML file in UTF-8, with or without a byte order mark; an empty file has none.

    Raises:
        UserError: there is no such file, or it is not a YAML mapping.
    """
    if not Path(path).is_file():
        raise UserError(f"configuration file '{path}' not found: --config_files names existing YAML files")
    try:
        # FullLoader, as in RecBole: it reads tuples and runs no code
        content = yaml.load(Path(path).read_text(encoding="utf-8-sig"), Loader=yaml.FullLoader)
    except UnicodeDecodeError as error:
        what = what_it_is(path) or f"not UTF-8 text (byte {error.start} is 0x{error.object[error.start]:02x})"
        raise UserError(f"configuration file '{path}' is {what}: save it as UTF-8") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise UserError(
            f"configuration file '{path}' is {what_it_is(path) or 'not YAML'} and cannot be read ({one_line(error)})"
        ) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        what = what_it_is(path)
        what = what if what and what != "JSON text" else f"a {type(content).__name__}"
        raise UserError(f"configuration file '{path}' is not a YAML mapping of keys to values but {what}")
    return content


def check_files(original: Callable, config, file_list):
    """Wraps ``Config._load_config_files``: explains an unreadable file, and skips an empty one."""
    return original(config, [file for file in file_list or () if read_yaml_mapping(file)])
