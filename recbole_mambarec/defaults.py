"""The folder of the default configuration that comes with this package."""

from __future__ import annotations

from pathlib import Path


def properties_folder() -> Path:
    """The folder ``properties``: inside an installed package, beside the package in a source tree.

    Raises:
        FileNotFoundError: it is in neither place.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "properties", package.parent / "properties"):
        if (folder / "overall.yaml").is_file():
            return folder
    raise FileNotFoundError(
        f"properties/overall.yaml is neither in {package} nor beside it: the installation is broken"
    )
