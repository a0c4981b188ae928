"""Comparison with numbers that published implementations produced.

A model's adapter maps published names to ours. The adapters of this package are in
``recbole_mambarec/testing/parity/adapters``, one module per model, found by the model's name; a model of another
package names its own in ``recbole_mambarec.register(..., adapter="their_package.parity:ADAPTER")``.
"""

from recbole_mambarec.testing.parity.adapter import Adapter, NoAdapter, Run, Slot, TrainingPass
from recbole_mambarec.testing.parity.runner import Result, check

__all__ = ["Adapter", "NoAdapter", "Result", "Run", "Slot", "TrainingPass", "check"]
