"""Multimodal recommendation models for RecBole: importing this package makes RecBole know them."""

from recbole_mambarec import compat

compat.apply()

from recbole_mambarec import config, protocol, registry  # noqa: E402  (RecBole can be imported only now)

config.install()
protocol.install()
registry.register_built_in()

__version__ = "0.1.0"
