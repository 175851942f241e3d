"""The Space: drop one smear image or a thousand, and see their white blood cells.

    python app.py                       # the bundled weights, at http://127.0.0.1:7860
    python app.py --model NAME/NAME     # the weights of a repository on the Hub; `WBC_MODEL` does the same

It reaches the model through `from_pretrained` alone, and runs without the rest of this repository:
`python -m hub space stage` copies this file, `space/` and the images in `examples/`, and writes the card that names
the model.
"""

import argparse
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr
import gradio.mcp
from huggingface_hub import metadata_load

from space.about import about
from space.api import MCPServer, connect_api
from space.classifier import Classifier, first_known
from space.examples import copy_examples, examples_row
from space.jobs import MAX_IMAGES, Jobs, answers_to_many
from space.many_images import overview, table_headers, table_rows
from space.one_image import MAX_CELLS, annotated_image, verdict
from space.pictures import THUMBNAIL_SIZE, thumbnail_url
from space.texts import GRADIO_TEXTS, text, type_name
from space.uploads import IMAGE_TYPES, MAX_FILE_BYTES, count_images

HERE = Path(__file__).parent
MAX_JOBS = 4  # of one image, and of many, at the same time
PREVIEW_SIZE = 1280  # pixels of the longer side of the image shown
BATCH_PREVIEW_SIZE = 640  # the same of images that thumbnails are cut out of
MAX_THUMBNAILS = 100  # of a type
MAX_REQUESTS = 256  # in the queue
LANGUAGES = ("en", "zh")
LOCALES = {"en": "en", "zh-CN": "zh", "zh": "zh"}
I18N = gr.I18n(
    **{
        locale: {key: getattr(label, language) for key, label in GRADIO_TEXTS.items()}
        for locale, language in LOCALES.items()
    }
)
# Gradio puts the progress of the request in its place.
PROGRESS = gr.Progress()


class Handlers:
    """The functions behind the events of the page and behind its API."""

    def __init__(self, classifier: Classifier):
        self.classifier = classifier
        self.jobs = Jobs()
        # Gradio serves files of the working directory and of the one for temporary files only. The folder lasts as
        # long as this object.
        self._folder = tempfile.TemporaryDirectory(prefix="examples-")
        self.examples = copy_examples(Path(self._folder.name))

    def look(self, path: str, request: gr.Request) -> list:
        """Show an image."""
        with self.jobs.running(request.session_hash):
            ((answer, preview),) = self.classifier.answers(_named([path]), PREVIEW_SIZE)
            index, count = first_known(answer), len(answer["cells"][:MAX_CELLS])
            field = annotated_image(answer, preview, self.classifier.map_side)
            choices = gr.update(choices=[(str(n + 1), n) for n in range(count)], value=index, visible=count > 1)
            opacity = gr.update(visible=any(cell["known"] for cell in answer["cells"]))
            # None empties the upload field for the next image.
            return [None, answer, field, choices, *_described(answer, index), opacity]
        return gr.skip()

    def describe(self, answer: dict, index: int) -> list:
        """Show the verdict on the cell that was chosen in the row of numbers."""
        return _described(answer, index)

    def describe_box(self, answer: dict, event: gr.EventData) -> list:
        """Show the verdict on the cell whose box was clicked, and choose its number."""
        return [event.index, *_described(answer, event.index)]

    def take_example(self, event: gr.EventData) -> str:
        """Put the example that was clicked into the upload field."""
        return str(self.examples[event.index])

    def cancel(self, request: gr.Request) -> None:
        """Cancel what is analysed for a visitor: of many images, the answers up to there are shown."""
        self.jobs.cancel(request.session_hash)

    def classify(self, image: str) -> dict:
        """Classify the white blood cells of one smear image.

        Returns every detected cell with its box, type and calibrated probabilities. The type of the image is that of
        its most distinct known cell; the `status` is "sure", "doubtful", "unknown" (no blood smear), "empty" (no cell
        detected) or "unreadable". For research only, no diagnosis.

        Args:
            image: Smear image: JPEG, PNG, TIFF, BMP, WebP, GIF, AVIF or JPEG 2000, at most 256 MB.
        """
        ((answer, _),) = self.classifier.answers(_named([image]), THUMBNAIL_SIZE)
        return answer

    def look_at_many(self, files: list[str], request: gr.Request, progress=PROGRESS) -> list:
        """Show many images: a summary, thumbnails and a table."""
        answers: list[dict] = []
        thumbnails: dict[str, list[str]] = {}
        with self.jobs.running(request.session_hash):
            for answer, preview, _ in answers_to_many(self.classifier, files, BATCH_PREVIEW_SIZE, progress):
                answers.append(answer)
                for cell in answer["cells"]:
                    if cell["known"]:
                        shown = thumbnails.setdefault(cell["label"], [])
                        if len(shown) < MAX_THUMBNAILS:
                            shown.append(thumbnail_url(answer, preview, cell))
        left_out = count_images(files) > MAX_IMAGES
        summary = overview(answers, thumbnails, self.classifier.labels, MAX_IMAGES if left_out else None)
        tables = [gr.update(value=table_rows(answers, language), visible=True) for language in LANGUAGES]
        return [None, summary, *tables]

    # Gradio shows the docstring to callers, who give files alone.
    def classify_batch(self, files: list[str], request: gr.Request, progress=PROGRESS) -> list[dict]:  # noqa: D417
        """Classify the white blood cells of up to 1,000 smear images, or of a ZIP archive of them.

        Returns an answer like that of `classify` for each image, in their order. The `status` of a file that cannot be
        read is "unreadable", and its `remark` gives the reason. For research only, no diagnosis.

        Args:
            files: Smear images (JPEG, PNG, TIFF, ...) or ZIP archives of them, at most 256 MB each.
        """
        answers = []
        with self.jobs.running(request.session_hash):
            for answer, _, _ in answers_to_many(self.classifier, files or [], THUMBNAIL_SIZE, progress):
                answers.append(answer)
        return answers


def _named(paths: Iterable[str | None]) -> Iterator[tuple[str, object]]:
    for path in paths:
        yield (Path(path).name, path) if path else ("", ValueError("no file was given"))


def _described(answer: dict, index: int) -> list:
    """Return the verdict on one cell, and updates of its probabilities in each language.

    Probabilities of a cell that is unknown would mislead: they are hidden.
    """
    index = min(max(0, int(index or 0)), max(0, len(answer["cells"]) - 1))
    cell = answer["cells"][index] if answer["cells"] else None
    if cell is None or not cell["known"]:
        return [verdict(answer, index), *[gr.update(value=None, visible=False)] * len(LANGUAGES)]
    return [
        verdict(answer, index),
        *(
            gr.update(
                value={getattr(type_name(label), language): share for label, share in cell["probabilities"].items()},
                visible=True,
            )
            for language in LANGUAGES
        ),
    ]


@dataclass
class OneImage:
    """The components of the tab for one image."""

    upload: gr.File
    examples: gr.HTML
    field: gr.HTML
    opacity: gr.Slider
    verdict: gr.HTML
    cells: gr.Radio
    probabilities: list[gr.Label]


def _header() -> str:
    """Return the HTML of the page's header."""
    button = "<button type='button' onclick='openSettings()'>English / 中文</button>"
    use = text("page.research_only").html
    return f'<header class="masthead"><h1>{text("page.title").html}</h1><p class="use">{use}</p>{button}</header>'


def _one_image(examples: str, types: int) -> OneImage:
    """Lay out the tab for one image."""
    with gr.Row():
        with gr.Column(scale=3):
            upload = gr.File(label=I18N("wbc.image"), height=140, elem_classes="drop", elem_id="image")
            on_click = 'element.addEventListener("click", (event) => {}(event, trigger));'.format
            gallery = gr.HTML(examples, apply_default_css=False, js_on_load=on_click("chooseExample"))
            field = gr.HTML(elem_id="stage", apply_default_css=False, js_on_load=on_click("chooseCell"))
            opacity = gr.Slider(
                0,
                100,
                50,
                step=1,
                label=I18N("wbc.heat"),
                info=I18N("wbc.heat_info"),
                visible=False,
                elem_id="heat",
            )
        with gr.Column(scale=2):
            hint = f'<p class="hint">{text("page.hint").html}</p>'
            verdict_ = gr.HTML(hint, elem_id="verdict", apply_default_css=False)
            cells = gr.Radio([], type="value", label=I18N("wbc.cell"), visible=False, elem_id="cells")
            probabilities = [
                gr.Label(
                    label=I18N("wbc.probabilities"),
                    num_top_classes=types,
                    show_heading=False,
                    visible=False,
                    elem_classes=language,
                )
                for language in LANGUAGES
            ]
    return OneImage(upload, gallery, field, opacity, verdict_, cells, probabilities)


def _many_images() -> tuple[gr.File, gr.HTML, list[gr.Dataframe]]:
    """Lay out the tab for many images: upload, summary, and a table in each language."""
    upload = gr.File(label=I18N("wbc.files"), file_count="multiple", height=180, elem_classes="drop", elem_id="files")
    summary = gr.HTML(elem_id="summary", apply_default_css=False)
    tables = [
        gr.Dataframe(
            headers=table_headers(language),
            datatype="str",
            label=I18N("wbc.results"),
            interactive=False,
            wrap=True,
            max_height=480,
            visible=False,
            elem_classes=language,
        )
        for language in LANGUAGES
    ]
    return upload, summary, tables


# Jobs of several visitors run at once and take turns at the network: none waits for a large image of another.
ONE_IMAGE: dict[str, Any] = {"concurrency_limit": MAX_JOBS, "concurrency_id": "one image"}
MANY_IMAGES: dict[str, Any] = {"concurrency_limit": MAX_JOBS, "concurrency_id": "many images"}


def _connect_one_image(tab: OneImage, handlers: Handlers) -> None:
    """Connect the events of the tab for one image."""
    answer = gr.JSON(visible="hidden")
    described = [tab.verdict, *tab.probabilities]
    outputs = [tab.upload, answer, tab.field, tab.cells, *described, tab.opacity]
    looking: dict[str, Any] = {
        "trigger_mode": "always_last",
        "api_visibility": "private",
        "show_progress_on": [tab.verdict],
    }
    tab.upload.upload(handlers.look, tab.upload, outputs, **looking, **ONE_IMAGE)
    example = tab.examples.click(handlers.take_example, None, tab.upload, api_visibility="private")
    example.then(handlers.look, tab.upload, outputs, **looking, **ONE_IMAGE)
    choosing: dict[str, Any] = {"queue": False, "api_visibility": "private"}
    mark = "(answer, index) => { markCell(index); return [answer, index]; }"
    tab.cells.input(handlers.describe, [answer, tab.cells], described, js=mark, **choosing)
    # A click on a box does not go through the row of numbers, which appears a moment after the boxes.
    tab.field.click(handlers.describe_box, answer, [tab.cells, *described], **choosing)
    tab.opacity.input(None, tab.opacity, js="(percent) => setHeatMapOpacity(percent)")


def build(classifier: Classifier) -> gr.Blocks:
    """Build the page of a model, and its API."""
    handlers = Handlers(classifier)
    with gr.Blocks(title=text("page.title").en, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.HTML(_header(), apply_default_css=False)
        with gr.Tabs():
            with gr.Tab(I18N("wbc.one")):
                examples = examples_row(handlers.examples, classifier.image_processor.fetch_images)
                one_image = _one_image(examples, len(classifier.labels))
            with gr.Tab(I18N("wbc.many")):
                upload, summary, tables = _many_images()
            with gr.Tab(I18N("wbc.about")):
                gr.HTML(about(classifier), apply_default_css=False)
        _connect_one_image(one_image, handlers)
        upload.upload(
            handlers.look_at_many, upload, [upload, summary, *tables], api_visibility="private", **MANY_IMAGES
        )
        connect_api(handlers, ONE_IMAGE, MANY_IMAGES)
        page.unload(handlers.cancel)
    return page.queue(max_size=MAX_REQUESTS)


def theme() -> gr.themes.Base:
    """Return Gradio's theme with the visitor's own fonts, none fetched, and greys with a contrast above 4.5."""
    return gr.themes.Default(
        primary_hue="blue", font=["ui-sans-serif", "system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    ).set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
    )


def arguments() -> argparse.Namespace:
    """Parse the command line; the defaults are those of the environment, then of a Space's card.

    Raises:
        SystemExit: with the status 2 if an argument is wrong.
    """
    card = HERE / "README.md"
    metadata = (metadata_load(card) if card.is_file() else None) or {}
    model = next(iter(metadata.get("models", [])), str(HERE / "hub" / "checkpoint"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=os.environ.get("WBC_MODEL") or model, help="a folder or a Hub id")
    parser.add_argument("--host", default=os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1")
    parser.add_argument("--port", default=os.environ.get("GRADIO_SERVER_PORT") or "7860", help="1 to 65535")
    parser.add_argument("--mcp", action="store_true", help="serve the API to assistants by the Model Context Protocol")
    args = parser.parse_args()
    if not (args.port.isascii() and args.port.isdigit() and 1 <= int(args.port) <= 65535):
        _fail(f"--port must be a number from 1 to 65535, got {args.port}")
    args.port = int(args.port)
    if args.mcp and importlib.util.find_spec("mcp") is None:
        _fail('--mcp needs the package mcp: run pip install "gradio[mcp]"')
    return args


def _fail(message: str) -> NoReturn:
    """End with an error of usage on one line."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def _load(source: str) -> Classifier:
    """Load the model; end with an error of usage if that fails."""
    if os.path.isabs(source) and not os.path.exists(source):
        _fail(f"--model {source}: there is no such folder")
    try:
        return Classifier(source)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        _fail(f"--model {source} cannot be loaded: {reason}")


def main() -> None:
    """Serve the page."""
    args = arguments()
    # Gradio's `file_types` would refuse a whole upload for one file of another type, which gets a row of its own here.
    script = f'const imageTypes = "{",".join(IMAGE_TYPES)}";\n'
    script += (HERE / "space" / "page.js").read_text(encoding="utf-8")
    page = build(_load(args.model))
    gradio.mcp.GradioMCPServer = MCPServer
    try:
        page.launch(
            server_name=args.host,
            server_port=args.port,
            max_file_size=MAX_FILE_BYTES,
            mcp_server=args.mcp,
            i18n=I18N,
            theme=theme(),
            css_paths=HERE / "space" / "style.css",
            head=f"<script>\n{script}</script>",
            ssr_mode=False,
            footer_links=["api", "settings"],
            run_history=False,
        )
    except OSError as error:  # a port in use
        _fail(f"cannot serve at {args.host}, port {args.port}: {error}")


if __name__ == "__main__":
    main()
