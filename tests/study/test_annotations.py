"""Annotated boxes, and their match with detections."""

import itertools

import pytest
import torch
from torchvision.ops import box_iou

from hub.files import UserError
from hub.study.annotations import count_matches, read_boxes
from tests.study.voc import annotation


def test_reads_the_white_cells_of_an_annotation(tmp_path):
    path = tmp_path / "BloodImage_00001.xml"
    path.write_text(annotation([(10, 20, 30, 40), (50, 60, 70, 80)]))
    assert read_boxes(path) == [(10, 20, 30, 40), (50, 60, 70, 80)]
    path.write_text(annotation([]))
    assert read_boxes(path) == []
    for broken in ("", "<annotation>", annotation([("x", 1, 2, 3)])):
        path.write_text(broken)
        with pytest.raises(UserError, match=r"BloodImage_00001\.xml is no Pascal VOC annotation"):
            read_boxes(path)


def test_matches_as_many_boxes_as_can_be_matched():
    generator = torch.Generator().manual_seed(0)
    for n, m in itertools.product(range(4), range(1, 4)):
        for _ in range(20):
            boxes, annotated = (
                torch.cat((low, low + 8 + 8 * torch.rand(k, 2, generator=generator)), 1)
                for k in (n, m)
                for low in [8 * torch.rand(k, 2, generator=generator)]
            )
            overlap = (box_iou(boxes, annotated) >= 0.5).tolist()
            middles = ((boxes[:, :2] + boxes[:, 2:]) / 2).tolist()
            inside = [[a <= x <= c and b <= y <= d for a, b, c, d in annotated.tolist()] for x, y in middles]
            best = tuple(
                max(
                    sum(pairs[i][j] for i, j in zip(rows, columns, strict=True))
                    for k in [min(n, m)]
                    for rows in itertools.permutations(range(n), k)
                    for columns in itertools.permutations(range(m), k)
                )
                for pairs in (overlap, inside)
            )
            assert count_matches(boxes, annotated) == best
    assert count_matches(torch.zeros(0, 4), torch.zeros(0, 4)) == (0, 0)
