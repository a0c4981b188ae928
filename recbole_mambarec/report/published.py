"""Scores that others have published, shown beside measured ones."""

from __future__ import annotations

from dataclasses import dataclass

from recbole_mambarec.config import default_properties


@dataclass(frozen=True)
class Published:
    """Scores of one model on one dataset, by metric, and where they stand."""

    scores: dict[str, float]
    source: str


def read(dataset: str, mask: str) -> dict[str, Published]:
    """Model -> its published scores under ``mask``, from ``properties/published/<dataset>.yaml``; empty without one."""
    content = default_properties("published", dataset)
    if not content or content["mask"] != mask:
        return {}
    return {
        model: Published(dict(zip(content["metrics"], scores)), table["source"])
        for table in content["tables"]
        for model, scores in table["scores"].items()
    }
