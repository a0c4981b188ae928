from recbole_mambarec.testing.contract import ModelContract


class TestAddedFeatures(ModelContract):
    name = "AddedFeatures"
