"""The content of tables."""

from dataclasses import replace

import numpy as np
import pytest

from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments import significance
from recbole_mambarec.report import findings, kinds, load, metrics, published, tables
from recbole_mambarec.report.document import count, number
from recbole_mambarec.report.paired import Paired, compare_all
from recbole_mambarec.report.reached import minutes_to
from recbole_mambarec.report.sweeps import find
from tests.report.synthetic import Synthetic
from tests.report.test_load import run
from tests.report.test_sweeps import grid

METRICS = ["recall@20"]


def scored(label, *values, dataset="d", metric="recall@20"):
    return [
        replace(
            run(label, seed=seed, dataset=dataset),
            test={"train": {metric: value}, "train+valid": {metric: value + 0.01}},
        )
        for seed, value in enumerate(values)
    ]


def cells(table, block=0):
    return {row[0].text: row[1:] for row in table.blocks[block].rows}


def main_table(*records, mask="train", **options):
    return tables.scores("main", "", load.rows([r for part in records for r in part]), METRICS, mask, **options)


def test_best_and_second_mean_and_deviation():
    table = main_table(scored("a", 0.1, 0.2), scored("b", 0.3), scored("c", 0.25, 0.26))
    shown = cells(table)
    assert [(cell.text, cell.spread, cell.rank) for _, cell in shown.values()] == [
        ("0.1500", "0.0707", ""),
        ("0.3000", "", "best"),
        ("0.2550", "0.0071", "second"),
    ]
    assert [seeds.text for seeds, _ in shown.values()] == ["2", "1", "2"]
    assert cells(main_table(scored("a", 0.1), mask="train+valid"))["a"][1].text == "0.1100"


def test_scores_that_print_the_same_rank_the_same():
    shown = cells(main_table(scored("a", 0.30001), scored("b", 0.30002), scored("c", 0.2)))
    assert [cell.rank for _, cell in shown.values()] == ["best", "best", ""]


def test_a_single_row_is_not_best_and_missing_values_are_dashes():
    assert cells(main_table(scored("a", 0.3)))["a"][1].rank == ""
    shown = cells(main_table(scored("a", 0.3), scored("b", 0.2), scored("c", 0.5, metric="ndcg@20")))
    assert shown["c"][1].text == "–" and shown["a"][1].rank == "best"


def test_each_dataset_has_a_best():
    table = main_table(scored("a", 0.1), scored("b", 0.2), scored("a", 0.4, dataset="e"), scored("b", 0.3, dataset="e"))
    assert [block.heading for block in table.blocks] == ["d", "e"]
    assert [cells(table, n)[label][1].rank for n, label in ((0, "b"), (1, "a"))] == ["best", "best"]


def family(best, others, significant=True):
    made = significance.compare({label: np.arange(9.0) for label in (best, *others)}, "recall@20", "user", (1,))
    made.comparisons[:] = [replace(each, significant=significant) for each in made.comparisons]
    return replace(made, best=best)


@pytest.mark.parametrize(("best", "significant", "star"), [("b", True, True), ("b", False, False), ("a", True, False)])
def test_the_best_row_gets_a_star_if_it_beats_all_others(best, significant, star):
    tests = Paired({("d", "recall@20"): family(best, ["a" if best == "b" else "b", "c"], significant)}, {}, {})
    table = main_table(scored("a", 0.1), scored("b", 0.2), scored("c", 0.15), tests=tests)
    assert cells(table)["b"][1].star is star and not cells(table)["a"][1].star
    notes = " ".join(table.notes)
    assert "Wilcoxon" in notes and "n = 9" in notes and "Holm's correction over the 2 comparisons" in notes
    assert ("No score has a star" in notes) is not star


def test_without_results_per_user_stars_are_over_seeds_and_without_both_there_are_reasons():
    rows = load.rows(scored("a", *np.linspace(0.4, 0.5, 8)) + scored("b", *np.linspace(0.1, 0.3, 8)))
    tests = compare_all(rows, "train", METRICS)
    assert not tests.by_user and tests.family("d", "recall@20").unit == "seed"
    assert cells(tables.scores("main", "", rows, METRICS, "train", tests))["a"][1].star
    (reason,) = tests.not_tested()
    assert reason.startswith("Not by user (d: recall@20): there are no results per user of a")
    alone = load.rows(scored("a", 0.3))
    (statement,) = compare_all(alone, "train", METRICS).statements(alone, METRICS)
    assert statement == "Significance not tested (d: recall@20): there is only one model."


def test_the_table_and_the_test_by_user_have_the_same_means(tmp_path):
    rows = load.read([Synthetic(tmp_path, users=0.1).comparison(["BPR", "MambaRec"], ["baby"])]).comparison()
    found = compare_all(rows, "train", METRICS).by_user["baby", "recall@20"]
    assert found.best == "MambaRec" and found.pairs == 90 and len(found.seeds) == 3
    assert found.best_mean == pytest.approx(load.mean(rows[1].test("train", "recall@20")), abs=1e-4)


def test_there_is_no_star_if_a_model_lacks_results_per_user(tmp_path):
    made = Synthetic(tmp_path, users=0.3)
    made.comparison(["BPR", "LightGCN", "MambaRec"], ["baby"], [999])
    rows = load.read([made.runs]).comparison()
    assert compare_all(rows, "train", METRICS).star("baby", "recall@20", "MambaRec")
    lacking = replace(rows[0], records=tuple(replace(record, per_user=None) for record in rows[0].records))
    tests = compare_all([lacking, *rows[1:]], "train", METRICS)
    assert [each.label for each in tests.by_user["baby", "recall@20"].comparisons] == ["LightGCN"]
    assert not tests.star("baby", "recall@20", "MambaRec")
    (statement,) = tests.statements(rows, METRICS)
    assert statement == "Significance not tested (baby: recall@20): there are no results per user of BPR."


def test_published_scores_are_below_and_not_ranked():
    known = {"a": published.Published({"recall@20": 0.9}, "a paper"), "z": published.Published({}, "another")}
    table = main_table(scored("a", 0.1), scored("b", 0.2), published=lambda dataset: known)
    assert list(cells(table)) == ["a", "b", "a, published"]
    assert cells(table)["a, published"][1].aside and cells(table)["b"][1].rank == "best"
    assert "Published, other features: a from a paper." in table.notes[-1]


def test_shipped_published_scores_are_plausible_and_under_one_mask():
    for dataset in ("baby", "sports", "clothing"):
        found = published.read(dataset, "train")
        assert len(found) >= 18 and {len(each.scores) for each in found.values()} <= {2, 3, 4}
        for each in found.values():
            by_size = [each.scores[m] for m in ("ndcg@10", "ndcg@20", "recall@10", "recall@20") if m in each.scores]
            assert by_size[0] > 0 and by_size == sorted(by_size) and by_size[-1] < 0.2
    assert published.read("baby", "train")["DAMRS"].scores == {"recall@20": 0.0994, "ndcg@20": 0.0435}
    assert published.read("baby", "train")["MambaRec"].scores["recall@20"] == 0.1013
    assert published.read("baby", "train+valid") == {} and published.read("ml-100k", "train") == {}


def test_rows_are_ordered_by_kind_and_score_and_each_kind_is_named():
    made = [scored(*each) for each in (("VBPR", 0.2), ("BPR", 0.1), ("PGL", 0.4), ("EASE", 0.3), ("LayerGCN", 0.15))]
    rows = load.rows([r for part in made for r in part])
    by_kind = kinds.ordered(rows, "train", "recall@20")
    assert [row.label for row in by_kind] == ["LayerGCN", "BPR", "EASE", "PGL", "VBPR"]
    by_score = kinds.ordered(rows, "train", "recall@20", by_kind=False)
    assert [row.label for row in by_score] == ["PGL", "EASE", "VBPR", "LayerGCN", "BPR"]
    table = tables.scores("main", "", by_kind, METRICS, "train")
    heads = [(kind, row[0].text) for kind, row in table.blocks[0].lines() if kind]
    assert heads == [("General", "LayerGCN"), ("Closed form", "EASE"), ("Multimodal", "PGL")]
    assert not main_table(scored("a", 0.1), scored("b", 0.2)).blocks[0].kinds


def test_a_smaller_score_can_be_the_better_and_rows_without_a_score_come_last():
    made = [scored(name, value, metric="averagepopularity@20") for name, value in (("a", 3.0), ("b", 2.0))]
    rows = load.rows([r for part in made for r in part] + scored("c", 0.1))
    assert [row.label for row in kinds.ordered(rows, "train", "averagepopularity@20")] == ["b", "a", "c"]


def test_the_finding_names_the_best_its_lead_and_what_it_cannot_be_told_from():
    rows = load.rows([r for part in (scored("a", 0.2), scored("b", 0.25), scored("c", 0.1)) for r in part])
    (plain,) = findings.sentences(rows, "train", "recall@20", None)
    assert (
        plain == "On d, b is the best of 3 models in test recall@20 with 0.2500 (1 seed), 25.0 % ahead of a (0.2000)."
    )
    (untested,) = findings.sentences(rows, "train", "recall@20", compare_all(rows, "train", METRICS))
    assert untested == f"{plain} The differences could not be tested; the main table says why."
    many = [scored("a", *(0.2 + 0.001 * n for n in range(9))), scored("b", *(0.25 + 0.002 * n for n in range(9)))]
    many.append(scored("c", *(0.25 + 0.002 * n + 0.001 * (-1) ** n for n in range(9))))
    rows = load.rows([r for part in many for r in part])
    (tested,) = findings.sentences(rows, "train", "recall@20", compare_all(rows, "train", METRICS))
    assert "By seed (Wilcoxon's test, Holm's correction), it is better than 1 of the 2 others" in tested
    assert tested.startswith("On d, c ") and tested.endswith("cannot be told from b.")
    two = load.rows([r for part in many[1:] for r in part])
    (level,) = findings.sentences(two, "train", "recall@20", compare_all(two, "train", METRICS))
    assert level.endswith("it is not shown to be better than the other.")


def test_the_cost_table_says_which_computation_its_times_leave_out():
    rows = load.rows([run("BPR"), run("EASE")])
    (note,) = tables.cost(rows).notes
    assert "EASE: computed when it is built, which is not in these times." in note
    assert "computed when" not in tables.cost(rows[:1]).notes[0]
    entry = {"epoch": 0, "valid": None, "loss": {}, "train_seconds": 2.0, "valid_seconds": 0.0}
    timed = replace(run("EASE"), curve=[entry | {"computing_seconds": 1.0}])
    assert "computed when" not in tables.cost(load.rows([timed])).notes[0]


def test_minutes_to_a_share_of_the_best_validation_score():
    entries = [
        {"epoch": n, "valid": {"recall@20": score}, "train_seconds": 50.0, "valid_seconds": 10.0}
        for n, score in enumerate((0.05, 0.096, 0.1, 0.09))
    ]
    (row,) = load.rows([replace(run("a"), curve=entries)])
    assert [minutes_to(row, share) for share in (0.5, 0.95, 1.0)] == [1, 2, 3]
    (old,) = load.rows([replace(run("a"), curve=[entries[0] | {"train_seconds": None}])])
    (bare,) = load.rows([replace(run("a"), curve=[])])
    assert minutes_to(old, 1.0) is None and minutes_to(bare, 1.0) is None


def test_differences_from_the_best_other_model_and_from_a_reference():
    rows = load.rows(scored("a", 0.1) + scored("b", 0.2) + scored("c", 0.16))
    free = cells(tables.deltas(rows, METRICS, "train", None))
    assert [cell.text for (cell,) in free.values()] == ["−50.0", "+25.0", "−20.0"]
    fixed = cells(tables.deltas(rows, METRICS, "train", "c"))
    assert [cell.text for (cell,) in fixed.values()] == ["−37.5", "+25.0", "reference"]


def test_a_sweep_says_what_choosing_on_the_test_split_would_have_given():
    table = tables.sweep(find(grid(), [])[0], ["train"])
    assert table.header == ["a", "b", "seeds", "validation recall@20", "test recall@20, train masked"]
    first = table.blocks[0].rows[0]
    assert [cell.text for cell in first] == ["2", "2", "1", "0.1000", "0.0920"] and first[3].rank == "best"
    assert table.notes == [
        "Bold: chosen on the validation split (a = 2, b = 2).",
        "Test recall@20 of the chosen point, mask train: 0.0920. Choosing on the test split would have given 0.0930 "
        "(a = 3, b = 1), +1.1 %.",
    ]


def test_metrics_are_classified_and_chosen(tmp_path):
    rows = load.rows(scored("a", 0.1) + scored("b", 0.2, metric="itemcoverage@20"))
    assert metrics.choose(rows, "train", None) == (["recall@20"], ["itemcoverage@20"])
    assert metrics.choose(rows, "train", ["itemcoverage@20"]) == ([], ["itemcoverage@20"])
    with pytest.raises(UserError, match="no record has the metric 'mrr@5': they have recall@20, itemcoverage@20"):
        metrics.choose(rows, "train", ["mrr@5"])
    assert metrics.smaller_is_better("giniindex@10") and not metrics.smaller_is_better("ndcg@10")
    assert metrics.leading(rows, ["ndcg@10", "recall@20"]) == "recall@20"
    assert metrics.leading(rows, ["ndcg@10"]) == "ndcg@10"


def test_numbers():
    assert (number(-0.12345), number(None), number(2, 1)) == ("−0.1235", "–", "2.0")
    assert count(19445, "user") == "19\N{NO-BREAK SPACE}445 users" and count(1, "seed") == "1 seed"
