"""One image that cannot be analysed does not take the answers to the others with it."""

import io

from PIL import Image

from hub.data.synthetic import draw_field


def test_the_others_are_answered(classifier, monkeypatch):
    content = io.BytesIO()
    draw_field("monocyte", 1).save(content, "PNG")
    sources = [("a", draw_field("monocyte", 0)), ("b", Image.new("RGB", (77, 60), "white")), ("c", content)]
    expected = classifier.answers(sources, 64)
    assert [answer["status"] == "empty" for answer, _ in expected] == [False, True, False]
    preprocess = classifier.image_processor.preprocess_cells

    def crash(image):
        assert image.width != 77, "too much"
        return preprocess(image)

    monkeypatch.setattr(classifier.image_processor, "preprocess_cells", crash)
    answers = classifier.answers(iter(sources), 64)
    assert [answer["file"] for answer, _ in answers] == ["a", "b", "c"]
    assert (answers[1][0]["status"], answers[1][0]["remark"]) == ("unreadable", "its analysis failed")
    assert answers[1][1] is None
    for index in (0, 2):
        assert [cell["box"] for cell in answers[index][0]["cells"]] == [
            cell["box"] for cell in expected[index][0]["cells"]
        ]
        assert answers[index][0]["label"] == expected[index][0]["label"]
