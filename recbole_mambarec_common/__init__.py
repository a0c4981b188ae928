"""What :mod:`recbole_mambarec` and :mod:`dataset_prep` share.

Importing :mod:`recbole_mambarec` or any of its submodules loads torch and RecBole and patches RecBole, which takes
seconds. The modules here can be imported at no such cost: they use the standard library and, where an array has to be
described, NumPy.
"""
