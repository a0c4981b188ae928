"""Turn raw files into a dataset that models can be trained on: ``python -m dataset_prep --help``.

Importing this package loads neither torch nor RecBole; a command imports what it needs when it runs.
"""
