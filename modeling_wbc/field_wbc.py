"""What the classifier says of a whole image: its cells, their counts, and a picture that shows both."""

from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from .image_processing_wbc import upright_rgb

# Types that a classifier may know and a differential count leaves out.
_NOT_WHITE = ("erythroblast", "platelet")
_UNKNOWN = "#666666"
# Okabe and Ito's colours, apart for colour-blind eyes, those first that stand out from a smear's pinks and violets.
_COLORS = ("#0072b2", "#009e73", "#d55e00", "#000000", "#56b4e9", "#f0e442", "#e69f00", "#cc79a7")


@dataclass
class Cell:
    """One cell of an image.

    Attributes:
        box: left, top, right and bottom in pixels of the image.
        window: the same of what the network sees of it, which may reach beyond the image.
        score: how plainly the finder sees it, in (0, 1], see [`WBCImageProcessor.find_cells`]; 1 for a whole image.
        label: the most probable type. Worth nothing unless `known`.
        probabilities: the probability of every type, summing to 1, in the order of the model's classes.
        distance: Euclidean distance of the cell's embedding to the nearest class centre.
        novelty: how little the window looks like a smear, see [`SmearNovelty`]; about 1 for images like those of the
            training.
        known: whether that is at most `config.max_novelty`. If not, this is no cell of a smear.
        activation_map: rows of how much each part of the window speaks for `label`, see
            [`WBCForImageClassification.class_activation_maps`].
    """

    box: tuple[float, float, float, float]
    window: tuple[float, float, float, float]
    score: float
    label: str
    probabilities: dict[str, float]
    distance: float
    novelty: float
    known: bool
    activation_map: list[list[float]]


@dataclass
class Field:
    """What [`WBCForImageClassification.analyze`] says of one image.

    Attributes:
        cells: its cells, in the finder's order: the plainest first.
        labels: the types that the model tells apart, in the order of its classes.
    """

    cells: list[Cell]
    labels: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many known cells there are of each type."""
        found = [cell.label for cell in self.cells if cell.known]
        return {label: found.count(label) for label in self.labels}

    @property
    def unknown(self) -> int:
        """How many cells do not look like a smear's, and are not counted as any type."""
        return sum(not cell.known for cell in self.cells)

    @property
    def differential(self) -> dict[str, float]:
        """The differential count: the share, in [0, 1], of each type in the white cells of the image.

        Erythroblasts and platelets are no white cells and left out, as unknown cells are; without any white cell, all
        shares are 0.
        """
        white = {label: count for label, count in self.counts.items() if label not in _NOT_WHITE}
        total = max(1, sum(white.values()))
        return {label: count / total for label, count in white.items()}

    def draw(self, image: Image.Image) -> Image.Image:
        """A copy, upright and RGB, of the image that was analysed, with each cell's box, type and probability, or
        the word unknown.
        """
        image = upright_rgb(image)
        pen = ImageDraw.Draw(image)
        unit = min(image.size) / 240
        font = ImageFont.load_default(max(10, 9 * unit))
        pad = max(2, round(1.5 * unit))
        # The plainest last, so that its label lies on top.
        for cell in reversed(self.cells):
            color = _COLORS[self.labels.index(cell.label) % len(_COLORS)] if cell.known else _UNKNOWN
            left, top, right, bottom = cell.box
            pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=color, width=max(1, pad))
            text = f"{cell.label} {cell.probabilities[cell.label]:.0%}" if cell.known else "unknown"
            x0, y0, x1, y1 = pen.textbbox((0, 0), text, font=font)
            width, height = x1 - x0 + 2 * pad, y1 - y0 + 2 * pad
            # Above the box, or in it where the image ends, and never beyond the image's right side.
            x = max(0, min(left, image.width - width))
            y = top - height if top >= height else top
            pen.rectangle((x, y, x + width, y + height), fill=color)
            light = sum(share * int(color[i : i + 2], 16) for share, i in ((0.3, 1), (0.59, 3), (0.11, 5)))
            pen.text((x + pad - x0, y + pad - y0), text, font=font, fill="black" if light > 150 else "white")
        return image
