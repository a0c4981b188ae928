from recbole_mambarec.testing.contract import ModelContract


class TestDGMRec(ModelContract):
    name = "DGMRec"
