"""The errors that a user's input can cause, under their public name; see :mod:`recbole_mambarec_common.errors`."""

from recbole_mambarec_common.errors import UserError, names_of, one_line, one_of, run_main, sentence, share

__all__ = ["UserError", "names_of", "one_line", "one_of", "run_main", "sentence", "share"]
