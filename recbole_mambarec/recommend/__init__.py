"""From a trained model to recommendations: by raw ids, as files, and as a bundle that needs neither torch nor RecBole.

::

    from recbole_mambarec import Recommender
    rec = Recommender.load("saved/MambaRec-....pth")     # a checkpoint, a fusion's file or a bundle
    rec.recommend("A1B2C3", k=20)
"""
