"""Audit of BCCD's labels: the photographs whose label cross-validation contradicts.

The judge is independent of the network: simple measurements of the annotated cell's colours and of its nucleus, and
two standard classifiers of scikit-learn, averaged. Each photograph is judged by classifiers that have not seen it, nor
any other photograph of its field. A contradicted label is not wrong but worth a look. `hub/data/label_audit.csv` holds
the labels that are doubtful after a look at each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from PIL import Image
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import ExtraTreesClassifier, VotingClassifier
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from hub.data.bccd import BCCD_CLASSES, find_photographs
from hub.data.photographs import register
from hub.evaluation.sheets import captioned, contact_sheet
from hub.files import UserError, check_output
from hub.study.annotations import ANNOTATIONS_ORIGIN, read_boxes
from modeling_wbc.reading_wbc import read_image

# Side in pixels of the crop that is measured, and of a crop in the picture.
_SIDE = 96
_SIDE_IN_SHEET = 200
_FOLDS = 5
_REPEATS = 2


@dataclass(frozen=True)
class Judgement:
    """The judgement of one photograph by cross-validation.

    Attributes:
        photograph: Its name.
        label: The publisher's class.
        predicted: The judge's class.
        confidence: The judge's probability of `predicted`, in [0, 1].
    """

    photograph: str
    label: str
    predicted: str
    confidence: float


def audit(source: Path, output: Path) -> tuple[list[Judgement], list[Judgement]]:
    """Judge BCCD's photographs by cross-validation; write `judgements.csv` and `wrong.png` to a folder.

    Args:
        source: Holds `Original_Images`, `labels.csv` and `Annotations`.
        output: A folder to write; new or empty.

    Returns:
        All judgements, and those that contradict the label, the most confident first.

    Raises:
        UserError: The photographs or annotations are not there, or `output` is not empty.
        OSError: A file cannot be read or written.
    """
    check_output(output)
    rows, labels = find_photographs(source)
    if not rows:
        raise UserError(f"{source} holds no folder Original_Images (or JPEGImages) with labels.csv")
    photographs = {name: row["image"]["bytes"] for name, row in rows.items()}
    registration = register({}, photographs, labels, source / "photographs.json")
    labels = {name: label for name, label in labels.items() if label in BCCD_CLASSES}
    judgements = judge_photographs(photographs, labels, registration.fields, source / "Annotations")
    judgements.sort(key=lambda judgement: (judgement.predicted == judgement.label, -judgement.confidence))
    wrong = [judgement for judgement in judgements if judgement.predicted != judgement.label]
    output.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(map(asdict, judgements))
    path = output / "judgements.csv"
    table.to_csv(path, index=False, float_format="%.3f", lineterminator="\r\n", encoding="utf-8")
    audit_sheet(wrong, photographs, source / "Annotations").save(output / "wrong.png")
    return judgements, wrong


def describe(judgements: Sequence[Judgement], wrong: Sequence[Judgement]) -> str:
    """The result of `audit` in a sentence."""
    sure = sum(judgement.confidence >= 0.5 for judgement in wrong)
    return (
        f"{len(judgements) - len(wrong)} of {len(judgements)} photographs judged as labelled, {len(wrong)} otherwise, "
        f"{sure} of these with a confidence of 0.5 or more"
    )


def judge_photographs(
    photographs: Mapping[str, bytes], labels: Mapping[str, str], fields: Mapping[str, str], annotations: Path
) -> list[Judgement]:
    """Judge every photograph of `labels` by cross-validation.

    Args:
        photographs: The encoded photographs by name.
        labels: The class of each photograph that is to be judged.
        fields: The field of each, see `hub.data.photographs.Registration`.
        annotations: The folder of the Pascal VOC files, `<photograph>.xml`. A photograph without one is judged whole.

    Raises:
        UserError: There is no such folder, or a file in it is no Pascal VOC annotation.
    """
    if not annotations.is_dir():
        raise UserError(f"no such folder: {annotations}; {ANNOTATIONS_ORIGIN}")
    features = []
    for name in labels:
        features.append(cell_features(read_image(photographs[name]), _largest_box(annotations, name)))
    return judge(np.stack(features), labels, fields)


def crop_around(photograph: Image.Image, box: tuple[int, int, int, int] | None, scale: float) -> Image.Image:
    """Crop the square around the middle of `box` whose side is `scale` times the box's longer side; all without a box.

    The box is left, top, right and bottom in pixels.
    """
    if box is None:
        return photograph
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    half = scale * max(box[2] - box[0], box[3] - box[1]) / 2
    return photograph.crop((int(x - half), int(y - half), int(x + half), int(y + half)))


def cell_features(photograph: Image.Image, box: tuple[int, int, int, int] | None) -> np.ndarray:
    """Measure the colours of a cell and the parts of its nucleus: float64 (K,).

    Histograms and percentiles of optical density (minus the logarithm of the light that the cell lets through,
    relative to the background of its photograph) and of CIELAB colour within the circle in the crop around `box`; the
    shares of it that the largest dark parts cover; the sharpness of its grain.
    """
    field = np.asarray(photograph, dtype=np.float32)
    background = np.percentile(field.reshape(-1, 3), 90, axis=0)
    pixels = np.asarray(crop_around(photograph, box, 1.1).resize((_SIDE, _SIDE)), dtype=np.float32)
    row, column = np.mgrid[:_SIDE, :_SIDE] - (_SIDE - 1) / 2
    inside = row**2 + column**2 < (0.46 * _SIDE) ** 2

    density = np.clip(-np.log((pixels + 1) / (background + 1)), -0.2, 3).astype(np.float32)
    grey = density.mean(axis=2)
    lab = cv2.cvtColor(pixels / 255, cv2.COLOR_RGB2Lab)
    densities, _ = np.histogramdd(density[inside], bins=[np.linspace(-0.1, 1.6, 7)] * 3)
    hues, _ = np.histogramdd(lab[inside][:, 1:], bins=[np.linspace(-10, 50, 10), np.linspace(-70, 20, 10)])
    dark = ((grey > np.median(grey[inside])) & inside).astype(np.uint8)
    _, _, parts, _ = cv2.connectedComponentsWithStats(cv2.morphologyEx(dark, cv2.MORPH_OPEN, np.ones((3, 3))))
    areas = np.sort(np.append(parts[1:, cv2.CC_STAT_AREA], [0] * 4))[::-1][:4] / inside.sum()
    levels = [10, 25, 50, 75, 90]
    return np.concatenate(
        [
            *(np.sqrt(histogram.ravel() / max(1, histogram.sum())) for histogram in (densities, hues)),
            density[inside].mean(axis=0),
            density[inside].std(axis=0),
            np.percentile(density[inside], levels, axis=0).ravel(),
            np.percentile(lab[inside], levels, axis=0).ravel(),
            areas,
            [cv2.Laplacian(grey, cv2.CV_32F)[inside].std()],
        ]
    )


def judge(features: np.ndarray, labels: Mapping[str, str], fields: Mapping[str, str]) -> list[Judgement]:
    """Cross-validate over fields: a judgement of each photograph, in the order of `labels`.

    Args:
        features: float (N, K), the measurements of N photographs.
        labels: The classes of the N photographs, by name.
        fields: The field of each, by name.
    """
    names, classes = list(labels), np.array(list(labels.values()))
    groups = np.array([fields[name] for name in names])
    known = np.unique(classes)
    probabilities = np.zeros((len(names), len(known)))
    for repeat in range(_REPEATS):
        folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=repeat)
        for seen, unseen in folds.split(features, classes, groups):
            machine = SVC(C=3, class_weight="balanced")
            trees = ExtraTreesClassifier(600, min_samples_leaf=2, class_weight="balanced", random_state=repeat)
            judges = VotingClassifier(
                [
                    ("machine", make_pipeline(StandardScaler(), CalibratedClassifierCV(machine, ensemble=False))),
                    ("trees", trees),
                ],
                voting="soft",
            ).fit(features[seen], classes[seen])
            columns = np.searchsorted(known, judges.classes_)
            probabilities[np.ix_(unseen, columns)] += judges.predict_proba(features[unseen]) / _REPEATS
    return [
        Judgement(name, label, str(known[row.argmax()]), float(row.max()))
        for name, label, row in zip(names, classes.tolist(), probabilities, strict=True)
    ]


def audit_sheet(wrong: Sequence[Judgement], photographs: Mapping[str, bytes], annotations: Path) -> Image.Image:
    """The cells of some judgements side by side, each with its label and the judge's class."""
    tiles = []
    for judgement in wrong:
        photograph = read_image(photographs[judgement.photograph])
        cell = crop_around(photograph, _largest_box(annotations, judgement.photograph), 1.5)
        caption = f"{judgement.photograph}: {judgement.label}\n{judgement.predicted} {judgement.confidence:.2f}"
        tiles.append(captioned(cell.resize((_SIDE_IN_SHEET, _SIDE_IN_SHEET)), caption))
    return contact_sheet(tiles, columns=8, width=_SIDE_IN_SHEET)


def _largest_box(annotations: Path, photograph: str) -> tuple[int, int, int, int] | None:
    """The largest annotated white cell of a photograph, None without one."""
    path = annotations / f"{photograph}.xml"
    boxes = read_boxes(path) if path.is_file() else []
    return max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]), default=None)
