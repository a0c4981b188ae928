"""The errors that a user's input can cause, under their public name; see :mod:`recbole_mambarec_common.errors`."""

from recbole_mambarec_common.errors import UserError, error_summary, one_line, run_main

__all__ = ["UserError", "error_summary", "one_line", "run_main"]
