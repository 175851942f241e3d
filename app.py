"""The Space: drop one smear image or a thousand, and see their white blood cells.

    python app.py                       # the bundled weights, at http://127.0.0.1:7860
    python app.py --model NAME/NAME     # the weights of a repository on the Hub; `WBC_MODEL` does the same
    WBC_BACKEND=onnx python app.py      # ONNX Runtime in place of PyTorch; also bfloat16 and onnx-int8

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
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr
import gradio.mcp
from huggingface_hub import metadata_load

from space.about import about
from space.api import MCPServer, connect_api
from space.bench import page_field, page_script, shell
from space.classifier import Classifier
from space.examples import copy_examples, examples_row
from space.jobs import MAX_IMAGES, Jobs, answers_to_many
from space.pictures import PictureFolder, data_url
from space.texts import WORKING, text
from space.uploads import MAX_FILE_BYTES, count_images, read_uploads

HERE = Path(__file__).parent
MAX_JOBS = 4  # of one image, and of many, at the same time
PREVIEW_SIZE = 4096  # pixels of the longer side of the image shown
API_PREVIEW_SIZE = 64  # the same where nobody sees it
MAX_REQUESTS = 256  # in the queue
# Gradio puts the progress of the request in its place.
PROGRESS = gr.Progress()


class Handlers:
    """The functions behind the events of the page and behind its API.

    Attributes:
        pictures: Where the pictures of answers are saved for the page.
    """

    pictures: PictureFolder

    def __init__(self, classifier: Classifier):
        self.classifier = classifier
        self.jobs = Jobs()
        # Gradio serves files of the working directory and of the one for temporary files only. The folder lasts as
        # long as this object.
        self._folder = tempfile.TemporaryDirectory(prefix="examples-")
        self.examples = copy_examples(Path(self._folder.name))

    def worked_example(self) -> dict[str, Any]:
        """Answer the example with the most cells that the model knows, for the start page."""
        answers = self.classifier.answers([(path.name, str(path)) for path in self.examples], PREVIEW_SIZE)
        known = [sum(cell["known"] for cell in answer["cells"]) for answer, _ in answers]
        best = known.index(max(known))
        return page_field(*answers[best], self.examples[best], data_url)

    def look(self, files: list[str], request: gr.Request) -> list:
        """Answer one image."""
        field = None
        with self.jobs.running(request.session_hash):
            ((answer, preview),) = self.classifier.answers(_named(files[:1] or [None]), PREVIEW_SIZE)
            field = page_field(answer, preview, next(iter(files), None), self.pictures.url)
        # None empties the upload field for the next image; the files stay for those who adapt the model to them.
        return [None, files, field and {"fields": [field], "leftOut": False}]

    def look_at_many(self, files: list[str], request: gr.Request, progress=PROGRESS) -> list:
        """Answer many images; if the job is cancelled, those that it has answered."""
        fields: list[dict] = []
        with self.jobs.running(request.session_hash):
            for field in self._page_fields(self.classifier, files, progress):
                fields.append(field)
        left_out = count_images(files) > MAX_IMAGES
        return [None, files, {"fields": fields, "leftOut": left_out} if fields else None]

    def adapt(
        self, files: list[str], corrections: list[str | None], request: gr.Request, progress=PROGRESS
    ) -> dict[str, Any] | None:
        """Answer images again by a copy of the model that is adapted to them; if it is cancelled, not at all.

        Args:
            files: The images, as they were answered before.
            corrections: The type of each of their cells by hand, or None.
            request: Tells the visitor.
            progress: Reports the progress to the page.
        """
        with self.jobs.running(request.session_hash):
            sources = (source for _, source in islice(read_uploads(files), MAX_IMAGES))
            adapted = self.classifier.adapted(sources, corrections)
            return {"fields": list(self._page_fields(adapted, files, progress))}
        return None

    def _page_fields(self, classifier: Classifier, files: list[str], progress) -> Iterator[dict[str, Any]]:
        """Answer the first `MAX_IMAGES` images for the page."""
        for answer in answers_to_many(classifier, files, PREVIEW_SIZE, progress):
            yield page_field(*answer, self.pictures.url)

    def cancel(self, request: gr.Request) -> None:
        """Cancel what is analysed for a visitor: of many images, the answers up to there are shown."""
        self.jobs.cancel(request.session_hash)

    def take_example(self, event: gr.EventData) -> list[str]:
        """Put the example that was clicked into the upload field."""
        return [str(self.examples[event.index])]

    def classify(self, image: str) -> dict:
        """Classify the white blood cells of one smear image.

        Returns every detected cell with its box, type and calibrated probabilities. The type of the image is that of
        its most distinct known cell; the `status` is "sure", "doubtful", "unknown" (no blood smear), "empty" (no cell
        detected) or "unreadable". For research only, no diagnosis.

        Args:
            image: Smear image: JPEG, PNG, TIFF, BMP, WebP, GIF, AVIF or JPEG 2000, at most 256 MB.
        """
        ((answer, _),) = self.classifier.answers(_named([image]), API_PREVIEW_SIZE)
        return answer

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
            for answer, _, _ in answers_to_many(self.classifier, files or [], API_PREVIEW_SIZE, progress):
                answers.append(answer)
        return answers


def _named(paths: Iterable[str | None]) -> Iterator[tuple[str, object]]:
    for path in paths:
        yield (Path(path).name, path) if path else ("", ValueError("no file was given"))


# Jobs of several visitors run at once and take turns at the network: none waits for a large image of another.
ONE_IMAGE: dict[str, Any] = {"concurrency_limit": MAX_JOBS, "concurrency_id": "one image"}
MANY_IMAGES: dict[str, Any] = {"concurrency_limit": MAX_JOBS, "concurrency_id": "many images"}


def build(classifier: Classifier) -> gr.Blocks:
    """Build the page of a model, and its API."""
    handlers = Handlers(classifier)
    read = classifier.image_processor.fetch_images
    html = shell(text("page.title").html, examples_row(handlers.examples, read), about(classifier))
    style = (HERE / "space" / "style.css").read_text(encoding="utf-8")
    script = page_script(classifier, handlers.worked_example())
    with gr.Blocks(title=text("page.title").en, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        working = gr.HTML(f"<p>{WORKING.html}</p>", elem_id="working", apply_default_css=False)
        bench = gr.HTML(
            html, elem_id="bench", apply_default_css=False, js_on_load=f"wbc.start(element, trigger); // {_EVENTS}"
        )
        _connect(handlers, bench, working)
        connect_api(handlers, ONE_IMAGE, MANY_IMAGES)
        page.unload(handlers.cancel)
    # Not by Gradio's option for style sheets, which takes selectors apart at every comma.
    page.head = f"<style>\n{style}</style>\n<script>\n{script}\n</script>"
    return page.queue(max_size=MAX_REQUESTS)


# The events that the page's script raises, quoted as Gradio looks for them.
_EVENTS = '"one", "many", "adapt", "example", "stop"'


def _connect(handlers: Handlers, bench: gr.HTML, working: gr.HTML) -> None:
    """Connect the events that the page's script raises."""
    # Out of sight: the script hands files to the upload field and shows the answers.
    upload, kept = (
        gr.File(file_count="multiple", visible="hidden", elem_id=name, label=name) for name in ("files", "kept")
    )
    answers, adapted, corrections = (gr.JSON(visible="hidden") for _ in range(3))
    handlers.pictures = PictureFolder(answers)
    asking: dict[str, Any] = {"api_visibility": "private", "show_progress_on": [working]}
    answered: dict[str, Any] = {"fn": None, "inputs": answers, "js": "wbc.answered"}
    upload.upload(None, upload, None, js="wbc.uploaded")
    for event, handler, options in (
        (bench.one, handlers.look, ONE_IMAGE),
        (bench.many, handlers.look_at_many, MANY_IMAGES),
    ):
        asked = event(handler, upload, [upload, kept, answers], **asking, **options)
        asked.success(**answered)
        asked.failure(None, js="wbc.failed")
    chosen = bench.example(handlers.take_example, None, upload, api_visibility="private")
    shown = chosen.then(handlers.look, upload, [upload, kept, answers], **asking, **ONE_IMAGE)
    shown.success(**answered)
    shown.failure(None, js="wbc.failed")
    bench.stop(handlers.cancel, queue=False, api_visibility="private")
    # The corrections are the script's: they are read when the event is raised.
    again = bench.adapt(
        handlers.adapt,
        [kept, corrections],
        adapted,
        js="(files) => [files, wbc.corrections()]",
        **asking,
        **MANY_IMAGES,
    )
    again.success(None, adapted, None, js="wbc.adapted")
    again.failure(None, js="wbc.failed")


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
        return Classifier(source, os.environ.get("WBC_BACKEND") or "torch")
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        _fail(f"--model {source} cannot be loaded: {reason}")


def main() -> None:
    """Serve the page."""
    args = arguments()
    page = build(_load(args.model))
    gradio.mcp.GradioMCPServer = MCPServer
    try:
        page.launch(
            server_name=args.host,
            server_port=args.port,
            max_file_size=MAX_FILE_BYTES,
            mcp_server=args.mcp,
            theme=theme(),
            head=page.head,
            ssr_mode=False,
            footer_links=["api"],
            run_history=False,
        )
    except OSError as error:  # a port in use
        _fail(f"cannot serve at {args.host}, port {args.port}: {error}")


if __name__ == "__main__":
    main()
