"""The commands of ``python -m dataset_prep``, one module each: its options, and the function that runs it.

Nothing heavy is imported before a command runs, so that ``--help`` answers at once.
"""
