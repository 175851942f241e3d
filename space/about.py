"""HTML of the page's last tab: training data, accuracy and licences."""

from html import escape
from pathlib import Path

from space.classifier import Classifier
from space.texts import Text, text, type_name

_PAPER = '<a href="https://doi.org/10.16208/j.issn1000-7024.2020.10.046">Ma, Shuai, Liu &amp; Li 2020</a>'
_PBC = '<a href="https://doi.org/10.1016/j.dib.2020.105474">doi</a>'
# Subsets of the test split that are shown.
_SUBSETS = ("bccd_4_classes", "pbc")


def about(classifier: Classifier) -> str:
    """Return the tab for a model, with the figures of its `results.json` if there is one."""
    # The place of a folder on the server is not public.
    model = "" if Path(classifier.source).is_dir() else f"{escape(classifier.source)}. "
    introduction = text("about.model_text", model=model, paper=_PAPER, types=len(classifier.labels))
    results = classifier.results()
    parts = [
        f"<h2>{text('about.model').html}</h2>",
        _paragraph(introduction),
        _paragraph(text("about.no_figures")) if results is None else _figures(results),
        f"<h2>{text('about.data').html}</h2>",
        _paragraph(text("about.data_text", pbc=_PBC)),
    ]
    return f'<div class="about">{"".join(parts)}</div>'


def _paragraph(content: Text) -> str:
    return f"<p>{content.html}</p>"


def _figures(results: dict) -> str:
    test = results["splits"]["test"]
    parts = [
        _table(text(f"about.{name}"), test["subsets"][name], test["label_names"])
        for name in _SUBSETS
        if name in test["subsets"]
    ]
    if lisc := results.get("labs", {}).get("lisc"):
        facts = {"images": lisc["images"], "types": len(lisc["types"]), "refused": lisc["refused"]}
        parts.append(_paragraph(text("about.lisc", accuracy=_with_interval(lisc, "accuracy"), **facts)))
    # Results of earlier releases name the out-of-distribution images "foreign".
    if ood := results.get("ood", results.get("foreign")):
        share, low, high = (100 * value for value in ood["all"]["refused"])
        parts.append(_paragraph(text("about.refused", images=ood["all"]["images"], share=share, low=low, high=high)))
    parts.append(_paragraph(text("about.caveats")))
    return "".join(parts)


def _table(title: Text, figures: dict, labels: list[str]) -> str:
    """Return precision, recall and F1 of each type, and the accuracy, each with its interval."""
    measures = ("precision", "recall", "f1")
    head = "".join(f'<th scope="col">{text(f"about.column_{column}").html}</th>' for column in ("type", *measures))
    rows = "".join(
        f'<tr><th scope="row">{type_name(label).html}</th>'
        + "".join(f"<td>{_with_interval(figures, f'{measure}_{label}')}</td>" for measure in measures)
        + "</tr>"
        for label in labels
        if figures.get(f"support_{label}")
    )
    accuracy = text("about.accuracy", accuracy=_with_interval(figures, "accuracy"), images=figures["num_images"])
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Table 1"><table>'
        f"<caption>{title.html}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        f"<p>{accuracy.html}</p>"
    )


def _with_interval(figures: dict, key: str) -> str:
    """A figure in percent, with its 95 % interval in brackets."""
    low, high = figures["intervals"][key]
    return f"{100 * figures[key]:.1f} ({100 * low:.1f}–{100 * high:.1f})"
