"""A test kit for models, those of this package and others.

* :mod:`~recbole_mambarec.testing.contract`: :class:`ModelContract`, the tests that every model has to pass. A test
  class inherits it and names the model. It is the only module here that needs pytest.
* :mod:`~recbole_mambarec.testing.planted`: prepared datasets on disk whose right answer is known.
* :mod:`~recbole_mambarec.testing.data`: data in memory, for examining a model without files.
* :mod:`~recbole_mambarec.testing.devices`: a simulated GPU, to find tensors that were left on the CPU.
* :mod:`~recbole_mambarec.testing.waits`, :mod:`~recbole_mambarec.testing.memory`: what makes a step wait for its
  device, and how much memory it takes.
* :mod:`~recbole_mambarec.testing.parity`: comparison with numbers that a published implementation produced; also a
  command, ``python -m recbole_mambarec.testing.parity FILE...``.

docs/adding-a-model.md explains how to use them.
"""

import sys

if "pytest" in sys.modules:
    # failing assertions of the contract show the values they compared, as in a test module
    sys.modules["pytest"].register_assert_rewrite("recbole_mambarec.testing.contract")
