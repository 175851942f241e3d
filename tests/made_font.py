"""A font that has chosen letters only."""

from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen


def make_font(path, letters, family="Made"):
    """Write a TrueType font, each of whose letters is a triangle of its own; a missing letter is a box."""
    names = {ord(letter): f"letter{index}" for index, letter in enumerate(letters)}
    glyphs = {".notdef": [(50, 0), (50, 700), (450, 700), (450, 0)]}
    for index, name in enumerate(names.values()):
        glyphs[name] = [(50, 0), (250, 700), (450, 40 * index)]
    drawn = {}
    for name, corners in glyphs.items():
        pen = TTGlyphPen(None)
        pen.moveTo(corners[0])
        for corner in corners[1:]:
            pen.lineTo(corner)
        pen.closePath()
        drawn[name] = pen.glyph()
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(list(glyphs))
    font.setupCharacterMap(names)
    font.setupGlyf(drawn)
    font.setupHorizontalMetrics(dict.fromkeys(glyphs, (500, 50)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": family, "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(path)
