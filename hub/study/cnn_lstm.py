"""The CNN-RNN classifiers of Liang et al. 2018, which Ma et al. 2020 compare theirs with (Table 2)."""

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel, TimmWrapperConfig, TimmWrapperModel
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils.generic import can_return_tuple


class CnnLstmConfig(PreTrainedConfig):
    """Configuration of [`CnnLstmForImageClassification`].

    Args:
        architecture (`str`, defaults to `"legacy_xception"`): the convolutional network, by its name in timm.
        hidden_size (`int`, defaults to 512): length of the LSTM's state.
        image_size (`int`, defaults to 299): height and width in pixels of the network's input.

    Raises:
        ValueError: if `hidden_size` is not positive.
    """

    model_type = "cnn-lstm"

    architecture: str = "legacy_xception"
    hidden_size: int = 512
    image_size: int = 299

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.hidden_size < 1:
            raise ValueError(f"hidden_size must be at least 1, got {self.hidden_size}")


class CnnLstmForImageClassification(PreTrainedModel):
    r"""A convolutional network with an LSTM that reads its last feature map as a sequence.

    After Liang, Hong, Xie & Zheng, "Combining Convolutional Neural Network With Recursive Neural Network for Blood
    Cell Image Classification", IEEE Access 6, 2018, doi 10.1109/access.2018.2846685.

    With the last feature map f of C channels at h x w places, its mean over the places and the LSTM's state s after
    the last place,

    $$\mathrm{logits} = W \left((V \bar f + v) \odot s\right) + b$$

    The article merges the two branches by an element-wise product and does not say how their lengths are matched. Here
    the places are read row by row, from the top left to the bottom right, a single LSTM layer has a state of
    `config.hidden_size` numbers, and the linear layer V projects the pooled feature to that length. All parts are
    trained together.

    The network is timm's, wrapped by [`transformers.TimmWrapperModel`]; its ImageNet weights are loaded by
    `TimmWrapperModel.from_pretrained` into `trunk`. The state dict is `trunk.*`, `lstm.*`, `projection.*` and
    `classifier.*`.
    """

    config: CnnLstmConfig
    config_class = CnnLstmConfig
    base_model_prefix = "trunk"
    main_input_name = "pixel_values"
    accepts_loss_kwargs = False

    def __init__(self, config: CnnLstmConfig):
        super().__init__(config)
        self.trunk = TimmWrapperModel(TimmWrapperConfig(architecture=config.architecture))
        channels = self.trunk.timm_model.num_features
        self.lstm = nn.LSTM(channels, config.hidden_size, batch_first=True)
        self.projection = nn.Linear(channels, config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> ImageClassifierOutput:
        """Classify images.

        Args:
            pixel_values (`torch.Tensor` of shape `(N, 3, H, W)`): normalised images.
            labels (`torch.LongTensor` of shape `(N,)`, *optional*): class indices in [0, K).

        Returns:
            `logits` (N, K) and, with labels, `loss`, the mean cross entropy.
        """
        outputs = self.trunk(pixel_values)
        sequence = outputs.last_hidden_state.flatten(2).transpose(1, 2)  # (N, h * w, C)
        _, (state, _) = self.lstm(sequence)
        logits = self.classifier(self.projection(outputs.pooler_output) * state[-1])
        loss = None if labels is None else F.cross_entropy(logits.float(), labels)
        return ImageClassifierOutput(loss=loss, logits=logits)


CnnLstmConfig.register_for_auto_class()
CnnLstmForImageClassification.register_for_auto_class("AutoModelForImageClassification")

__all__ = ["CnnLstmConfig", "CnnLstmForImageClassification"]
