"""Raw folders of images in small, as their publishers lay them out, made for tests."""

import csv
import io

import numpy as np
import torch
from PIL import Image
from sklearn.model_selection import train_test_split
from torchvision.transforms import InterpolationMode, v2

from hub.data.bccd import BCCD_CLASSES
from hub.data.columns import ATTRIBUTES, class_counts
from hub.data.pbc import PBC_CLASSES
from hub.data.synthetic import draw_field

BCCD_COUNTS = {"TRAIN": 3, "TEST": 2, "TEST_SIMPLE": 1}
# Classes of drawn photographs; the split that the publisher's seed gives of these 36 has all classes on both sides.
LABELS = ["eosinophil", "lymphocyte", "monocyte", "neutrophil"] * 9
FILES_OF_PHOTOGRAPH = 2


def jpeg(shade=0, size=(24, 16)):
    """An encoded image; different for every `shade` from 0 to 255."""
    content = io.BytesIO()
    Image.effect_noise(size, 40).point(lambda value: (value + shade) % 256).convert("RGB").save(content, "JPEG")
    return content.getvalue()


def encode(image, format="JPEG"):
    content = io.BytesIO()
    image.save(content, format, quality=92)
    return content.getvalue()


def make_bccd(folder):
    """BCCD in small: 3, 2 and 1 images of each class in TRAIN, TEST and TEST_SIMPLE."""
    for split, count in BCCD_COUNTS.items():
        for position, name in enumerate(BCCD_CLASSES):
            (folder / split / name.upper()).mkdir(parents=True)
            for index in range(count):
                (folder / split / name.upper() / f"_{index}_{position}.jpeg").write_bytes(jpeg(17 * index + position))
    return folder


def make_pbc(folder, count=10):
    for name in PBC_CLASSES:
        (folder / name).mkdir(parents=True)
        for index in range(count):
            (folder / name / f"{name[:2].upper()}_{index:03d}.jpg").write_bytes(jpeg(index))
    return folder


def counts(dataset):
    return {split: list(class_counts(part).values()) for split, part in dataset.items()}


def augmented(photograph, seed):
    """An encoded file as BCCD's publisher made them of photographs: turned, shifted, sheared, flipped, stretched."""
    torch.manual_seed(seed)
    affine = v2.RandomAffine(20, translate=(0.1, 0.1), shear=11.5, interpolation=InterpolationMode.BILINEAR)
    flips = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()])
    pixels = np.asarray(flips(affine(photograph.resize((320, 240), Image.Resampling.BOX))), dtype=np.float32)
    pixels -= pixels.min()
    return encode(Image.fromarray(np.rint(pixels * (255 / pixels.max())).astype(np.uint8)))


def draw_photographs():
    """Photographs of BCCD's size by name, all of other fields but number 32, which shows that of number 0, shifted."""
    images = {}
    for number, label in enumerate(LABELS):
        images[f"BloodImage_{number:05d}"] = draw_field(label, seed=number, size=(640, 480))
    wide = draw_field(LABELS[0], seed=99, size=(800, 600))
    images["BloodImage_00000"] = wide.crop((0, 0, 640, 480))
    images["BloodImage_00032"] = wide.crop((100, 60, 740, 540))
    return images


def make_bccd_with_photographs(folder, drawn):
    """BCCD in small, laid out and made as its publisher did: files of each photograph, numbered in order."""
    (folder / "Original_Images").mkdir(parents=True)
    for name, image in drawn.items():
        (folder / "Original_Images" / f"{name}.jpg").write_bytes(encode(image))
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["", "Image", "Category"])
        writer.writerows(("", number, label.upper()) for number, label in enumerate(LABELS))
        writer.writerow(["", 36, "NEUTROPHIL, EOSINOPHIL"])
        writer.writerow(["", 37, ""])
    train_names, test_names = train_test_split(list(drawn), test_size=0.2, random_state=10)
    seed = 0
    for split, names in {"TRAIN": train_names, "TEST": test_names, "TEST_SIMPLE": test_names}.items():
        for name in names:
            number = int(name[-5:])
            place = folder / "images" / split / LABELS[number].upper()
            place.mkdir(parents=True, exist_ok=True)
            if split == "TEST_SIMPLE":
                plain = drawn[name].resize((320, 240), Image.Resampling.BOX)
                (place / f"_{number}_0.jpeg").write_bytes(encode(plain))
                continue
            for _ in range(FILES_OF_PHOTOGRAPH):
                (place / f"_{seed}_{7919 * seed % 9973}.jpeg").write_bytes(augmented(drawn[name], seed))
                seed += 1
    return folder


def make_classes(folder, names, count, start=0):
    """A folder for each class, each with so many images that differ."""
    for position, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            (folder / name / f"{name}_{index:03d}.jpg").write_bytes(jpeg(start + 16 * index + position))
    return folder


# Slide, class and number of cells of a small Chula: `B-1` has two basophils in a field, and so on.
CHULA_SLIDES = [
    *(("B-1", "basophil", 2), ("B-2", "basophil", 1), ("E-3", "eosinophil", 1), ("E-4", "eosinophil", 2)),
    *(("L-5", "lymphocyte", 1), ("L-6", "lymphocyte", 1), ("N-3", "neutrophil", 1), ("N-9", "neutrophil", 1)),
    *(("M-8", "monocyte", 1), ("HF-M-8", "monocyte", 1), ("L-8", "lymphocyte", 1), ("M-10", "monocyte", 1)),
]
CHULA_SIDE = 300


def make_chula(folder):
    """Chula in small: a full field for each slide, cut and reduced; returns the boxes in the full fields by cell."""
    (folder / "fields").mkdir(parents=True)
    rows, full_boxes = [], {}
    for number, (slide, label, count) in enumerate(CHULA_SLIDES):
        name = f"{slide}_{number:04d}"
        full = Image.new("RGB", (1440, 900))  # Of many small fields, so that every window shows cells.
        for tile in range(24):
            small = draw_field("neutrophil", seed=100 * number + tile, size=(240, 225))
            full.paste(small, (tile % 6 * 240, tile // 6 * 225))
        full.resize((640, 400), Image.Resampling.BOX).save(folder / "fields" / f"{name}.jpg", quality=92)
        for index in range(count):
            # Reduced pixels; the second cell of a field lies in its corner, where the window is moved inwards.
            left, top = ((200.4 + number, 120.0), (0.0, 5.2))[index]
            box = [left, top, left + 60, top + 50.4]
            full_boxes[f"cells/{label}/{name}_{index}.jpg"] = [edge * 2.25 for edge in box]
            x = int(min(max((left + 30) * 2.25 - CHULA_SIDE / 2, 0), 1440 - CHULA_SIDE))
            y = int(min(max((top + 25.2) * 2.25 - CHULA_SIDE / 2, 0), 900 - CHULA_SIDE))
            (folder / "cells" / label).mkdir(parents=True, exist_ok=True)
            window = full.crop((x, y, x + CHULA_SIDE, y + CHULA_SIDE))
            window.save(folder / "cells" / label / f"{name}_{index}.jpg", quality=92)
            edges = (f"{edge:.1f}" for edge in box)
            rows.append([f"{name}.jpg", slide, label, *edges, f"cells/{label}/{name}_{index}.jpg"])
    draw_field("monocyte", seed=99).resize((640, 400)).save(folder / "fields" / "M-8_0099.jpg")
    (folder / "unlabelled_fields.txt").write_text("M-8_0099.jpg\n", encoding="utf-8")
    write_table(folder / "boxes.csv", ["field", "slide", "label", "left", "top", "right", "bottom", "cell"], rows)
    return full_boxes


def write_table(path, head, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])


def make_wbcatt(folder, names, place=""):
    """WBCAtt for the images of these names: the first half train, then validation and test; some annotated twice."""
    values = {name: options[0] for name, options in ATTRIBUTES.items()}
    head = ["img_name", "label", *ATTRIBUTES, "path"]
    (folder / place).mkdir(parents=True, exist_ok=True)
    half, rest = names[: len(names) // 2], names[len(names) // 2 :]
    for split, part in {"train": half, "val": rest[::2], "test": rest[1::2]}.items():
        rows = [[name, "Basophil", *values.values(), name] for name in part]
        write_table(folder / place / f"pbc_attr_v1_{split}.csv", head, rows)
    again = folder / place / ("re-annotation" if place else "")
    again.mkdir(exist_ok=True)
    seen = [values | {"cell_size": "small"} if number % 2 else values for number in range(len(half))]
    second = [[name, "Basophil", *own.values(), name] for name, own in zip(half, seen, strict=True)]
    write_table(again / "pbc_attr_reannotations.csv", head, second)
    return folder
