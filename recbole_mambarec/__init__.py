"""Multimodal recommendation models for RecBole."""

from recbole_mambarec import compat

__version__ = "0.1.0"

compat.apply()
