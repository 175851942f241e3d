"""`cells.csv` of `hub predict` as spreadsheets read it."""

import csv

NUMBERS = ("left", "top", "right", "bottom", "score", "distance", "novelty", "focus")


def table(output):
    """The rows of the table in a folder."""
    with open(output / "cells.csv", newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def assert_same_answers(output, expected):
    """The same rows in the same order; numbers differ in their last digit, as other crops were in the batch."""
    rows, expected = table(output), table(expected)
    assert [row["file"] for row in rows] == [row["file"] for row in expected]
    for row, other in zip(rows, expected, strict=True):
        assert row.keys() == other.keys()
        for key, value in row.items():
            if value != other[key]:
                assert abs(float(value) - float(other[key])) < 2e-3, (key, value, other[key])
