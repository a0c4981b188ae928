"""Scores of a trained model for blocks of users, by raw ids: what fusing, recommending and exporting build on.

::

    run = restore("saved/MambaRec-....pth")              # a model of this package, of RecBole, or a fusion
    rows = run.scorer.users.positions(["A1B2C3"])        # raw user ids -> rows
    scores = run.scorer.scores(rows)                     # (1, n_items); columns are run.scorer.items
    seen = run.splits.seen("train+valid")                # (n_users, n_items), the same rows and columns
"""
