"""Pascal VOC annotations, made up."""


def annotation(boxes):
    """A Pascal VOC file with these white cells and a red one."""
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox>"
        "</object>"
        for name, (a, b, c, d) in [*(("WBC", box) for box in boxes), ("RBC", (1, 1, 9, 9))]
    )
    return f"<annotation><filename>x.jpg</filename>{objects}</annotation>"
