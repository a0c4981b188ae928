"""Turn raw files into a dataset that the models can run: ``python -m dataset_prep --help``.

Nothing heavy is imported here; every command imports what it needs when it runs.
"""
