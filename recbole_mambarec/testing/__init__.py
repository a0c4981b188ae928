"""What tests a model, for models of this package and of others.

* :mod:`~recbole_mambarec.testing.contract`: :class:`ModelContract`, the tests that every model has to pass. A test
  class inherits it and names the model. It is the only module here that needs pytest.
* :mod:`~recbole_mambarec.testing.planted`: prepared datasets on disk whose right answer is known.
* :mod:`~recbole_mambarec.testing.data`: data in memory, for looking at a model without files.
* :mod:`~recbole_mambarec.testing.devices`: a GPU where there is none, to find tensors that were left on the CPU.
* :mod:`~recbole_mambarec.testing.waits`, :mod:`~recbole_mambarec.testing.memory`: what makes a step wait for its
  device, and how much memory it takes.
* :mod:`~recbole_mambarec.testing.parity`: comparison with numbers that a published implementation produced; a command,
  ``python -m recbole_mambarec.testing.parity FILE...``.

docs/adding-a-model.md says how they are used.
"""

import sys

if "pytest" in sys.modules:
    # assertions of the contract say what they compared, as those of a test module do
    sys.modules["pytest"].register_assert_rewrite("recbole_mambarec.testing.contract")
