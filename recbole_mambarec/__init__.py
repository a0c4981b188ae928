"""Multimodal recommendation models for RecBole: importing this package makes RecBole know them."""

from recbole_mambarec import compat

compat.apply()

# RecBole can be imported only now
from recbole_mambarec import (  # noqa: E402
    case_study,
    clipping,
    config,
    mistakes,
    patience,
    protocol,
    registry,
    resume,
    run_names,
)
from recbole_mambarec.data import checks, loading, reading, reuse, split_check, time_order  # noqa: E402

config.install()
run_names.install()
clipping.install()
case_study.install()
protocol.install()
patience.install()
resume.install()
loading.install()
checks.install()
reading.install()
time_order.install()
reuse.install()
split_check.install()
mistakes.install()
registry.register_built_in()

__version__ = "0.1.0"
