"""Evaluates anything that scores users for items as a run is evaluated, without a trainer."""

from __future__ import annotations

from functools import partial

import torch
from recbole.config import Config
from recbole.evaluator import Evaluator
from tqdm import tqdm

from recbole_mambarec.experiments import users
from recbole_mambarec.experiments.run import unrounded
from recbole_mambarec.ranking import HitCollector
from recbole_mambarec.scoring.scorer import Scorer, ScorerModel
from recbole_mambarec.scoring.splits import Splits


class Ranking:
    """Evaluates a scorer on validation and test with RecBole's loaders, collector and metrics, as a run is evaluated.

    Attributes:
        loaders: mask -> test loader.
    """

    def __init__(self, splits: Splits, scorer: Scorer, progress: bool = True) -> None:
        config: Config = splits.config
        self.evaluator, self.eval_collector = Evaluator(config), HitCollector(config)
        self.eval_collector.data_collect(splits.train)
        self._splits, self._model, self._progress = splits, ScorerModel(config, splits.dataset, scorer), progress
        self.loaders: dict = {}

    def valid(self) -> dict[str, float]:
        """Metric -> value on validation, rounded as RecBole does."""
        return self._evaluate(self._splits.valid, "Validation")

    def valid_with_lists(self) -> tuple[dict[str, float], users.TopK | None]:
        """The same, and recommendations for the users of the validation split; None if the metrics do not rank."""
        with users.captured(self) as captured:
            scores = self.valid()
        return scores, captured[0] if captured else None

    def test(self) -> tuple[dict[str, dict[str, float]], dict[str, users.TopK]]:
        """Scores by mask, with six decimals, and recommendations by mask."""
        self.loaders = self._splits.tests()
        scores, tops = {}, {}
        for mask, loader in self.loaders.items():
            with users.captured(self) as captured, unrounded(self):
                scores[mask] = self._evaluate(loader, f"Test, mask {mask}")
            if captured:
                (tops[mask],) = captured
        return scores, tops

    @torch.no_grad()
    def _evaluate(self, loader, title: str) -> dict[str, float]:
        shown = partial(tqdm, desc=f"{title}, {self._model.scorer.name}", unit="block", delay=2)
        for interaction, masked, rows, items in shown(loader, total=len(loader), disable=not self._progress):
            scores = self._model.full_sort_predict(interaction).view(len(interaction), -1)
            if masked is not None:
                scores[tuple(part.to(scores.device) for part in masked)] = -torch.inf
            if self._splits.not_ranked is not None:
                scores[:, 1:][:, self._splits.not_ranked.to(scores.device)] = -torch.inf
            self.eval_collector.eval_batch_collect(scores, interaction, rows, items)
        self.eval_collector.model_collect(self._model)
        result = self.evaluator.evaluate(self.eval_collector.get_data_struct())
        return {name: float(value) for name, value in result.items()}
