"""What a report says about a :class:`~recbole_mambarec.experiments.significance.Family` of comparisons."""

from __future__ import annotations

from recbole_mambarec.experiments.paired_tests import BOOTSTRAP_SEED, CONFIDENCE, RESAMPLES
from recbole_mambarec.experiments.significance import Family
from recbole_mambarec_common.terminal import table

#: How intervals are computed, as a part of a sentence.
INTERVAL = (
    f"{CONFIDENCE:.0%} percentile bootstrap of the mean difference, {RESAMPLES} resamples, seed {BOOTSTRAP_SEED}, each "
    "by itself (not corrected for the number of comparisons)"
)
# with fewer pairs a percentile interval is clearly narrower than its level says
_FEW_PAIRS = 10


def method(family: Family) -> str:
    """Test, pairs and correction, as a part of a sentence."""
    pairs = f"paired by {family.unit} (n = {family.pairs:,}".replace(",", " ")
    seeds = ", ".join(map(str, family.seeds))
    if family.unit == "user":
        pairs += f", mean of seeds {seeds})" if len(family.seeds) > 1 else f", seed {seeds})"
    else:
        pairs += f": {seeds})"
    count = len(family.comparisons)
    return (
        f"the two-sided Wilcoxon signed-rank test {pairs} with Holm's correction over the {count} "
        f"comparison{'s' * (count != 1)} with the best"
    )


def limits(family: Family) -> str:
    """What a small number of pairs cannot show, in sentences; "" if there are enough."""
    sentences = []
    if family.smallest_p >= family.alpha:
        sentences.append(f"With {family.pairs} pairs this test cannot give a p-value below {family.smallest_p:.2g}.")
    if family.pairs < _FEW_PAIRS:
        sentences.append(f"An interval of {family.pairs} pairs is narrower than its level says.")
    return " ".join(sentences)


def statement(family: Family) -> str:
    """What to write under a table: what the star means, the test, the pairs, the correction, the intervals."""
    text = (
        f"*: {family.best} is better in {family.metric} with p < {family.alpha:g}, by {method(family)}; "
        f"intervals: {INTERVAL}."
    )
    return f"{text} {limits(family)}".rstrip()


def terminal_table(family: Family) -> str:
    """A family as a table for the terminal, with notes on how it was tested."""
    header = ["model", "mean", "difference", "interval", "p (Wilcoxon)", "p (t)", "d_z", "rank-biserial", ""]
    lines = [[family.best, f"{family.best_mean:.4f}", *[""] * 7]]
    for each in family.comparisons:
        low, high = each.interval
        numbers = [f"{each.mean:.4f}", f"{each.difference:+.4f}", f"[{low:+.4f}, {high:+.4f}]"]
        tests = [f"{each.p_wilcoxon:.3g}", f"{each.p_t:.3g}", f"{each.d_z:.2f}", f"{each.rank_biserial:.2f}"]
        lines.append([each.label, *numbers, *tests, "*" if each.significant else ""])
    notes = [
        f"*: {family.best} is better with p < {family.alpha:g}, by {method(family)}.",
        f"difference: {family.best} minus the model in the row; interval: {INTERVAL}.",
        *filter(None, [limits(family)]),
    ]
    return "\n".join([table(header, lines), "", *notes])
