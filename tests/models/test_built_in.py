"""RecBole's own models, which stand in the same tables."""

from typing import ClassVar

from recbole_mambarec.testing.contract import TrainingContract


class TestBPR(TrainingContract):
    name = "BPR"
    settings: ClassVar = {"epochs": 40}


class TestLightGCN(TrainingContract):
    name = "LightGCN"
