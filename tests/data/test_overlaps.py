"""Photographs that overlap, and the fields that follow."""

import pytest

from hub.data.overlaps import Overlap, fields, find_overlaps
from hub.data.sift import grey
from tests.raw_folders import encode


def test_a_shifted_field_overlaps_and_no_other_does(drawn):
    every_other = list(drawn)[::2]
    (overlap,) = find_overlaps({name: grey(encode(drawn[name])) for name in every_other})
    assert (overlap.first, overlap.second) == ("BloodImage_00000", "BloodImage_00032")
    assert overlap.shift == (-50, -30)  # in pixels of 320 x 240
    assert overlap.area == pytest.approx((270 / 320) * (210 / 240), abs=0.001)
    assert overlap.correlation > 0.95


def test_fields_join_what_overlaps_through_others():
    pairs = [("b", "c"), ("d", "e"), ("a", "c")]
    overlaps = [Overlap(first, second, (0, 0), 1.0, 1.0) for first, second in pairs]
    assert fields("abcdef", overlaps) == {"a": "a", "b": "a", "c": "a", "d": "d", "e": "d", "f": "f"}
