"""Multimodal recommendation models for RecBole: importing this package makes RecBole know them."""

from recbole_mambarec import compat

compat.apply()

from recbole_mambarec import config, patience, protocol, registry  # noqa: E402  (RecBole can be imported only now)
from recbole_mambarec.data import loading, reading, split_check, time_order  # noqa: E402

config.install()
protocol.install()
patience.install()
loading.install()
reading.install()
time_order.install()
split_check.install()
registry.register_built_in()

__version__ = "0.1.0"
