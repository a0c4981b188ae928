"""The command ``recbole-mambarec``, and what it can say while RecBole, torch or anything else is missing.

Importing :mod:`recbole_mambarec` mends RecBole, which takes seconds and needs all its requirements. What is to
answer at once (``--help``, ``--version``) or to say what is missing (``doctor``) therefore lies beside that package and
imports the standard library alone. Python 3.8 can read it: a Python that is too old gets a sentence, too.
"""

__version__ = "0.1.0"
