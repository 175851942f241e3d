"""Rows held out by whole groups."""

from collections import Counter

from hub.data.splits import hold_out


def rows_of(counts):
    """Rows by (group, label): number."""
    return [{"label": label, "group": group} for (group, label), count in counts.items() for _ in range(count)]


def test_no_group_is_on_both_sides_and_shares_are_near_a_fifth():
    rows = rows_of({(f"{label}{number}", label): 4 + number for label in "abc" for number in range(8)})
    train, held_out = hold_out(rows, seed=0)
    assert not {row["group"] for row in train} & {row["group"] for row in held_out}
    totals, held = (Counter(row["label"] for row in part) for part in (rows, held_out))
    assert all(0.15 < held[label] / totals[label] < 0.27 for label in "abc")
    assert hold_out(rows, seed=0) == (train, held_out)
    assert hold_out(rows, seed=1) != (train, held_out)


def test_a_class_of_few_large_groups_is_on_both_sides():
    rows = rows_of({("big", "a"): 60, ("small", "a"): 2} | {(f"g{number}", "b"): 5 for number in range(8)})
    train, held_out = hold_out(rows, seed=0)
    assert {row["label"] for row in train} == {row["label"] for row in held_out} == {"a", "b"}


def test_too_few_groups_or_rows_hold_nothing_out():
    rows = rows_of({("g", "a"): 9, ("h", "a"): 9})
    assert hold_out(rows, seed=0) == (rows, [])
    rows = [{"label": label} for label in "aaaaaab"]
    assert hold_out(rows, seed=0) == (rows, [])


def test_rows_without_groups_are_held_out_by_class():
    rows = [{"label": label, "id": index} for index, label in enumerate("ab" * 20)]
    train, held_out = hold_out(rows, seed=0)
    assert Counter(row["label"] for row in held_out) == {"a": 4, "b": 4}
    assert len(train) == 32
