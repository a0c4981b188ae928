"""One picture of a prepared dataset: popularity of items, activity of users, coverage of modalities."""

from __future__ import annotations

from pathlib import Path

from recbole_mambarec_common.extras import need
from recbole_mambarec_common.files import atomic_file

from .folder import degrees, read_card


def plot_dataset(folder: str | Path, target: str | Path) -> Path:
    """Draw the dataset in ``folder`` as a PNG file ``target``, and return its path.

    Raises:
        UserError: the folder is not a prepared dataset, or matplotlib is not installed.
    """
    need("matplotlib", "prep")
    # the object interface: no window system, no state shared with a notebook
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    folder, target = Path(folder), Path(target)
    card = read_card(folder)
    users, items = degrees(folder, card)
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    for axes, values, title in (
        (left, items, "item popularity"),
        (middle, users, "user activity"),
    ):
        seen = values[values > 0]
        axes.plot(range(1, len(seen) + 1), seen, linewidth=1.5)
        axes.set(xscale="log", yscale="log", title=title, ylabel="interactions")
        axes.set_xlabel(f"rank (median {seen[len(seen) // 2]}, most {seen[0]})" if len(seen) else "rank")
        axes.grid(True, alpha=0.3)
    names = list(card["modalities"])
    n_items = card["counts"]["items"]
    shares = [100 * (1 - card["modalities"][name]["missing"] / max(n_items, 1)) for name in names]
    bars = right.bar(names, shares, width=0.5)
    right.bar_label(bars, [f"{share:.1f} %" for share in shares])
    right.set(title="modality coverage", ylabel="% of items", ylim=(0, 112))
    counts = card["counts"]
    figure.suptitle(
        f"{card['name']}: {counts['users']:,} users, {n_items:,} items, {counts['interactions']:,} interactions"
    )
    with atomic_file(target) as temporary:
        # without the version of matplotlib in the file, the same data give the same bytes
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})
    return target
