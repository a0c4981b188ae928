"""RecBole's own models, which stand in the same tables."""

from typing import ClassVar

from tests.models.contract import TrainingContract


class TestBPR(TrainingContract):
    name = "BPR"
    settings: ClassVar = {"epochs": 40}


class TestLightGCN(TrainingContract):
    name = "LightGCN"
