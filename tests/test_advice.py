"""The recommendation follows its rule, by brute force."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from crbsvd_plugin.advice import Choice, Outcome, Row, Share, recommend
from crbsvd_plugin.errors import UserError

NAN = float("nan")
Table = dict[tuple[int, float], dict[str, float]]


def rows_of(table: Table) -> list[Row]:
    """Return the rows of the means over all tissues, between others that must not count."""
    rows = []
    for (rank, weight), means in table.items():
        for name, mean in means.items():
            figure = "energy" if name == "signal" else "exact"
            row = Row(weight, rank, "all", name, figure, mean, 0.99, 0.99)
            rows += [replace(row, tissue="csf", mean=0.0), row]
            if name != "signal":
                rows += [replace(row, figure="approximate", mean=0.0), replace(row, figure="retained", mean=1 - mean)]
    return rows


def chosen(table: Table, crb: float = 0.05, energy: float = 0.01) -> Choice:
    return recommend(rows_of(table), max_crb_loss=crb, max_energy_loss=energy)


def brute(table: Table, crb: float, energy: float) -> tuple[int, float, bool]:
    """Return rank, weight and whether within the budget: rank by rank, as the rule says it."""

    def worst(key: tuple[int, float]) -> float:
        return max(mean for name, mean in table[key].items() if name != "signal" and mean == mean)

    ranks = sorted({rank for rank, _ in table})
    for rank in ranks:
        weights = sorted(weight for r, weight in table if r == rank)
        kept = [w for w in weights if worst((rank, w)) <= crb and table[rank, w]["signal"] <= energy]
        if kept:
            best = kept[0]
            for weight in kept:
                best = weight if worst((rank, weight)) < worst((rank, best)) else best
            return rank, best, True
    factors = {w: max(worst((r, w)) / crb, table[r, w]["signal"] / energy) for r, w in table if r == ranks[-1]}
    return ranks[-1], min(w for w in factors if factors[w] == min(factors.values())), False


def random_table(rng: np.random.Generator) -> Table:
    """Losses of a few values only, so that there are ties; from a rank on that is not 1, as all of two ranks."""
    ranks, weights = rng.permutation(4) + 1, rng.permutation(5) / 4
    levels = {"signal": [0.002, 0.01, 0.02], "T1": [0.01, 0.05, 0.06, 1.0], "T2": [0.02, 0.04, 0.3], "w0": [NAN]}
    return {
        (int(rank), float(weight)): {name: float(rng.choice(values)) for name, values in levels.items()}
        for rank in ranks
        for weight in weights
    }


def test_random_tables_by_brute_force(rng: np.random.Generator) -> None:
    seen = set()
    for _ in range(300):
        table = random_table(rng)
        crb, energy = rng.choice([0.015, 0.05]), rng.choice([0.002, 0.01])
        found = chosen(table, crb, energy)
        assert (found.rank, found.crb_weight, found.met) == brute(table, crb, energy)
        means = table[found.rank, found.crb_weight]
        assert (found.crb_loss, found.energy_loss) == (max(means["T1"], means["T2"]), means["signal"])
        seen.add((found.rank, found.met))
    assert seen >= {(1, True), (2, True), (4, False)}


def test_of_equals_the_smallest_weight_in_any_order() -> None:
    same = {"signal": 0.001, "T1": 0.03}
    for weights in ((0.1, 0.5, 0.9), (0.9, 0.5, 0.1)):
        assert chosen({(3, weight): same for weight in weights}).crb_weight == 0.1
        outside = chosen({(3, weight): same for weight in weights}, crb=0.01)
        assert (outside.crb_weight, outside.met) == (0.1, False)


def test_at_the_budget_is_within_it() -> None:
    assert chosen({(2, 0.5): {"signal": 0.01, "T1": 0.05}}).met
    assert not chosen({(2, 0.5): {"signal": 0.010001, "T1": 0.05}}).met
    assert not chosen({(2, 0.5): {"signal": 0.01, "T1": 0.050001}}).met


def test_what_cannot_be_estimated_at_small_ranks_is_not_recommended_there() -> None:
    table: Table = {
        (rank, w): {"signal": 1e-4, "T1": 1.0 if rank < 4 else 0.01} for rank in (1, 3, 4) for w in (0, 0.5)
    }
    assert (chosen(table).rank, chosen(table).met) == (4, True)
    # where no rank suffices all weights lose everything: the smallest of them, and the truth about it
    none = chosen({key: means for key, means in table.items() if key[0] < 4})
    assert (none.rank, none.crb_weight, none.crb_loss, none.met) == (3, 0, 1.0, False)


@pytest.mark.parametrize("names", [("T1", "w0"), ("w0", "T1")])
def test_what_cannot_be_estimated_even_uncompressed_does_not_count(names: tuple[str, str]) -> None:
    means = {"signal": 0.001, **{name: NAN if name == "w0" else 0.02 for name in names}}
    found = chosen({(3, 0.0): means, (3, 0.5): {**means, "T1": 0.01}})
    assert (found.crb_weight, found.crb_loss, found.met) == (0.5, 0.01, True)


def test_the_rule_is_said_in_words() -> None:
    table: Table = {(2, 0.0): {"signal": 0.02, "T1": 0.3}, (5, 0.0): {"signal": 0.02, "T1": 0.06}}
    rule = chosen(table, crb=0.1, energy=0.03).rule
    assert rule.startswith("the smallest rank at which some weight keeps")
    assert "CRB loss of every parameter at most 0.1 and energy loss at most 0.03" in rule
    rule = chosen(table).rule
    assert rule.startswith("no rank up to 5 keeps the mean exact CRB loss of every parameter at most 0.05")
    assert rule.endswith("allow a larger rank or a larger loss")


def test_signals_without_a_weight_have_no_budget() -> None:
    table = {(1, 0.5): {"T1": 0.2}, (2, 0.5): {"T1": 0.04}, (2, 0.6): {"T1": 0.03}}
    choice = chosen(table)
    assert (choice.rank, choice.crb_weight, choice.crb_loss, choice.energy_loss) == (2, 0.6, 0.03, None)
    assert "3.00 % of the CRB." in Outcome(choice).text
    assert "energy." not in Outcome(choice).text
    assert not chosen(table, crb=0.01).met


def test_nothing_to_estimate_is_refused() -> None:
    for table in ({(2, 0.0): {"signal": 0.1}}, {(2, 0.0): {"signal": 0.1, "T1": NAN}}, {}):
        with pytest.raises(UserError, match="no parameter can be estimated from these fingerprints"):
            chosen(table)


def test_the_outcome_in_words() -> None:
    choice = Choice(0.4, 5, 0.04, 0.0005, True, "the rule")
    losses = {"signal": 0.0005, "T1": 0.04}
    shares = [
        Share(1.0, 0.4, 5, 0.0, losses),
        Share(0.5, 0.4, 5, np.pi / 180, losses | {"T1": 0.039}),
        Share(0.5, 0.3, 5, 1.0, losses | {"T1": 1.0}),
    ]
    take, rule, convergence = Outcome(choice, shares).text.splitlines()
    assert take.startswith("take --rank 5 --crb-weight 0.4: its worst parameter loses 4.00 % of the CRB")
    assert "0.050 % of their energy" in take
    assert rule == "Rule: the rule."
    assert convergence == (
        "From 50 % of the training fingerprints its subspace turns by 1 degrees, "
        "and no loss changes by more than 0.1 percentage points."
    )
    assert Outcome(choice).text.count("\n") == 1
