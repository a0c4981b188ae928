"""Published scores, shown beside measured ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recbole_mambarec import registry
from recbole_mambarec.errors import UserError
from recbole_mambarec.yaml_files import read_yaml_mapping


@dataclass(frozen=True)
class Published:
    """Published scores of one model on one dataset, by metric, and their source."""

    scores: dict[str, float]
    source: str


def read(dataset: str, mask: str) -> dict[str, Published]:
    """Model -> its published scores on ``dataset`` under ``mask``; empty if there are none.

    They are read from ``properties/published/<dataset>.yaml`` and from files of the same form in packages with further
    models. If two files have scores of a model, those of the first count, and our file comes first. A table may have
    fewer metrics than its file.

    Raises:
        UserError: a file does not have this form.
    """
    folders = dict.fromkeys(entry.published for entry in registry.entries().values() if entry.published is not None)
    found: dict[str, Published] = {}
    for path in (folder / f"{dataset}.yaml" for folder in folders):
        if path.is_file():
            found = _scores(path, mask) | found
    return found


def _scores(path: Path, mask: str) -> dict[str, Published]:
    content = read_yaml_mapping(path)
    try:
        if content["mask"] != mask:
            return {}
        return {
            model: Published(
                dict(zip(table.get("metrics", content["metrics"]), map(float, scores), strict=True)),
                str(table["source"]),
            )
            for table in content["tables"]
            for model, scores in table["scores"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is not a file of published scores ({type(error).__name__}: {error}): it needs mask, metrics and "
            "tables, each with its source, metrics where they are others, and as many scores for each model"
        ) from error
