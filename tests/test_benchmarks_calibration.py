"""The benchmark that tries the verdict on itself, and its tables in docs/statistics.md, recomputed without its code."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_world import World
from scipy.optimize import brentq
from scipy.stats import nct, t, ttest_1samp

from benchmarks.calibration import tables
from benchmarks.calibration.__main__ import CSV, PAGE
from benchmarks.calibration.stored import METRICS, Stored, collect, read
from benchmarks.calibration.trials import (
    claimed,
    comparison,
    false_claims,
    forecasts,
    repetitions,
    resamplings,
)
from eval.report.inputs import KL
from eval.report.numbers.standings import matched_kl, own_end
from eval.report.sections.forecast import MOST_SEEDS

BASE_M = np.array([0.4, 0.0, 5.0])


@cache
def stored() -> Stored:
    return read(CSV)


def runs_of(judge_N: list[float]) -> np.ndarray:
    """Runs of two evaluations with these judge rewards at their end: paths_NKM."""
    ends_NM = np.array([[judge, 1.0, 9.0] for judge in judge_N])
    return np.stack([np.broadcast_to(BASE_M, ends_NM.shape), ends_NM], axis=1)


def p_values(differences_XN: np.ndarray) -> np.ndarray:
    """Paired t-tests along the last axis."""
    p_X: np.ndarray = ttest_1samp(differences_XN, 0.0, axis=-1).pvalue
    return p_X


def welch_p_values(a_RN: np.ndarray, b_RN: np.ndarray) -> np.ndarray:
    """Welch's test of two unpaired samples (Welch 1947)."""
    n = a_RN.shape[1]
    errors_2R = np.stack([a_RN.var(1, ddof=1), b_RN.var(1, ddof=1)]) / n
    freedom_R = errors_2R.sum(0) ** 2 / (errors_2R**2 / (n - 1)).sum(0)
    t_R = (a_RN.mean(1) - b_RN.mean(1)) / np.sqrt(errors_2R.sum(0))
    return np.asarray(2 * t.sf(np.abs(t_R), freedom_R))


def any_pair_R(values_RAN: np.ndarray) -> np.ndarray:
    """Whether any two of the A names differ: the smallest p-value of m pairs is below 5% / m, Holm's first step."""
    pairs = list(combinations(range(values_RAN.shape[1]), 2))
    p_RM = np.stack([p_values(values_RAN[:, a] - values_RAN[:, b]) for a, b in pairs], axis=-1)
    below_R: np.ndarray = p_RM.min(-1) < 0.05 / len(pairs)
    return below_R


def power(d: float, n: int) -> float:
    """The paired t-test's power at the level 5%, from the noncentral t distribution."""
    limit, shift = t.ppf(0.975, n - 1), d * np.sqrt(n)
    wrong_side = nct.cdf(-limit, n - 1, shift)  # scipy gives nan where it is too small for it
    return float(nct.sf(limit, n - 1, shift) + np.nan_to_num(wrong_side))


def page_of(name: str) -> str:
    """What stands between the markers of a table in docs/statistics.md."""
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(f"<!-- {name} -->")
    return rest.partition(f"<!-- end {name} -->")[0].strip()


def table(name: str) -> list[dict[str, str]]:
    """A table of docs/statistics.md: its lines by column."""
    head, _, *lines = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in page_of(name).splitlines()
    )
    return [dict(zip(head, line, strict=True)) for line in lines]


def percent(share: float) -> str:
    return f"{100 * share:.1f}%"


# --- stored runs -------------------------------------------------------------------------------------------------


def tidy(rows: list[tuple[str, int, int, tuple[float, float, float]]]) -> pd.DataFrame:
    counts = dict.fromkeys(("updates", "completions", "tokens", "flops", "seconds"), 0.0)
    return pd.DataFrame(
        {
            "arm": arm,
            "algorithm": arm,
            "seed": seed,
            "point": point,
            **counts,
            "metric": metric,
            "value": value,
        }
        for arm, seed, point, values in rows
        for metric, value in zip(METRICS, values, strict=True)
    )


def finished(tmp_path: Path, start: float = 5.0, status: str = "done") -> World:
    """Two arms of two seeds; the last run starts at a total cost of `start` and ended as `status` says."""
    rows = [
        (arm, seed, point, (0.4 + 0.1 * point + 0.01 * seed * point, float(point), 5.0 + point))
        for arm in ("a", "b")
        for seed in (0, 1)
        for point in (0, 1, 2)
    ]
    rows[9] = ("b", 1, 0, (0.4, 0.0, start))
    runs = pd.DataFrame(
        {"arm": ["a", "a", "b", "b"], "algorithm": ["a", "a", "b", "b"], "seed": [0, 1, 0, 1], "status": ["done"] * 3 + [status]}
    )  # fmt: skip
    return World(tmp_path, tidy(rows), pd.DataFrame(), pd.DataFrame(), runs)


def test_runs_go_through_the_table_unchanged(tmp_path: Path) -> None:
    collect(finished(tmp_path)).to_csv(tmp_path / "runs.csv", index=False)
    found = read(tmp_path / "runs.csv")
    assert set(found.paths) == {"a", "b"}
    expected = [[[0.4, 0, 5], [0.5, 1, 6], [0.6, 2, 7]], [[0.4, 0, 5], [0.51, 1, 6], [0.62, 2, 7]]]
    np.testing.assert_allclose(found.paths["b"], expected)
    assert (found.seeds, found.base) == (2, 0.4)
    np.testing.assert_allclose(found.ends("a"), [0.6, 0.62])


@pytest.mark.parametrize(
    ("damage", "says"),
    [({"start": 6.0}, "different costs"), ({"status": "failed"}, "did not reach their end")],
)
def test_runs_that_one_table_cannot_hold_are_refused(
    tmp_path: Path, damage: dict[str, float | str], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        collect(finished(tmp_path, **damage))  # type: ignore[arg-type]


# --- trials ------------------------------------------------------------------------------------------------------


def test_a_comparison_pairs_the_runs_in_their_order() -> None:
    view = comparison({"x": runs_of([0.5, 0.6, 0.8]), "y": runs_of([0.4, 0.6, 0.5])})
    (pair,) = own_end(view).pairs
    assert (pair.first, pair.second) == ("x", "y")
    np.testing.assert_allclose(pair.differences, [0.1, 0.0, 0.3])


def test_repetitions_share_no_run_and_names_share_no_seed() -> None:
    seeds_RAN = repetitions(403, 5, names=2)
    assert seeds_RAN.shape == (40, 2, 5)
    assert sorted(seeds_RAN.ravel()) == list(range(400))
    np.testing.assert_array_equal(repetitions(40, 3, names=2)[1], [[10, 11, 12], [15, 16, 17]])
    np.testing.assert_array_equal(repetitions(40, 3)[1], [[10, 11, 12]])


def test_resamplings_are_disjoint_and_follow_the_generator() -> None:
    first, again, other = (resamplings(20, 5, 3, 200, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first.shape == (200, 3, 5)
    assert all(len(set(seeds.ravel())) == 15 for seeds in first)
    assert set(np.unique(first)) == set(range(20))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("names", [2, 3])
def test_claims_are_those_of_paired_t_tests_with_holm(names: int) -> None:
    judge_S = np.random.default_rng(3).standard_t(4, 100)
    seeds_RAN = resamplings(100, 4, names, 300, np.random.default_rng(0))
    found_R = false_claims([own_end], runs_of(list(judge_S)), seeds_RAN)[:, 0]
    np.testing.assert_array_equal(found_R, any_pair_R(judge_S[seeds_RAN]))
    assert 0 < found_R.sum() < 60


def test_one_column_a_rule_nan_where_it_cannot_read() -> None:
    """The only evaluation after the start is at KL 1, which every run reaches; half way there nothing was measured."""
    apart, alike = runs_of([0.9, 0.91, 0.92]), runs_of([0.1, 0.12, 0.11])
    near = apart.copy()
    near[0, 1, METRICS.index(KL)] = 0.5
    np.testing.assert_array_equal(
        claimed([own_end, matched_kl], [(apart, alike), (near, alike)]), [[1, 1], [1, np.nan]]
    )


def test_rules_are_told_apart_by_their_columns() -> None:
    apart, alike = runs_of([0.9, 0.91, 0.92]), runs_of([0.1, 0.12, 0.11])
    rules = [own_end, lambda view: own_end(comparison({"a": alike, "b": alike}))]
    np.testing.assert_array_equal(claimed(rules, [(apart, alike), (alike, alike)]), [[1, 0], [0, 0]])


def test_a_pilot_asks_for_the_seeds_that_reach_the_power() -> None:
    ends_S = np.full(MOST_SEEDS, 0.55)
    ends_S[:3] = [0.5, 0.6, 0.5]
    base_S = np.full(MOST_SEEDS, 0.5)
    paths_SKM = runs_of(list(np.concatenate([ends_S, base_S])))
    seeds_RAN = np.arange(2 * MOST_SEEDS).reshape(1, 2, MOST_SEEDS)
    (found,) = forecasts(3, paths_SKM, paths_SKM, seeds_RAN)
    d = float(np.mean([0, 0.1, 0]) / np.std([0, 0.1, 0], ddof=1))
    assert found.wanted == next(n for n in range(4, 1000) if power(d, n) >= 0.8)
    assert (found.at_once, found.found) == (False, True)


def test_a_pilot_may_find_the_difference_or_ask_for_too_many() -> None:
    apart, alike = runs_of([0.9, 0.91, 0.92]), runs_of([0.1, 0.12, 0.11])
    seeds_RAN = np.array([[[0, 1, 2], [0, 1, 2]]])
    (clear,) = forecasts(3, apart, alike, seeds_RAN)
    assert (clear.at_once, clear.wanted) == (True, None)
    (unclear,) = forecasts(3, runs_of([0.5, 0.4, 0.6]), runs_of([0.4, 0.5, 0.599]), seeds_RAN)
    assert (unclear.at_once, unclear.wanted, unclear.found) == (False, None, False)


# --- the page ----------------------------------------------------------------------------------------------------


def test_the_runs_that_are_kept_are_small_and_whole() -> None:
    assert CSV.stat().st_size < 100_000
    shapes = {arm: paths_SKM.shape for arm, paths_SKM in stored().paths.items()}
    assert shapes == dict.fromkeys(tables.ARMS, (400, 3, len(METRICS)))


@pytest.mark.parametrize("name", ["stored-runs", "real-false-claims"])
def test_docs_hold_the_quick_tables(name: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        assert page_of(name) == tables.TABLES[name](stored(), pool)


def test_docs_false_claims_of_resampled_runs() -> None:
    lines = table("resampled-false-claims")
    assert len(lines) == 9
    for line in lines:
        names, n = int(line["names"]), int(line["seeds a name"])
        values_RAN = stored().ends(line["arm"])[tables.draws_of(stored(), n, names)]
        assert line["own ends"] == percent(any_pair_R(values_RAN).mean()), line


def test_docs_power_of_a_real_difference() -> None:
    differences_S = stored().ends("ppo") - stored().ends("reinforce")
    mean, sd = differences_S.mean(), differences_S.std(ddof=1)
    lines = table("found-differences")
    assert [line["seeds"] for line in lines] == ["3", "5", "10"]
    for line in lines:
        n = int(line["seeds"])
        assert (float(line["ppo − reinforce"]), float(line["sd"])) == (round(mean, 4), round(sd, 4))
        assert line["power predicted"] == percent(power(mean / sd, n))
        draws_RN = tables.draws_of(stored(), n, 1)[:, 0]
        assert line["found, resampled"] == percent((p_values(differences_S[draws_RN]) < 0.05).mean())
        welch_R = welch_p_values(*(stored().ends(arm)[draws_RN] for arm in tables.ARMS))
        assert line["by Welch's test, unpaired"] == percent((welch_R < 0.05).mean())
        assert int(line["found"]) == (p_values(differences_S.reshape(40, 10)[:, :n]) < 0.05).sum()


def test_docs_seeds_asked_for_and_what_they_find() -> None:
    ends = {arm: stored().ends(arm) for arm in tables.ARMS}
    paired_RN = tables.draws_of(stored(), MOST_SEEDS, 1)[:, 0]
    disjoint_RAN = tables.draws_of(stored(), MOST_SEEDS, 2)
    differences = {
        "reinforce and ppo": ends["reinforce"][paired_RN] - ends["ppo"][paired_RN],
        "reinforce twice": ends["reinforce"][disjoint_RAN[:, 0]] - ends["reinforce"][disjoint_RAN[:, 1]],
    }
    d = float(np.mean(ends["ppo"] - ends["reinforce"]) / np.std(ends["ppo"] - ends["reinforce"], ddof=1))
    truly = {
        "reinforce and ppo": next(str(n) for n in range(2, 100) if power(d, n) >= 0.8),
        "reinforce twice": "–",
    }
    enough_N = [brentq(lambda d, n=n: power(d, n) - 0.8, 0.01, 50) for n in range(MOST_SEEDS, 1, -1)]
    for line in table("seeds-asked-for"):
        cells = forecast_cells(differences[line["arms"]], int(line["pilot's seeds"]), enough_N)
        assert line["truly needed"] == truly[line["arms"]]
        assert list(line.values())[3:] == cells, line


def forecast_cells(differences_RN: np.ndarray, pilot: int, enough_N: list[float]) -> list[str]:
    """A line of the table. enough_N: the standardised differences that MOST_SEEDS, …, 3, 2 seeds find 80% of the time."""
    first_RN = differences_RN[:, :pilot]
    d_R = np.abs(first_RN.mean(1)) / first_RN.std(1, ddof=1)
    wanted_R = MOST_SEEDS + 1 - np.searchsorted(enough_N, d_R, side="right")
    at_once_R = p_values(first_RN) < 0.05
    asks_R = ~at_once_R & (wanted_R <= MOST_SEEDS)
    found_R = np.abs(prefix_t(differences_RN[asks_R], wanted_R[asks_R])) > t.ppf(0.975, wanted_R[asks_R] - 1)
    low, middle, high = np.percentile(wanted_R[asks_R], [25, 50, 75])
    return [
        percent(at_once_R.mean()),
        percent(1 - at_once_R.mean() - asks_R.mean()),
        f"{middle:.0f} [{low:.0f}, {high:.0f}]",
        percent(found_R.mean()),
        percent((at_once_R.sum() + found_R.sum()) / len(at_once_R)),
    ]


def prefix_t(values_RN: np.ndarray, n_R: np.ndarray) -> np.ndarray:
    """The t statistic of the first n values of every row."""
    sums_R, squares_R = (
        np.take_along_axis(powers_RN.cumsum(1), n_R[:, None] - 1, axis=1)[:, 0]
        for powers_RN in (values_RN, values_RN**2)
    )
    variance_R = (squares_R - sums_R**2 / n_R) / (n_R - 1)
    t_R: np.ndarray = sums_R / n_R / np.sqrt(variance_R / n_R)
    return t_R


@pytest.mark.slow
def test_docs_false_claims_of_all_three_comparisons() -> None:
    lines = [line for line in table("resampled-false-claims") if line["any of the three"] != "–"]
    assert [(line["arm"], line["seeds a name"]) for line in lines] == [(arm, "5") for arm in tables.ARMS]
    seeds_RAN = tables.draws_of(stored(), 5, 2)
    claimed_RQ = false_claims(tables.RULES, stored().paths[tables.ARMS[0]], seeds_RAN)
    readable_R = ~np.isnan(claimed_RQ[:, 2])
    shares = [*np.nanmean(claimed_RQ, axis=0), readable_R.mean(), (claimed_RQ == 1).any(1).mean()]
    assert [lines[0][head] for head in tables.RULE_HEADS] == [percent(share) for share in shares]


def test_false_claims_are_as_rare_as_promised() -> None:
    """Within a point of 5% for two names at their own ends; in real repetitions within the binomial band."""
    for line in table("resampled-false-claims"):
        if line["names"] == "2":
            assert abs(float(line["own ends"].rstrip("%")) - 5) <= 1
        else:
            assert float(line["own ends"].rstrip("%")) <= 6
    for line in table("real-false-claims"):
        low, high = map(int, line["99% band of 5%"].split(" to "))
        assert low <= int(line["own ends"]) <= high
