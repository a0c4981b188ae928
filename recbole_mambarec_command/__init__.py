"""The command ``recbole-mambarec``, as far as it works without RecBole, torch or any other package.

Importing :mod:`recbole_mambarec` patches RecBole, which takes seconds and needs all requirements. What has to answer at
once (``--help``, ``--version``) or to report what is missing (``doctor``) is therefore in this package, which imports
the standard library only. Python 3.8 can read it, so that a Python that is too old gets an explanation, too.
"""

__version__ = "0.1.0"
