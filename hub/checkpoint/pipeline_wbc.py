"""The image-classification pipeline of transformers, with the answer "unknown"."""

from copy import deepcopy

import numpy as np
import torch
from torch import Tensor
from transformers import ImageClassificationPipeline
from transformers.image_utils import load_image

from .field_wbc import UNFAMILIAR_STAIN, remark_on
from .focus_wbc import measure_focus

# `config.custom_pipelines`: what `transformers.pipeline` builds for a task in place of its own class.
CUSTOM_PIPELINES = {
    "image-classification": {
        "impl": "pipeline_wbc.WBCImageClassificationPipeline",
        "pt": ["AutoModelForImageClassification"],
    }
}


class WBCImageClassificationPipeline(ImageClassificationPipeline):
    """[`transformers.ImageClassificationPipeline`] that says "unknown" of what the model cannot classify.

    `pipeline("image-classification", model=..., trust_remote_code=True)` builds it for a path or an id of a saved
    [`WBCForImageClassification`]. Given a model that is loaded already, `pipeline` builds transformers' own class
    unless it gets `pipeline_class=WBCImageClassificationPipeline`.

    The answer to an image without a white cell, or whose foremost cell is beyond `config.max_novelty` or below
    `config.min_focus`, is

    ```python
    [{"label": "unknown", "score": 1.0, "remark": "out of focus"}]
    ```

    with the remark "no cell", "no smear", "out of focus" or "out of focus or no smear" (or, of a cell out of focus,
    "... or unfamiliar stain"). The answer to a cell beyond `config.max_novelty` but not `config.max_smear_novelty` is
    a guess: that of transformers, each of its dictionaries with the remark "unfamiliar stain". Other answers, and all
    answers with `function_to_apply`, which asks for the scores of the types, are those of transformers.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # Transformers has replaced the class names in it by classes, which JSON cannot hold: the model would not save.
        if getattr(self.model.config, "custom_pipelines", None):
            self.model.config.custom_pipelines = deepcopy(CUSTOM_PIPELINES)

    def preprocess(self, image, timeout: float | None = None) -> dict[str, Tensor]:
        """The network's input for the foremost cell of an image, and whether the image has one.

        Args:
            image: path, URL, PIL image, array or tensor.
            timeout: seconds to wait for a URL.
        """
        if not hasattr(self.image_processor, "find_cells"):  # of another model
            return {**super().preprocess(image, timeout), "found": torch.ones(1, dtype=torch.bool)}
        if timeout is not None and isinstance(image, str) and image.startswith(("http://", "https://")):
            image = load_image(image, timeout=timeout)
        image = self.image_processor.fetch_images(image)
        cells = self.image_processor.preprocess_cells(image)
        found = len(cells["boxes"]) > 0
        # Without a cell the whole image is classified, for those who ask for scores.
        inputs = cells if found else self.image_processor(image, do_find_cell=False, return_tensors="pt")
        return {"pixel_values": inputs["pixel_values"][:1].to(self.dtype), "found": torch.tensor([found])}

    def _forward(self, model_inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        outputs = self.model(model_inputs["pixel_values"])
        count = len(outputs.logits)
        novelty = outputs.novelty if outputs.novelty is not None else torch.zeros(count)
        focus = measure_focus(model_inputs["pixel_values"])
        return {"logits": outputs.logits, "novelty": novelty, "focus": focus, "found": model_inputs["found"]}

    def postprocess(
        self, model_outputs: dict[str, Tensor], function_to_apply=None, top_k: int | None = 5
    ) -> list[dict]:
        """The answer to one image: dictionaries of `label` and `score`, in descending order of the score."""
        remark = None
        if function_to_apply is None:
            novelty, focus = (float(np.asarray(model_outputs[key]).squeeze()) for key in ("novelty", "focus"))
            found = bool(np.asarray(model_outputs["found"]).squeeze())
            remark = remark_on(novelty, focus, self.model.config) if found else "no cell"
            if remark not in (None, UNFAMILIAR_STAIN):
                return [{"label": "unknown", "score": 1.0, "remark": remark}]
        answers = super().postprocess({"logits": model_outputs["logits"]}, function_to_apply, top_k or 5)
        return answers if remark is None else [{**answer, "remark": remark} for answer in answers]


__all__ = ["WBCImageClassificationPipeline"]
