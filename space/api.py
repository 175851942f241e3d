"""The functions that programs and assistants call, with the descriptions that they read."""

import json
from typing import Any
from urllib.parse import unquote, urlsplit

import gradio as gr
import gradio.mcp
from gradio.utils import get_function_description, get_upload_folder, is_in_or_equal
from gradio_client import handle_file

# A photograph of BCCD that no training has seen, at its publisher's.
EXAMPLE_URL = "https://raw.githubusercontent.com/Shenggan/BCCD_Dataset/master/BCCD/JPEGImages/BloodImage_00357.jpg"
_UPLOADED = "/gradio_api/file="
_LOCAL = ("127.0.0.1", "localhost", "::1")


def connect_api(handlers: Any, one_image: dict[str, Any], many_images: dict[str, Any]) -> None:
    """Add the two functions of the API to the page that is being built.

    Args:
        handlers: The object with the functions `classify` and `classify_batch`.
        one_image: The options of the event that classifies one image.
        many_images: The options of the event that classifies many.
    """
    with gr.Group(visible=False):
        one, several = gr.File(label="image"), gr.File(label="files", file_count="multiple")
        _describe(one, get_function_description(handlers.classify)[1]["image"])
        _describe(several, get_function_description(handlers.classify_batch)[1]["files"])
        button = gr.Button()
        button.click(handlers.classify, one, gr.JSON(label="answer"), api_name="classify", **one_image)
        button.click(
            handlers.classify_batch, several, gr.JSON(label="answers"), api_name="classify_batch", **many_images
        )


def _describe(upload: gr.File, description: str) -> None:
    """Describe an upload field as what it takes, in place of Gradio's sample, a PDF.

    Not in a subclass, because Gradio writes a file of types beside the module of each.
    """
    several = upload.file_count == "multiple"
    # Without references, which would point nowhere once the schema is a part of a tool's.
    file = gr.File(render=False).api_info().copy()
    file["properties"] = file["properties"] | {"meta": file.pop("$defs")["FileDataMeta"]}
    info = {"type": "array", "items": file} if several else file
    info |= {"title": "Images" if several else "Image", "additional_description": description}
    upload.api_info = lambda: info
    upload.example_value = lambda: [EXAMPLE_URL] if several else EXAMPLE_URL
    upload.example_payload = lambda: [handle_file(EXAMPLE_URL)] if several else handle_file(EXAMPLE_URL)


class MCPServer(gradio.mcp.GradioMCPServer):
    """Gradio's server of the Model Context Protocol, which answers in JSON and takes lists of files.

    Gradio's own answers with the text of Python objects, takes no file in a list, and fetches none from a server on
    the same machine, not even those that were uploaded to itself.
    """

    def convert_strings_to_filedata(self, value: Any, filedata_positions: list[list[str | int]]) -> Any:
        """Convert addresses of files, also in lists, whose positions the schema gives as `[..., "items"]`."""
        for *path, last in filedata_positions:
            if last == "items":
                value = value | {path[0]: [self._file(address) for address in value[path[0]]]}
            else:
                value = value | {last: self._file(value[last])}
        return value

    def _file(self, address: str) -> Any:
        uploaded = self._uploaded_file(address)
        return handle_file(uploaded) if uploaded else super().convert_strings_to_filedata(address, [[]])

    def _uploaded_file(self, address: str) -> str | None:
        """Return the path of a file that was uploaded to this server, if the address is that of one."""
        parts = urlsplit(address)
        if parts.hostname not in _LOCAL or parts.port != urlsplit(self.local_url).port:
            return None
        path = unquote(parts.path.partition(_UPLOADED)[2])
        return path if path and is_in_or_equal(path, get_upload_folder()) else None

    def postprocess_output_data(self, data: Any, root_url: str) -> list:
        """Return each output as a text of JSON."""
        return [self.types.TextContent(type="text", text=json.dumps(output, ensure_ascii=False)) for output in data]
