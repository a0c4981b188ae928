"""Comparison with numbers that the published implementations produced; run it with ``python -m tests.parity``."""
