"""The folder of a small CLIP, in open_clip's own format and read by open_clip alone:

    open_clip.create_model_and_transforms("local-dir:FOLDER"), open_clip.get_tokenizer("local-dir:FOLDER")

It holds `open_clip_config.json`, `open_clip_model.safetensors` and a byte-level BPE tokenizer that transformers loads.
A CLIP is no component of a GLM-Image model: it looks at images, whatever generated them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glmkit.errors import UserError
from glmkit.extras import require
from glmkit.files import atomic_path, write_json
from glmkit.models.checkpoint import weights
from glmkit.models.checkpoint.configs import read_config

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model"
PREFIX = "A photo depicts "  # CLIPScore puts these words before every prompt (arXiv 2104.08718)
PAD, START, END = "<|pad|>", "<|start|>", "<|end|>"  # ids 0, 1, 2
# The whole image, whatever its shape, resized to a square and scaled to [-1, 1].
PREPARATION = {
    "mode": "RGB",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "resize_mode": "squash",
}


@dataclass(frozen=True)
class ClipModel:
    """Hold an `open_clip.CLIP` in float32 on the CPU and its tokenizer: texts -> ids B T, padded at the end."""

    model: nn.Module
    tokenizer: Any

    @property
    def side(self) -> int:
        """Return the rows and columns in pixels of what the image tower sees."""
        return int(self.model.visual.image_size[0])  # type: ignore[index, union-attr]

    def images(self, pixels: Tensor) -> Tensor:
        """Return unit features B D of prepared images B 3 side side in [-1, 1]."""
        return self.model.encode_image(pixels, normalize=True)  # type: ignore[operator]

    def texts(self, ids: Tensor) -> Tensor:
        """Return unit features B D of the ids of texts, B T."""
        return self.model.encode_text(ids, normalize=True)  # type: ignore[operator]


def create(folder: Path, sizes: Mapping[str, Any], corpus: Iterable[str]) -> None:
    """Write everything but weights: `sizes` are open_clip's `model_cfg`, the tokenizer learns its merges from `corpus`.

    UserError for sizes that open_clip does not know.
    """
    tokenizer = _train(corpus, sizes["text_cfg"]["vocab_size"])
    # open_clip takes any name as "the tokenizer is in this folder" when the model comes from a local one.
    ids = {"hf_tokenizer_name": "tokenizer.json", "pool_type": "eos", "eos_id": 2, "pad_id": 0}
    settings = {**sizes, "text_cfg": {**sizes["text_cfg"], "vocab_size": tokenizer.get_vocab_size(), **ids}}
    _build(settings, "the architecture of the CLIP")
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / "tokenizer.json") as path:
        tokenizer.save(str(path))
    names = {"pad_token": PAD, "bos_token": START, "eos_token": END}
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "right", "model_max_length": 131072, **names},
    )
    preparation = {"size": sizes["vision_cfg"]["image_size"], **PREPARATION}
    write_json(folder / CONFIG, {"model_cfg": settings, "preprocess_cfg": preparation})


def _train(corpus: Iterable[str], vocab_size: int) -> Any:
    """Train a lower-case byte-level BPE whose texts stand between START and END."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, 1), (END, 2)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def check(folder: Path) -> Path:
    """Return `folder`, if it is one that `load` can read; UserError otherwise."""
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} is not a CLIP folder", found=f"no {CONFIG}", fix="a folder in open_clip's format")
    prepared = _config(folder).get("preprocess_cfg") or {}
    if {key: prepared.get(key) for key in PREPARATION} != PREPARATION:
        raise UserError(
            f"{folder / CONFIG}: its images are prepared in another way than training does it",
            found=f"preprocess_cfg {prepared}",
            fix=f"{PREPARATION}",
        )
    return folder


def load(folder: Path) -> ClipModel:
    """Load a CLIP to train; with fresh weights (torch's global generator) when the folder has none yet."""
    settings = _config(check(folder))["model_cfg"]
    model = _build(settings, str(folder / CONFIG))
    if (folder / f"{WEIGHTS}.safetensors").exists():
        state = dict(weights.read(weights.stored_tensors(folder, WEIGHTS)))
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise UserError(f"the weights in {folder} do not fit {CONFIG}", found=str(error).splitlines()[1]) from error
    return ClipModel(model, tokenizer_of(f"local-dir:{folder}"))


def _config(folder: Path) -> dict[str, Any]:
    """Read the config of a CLIP folder; UserError for one that describes no model."""
    return read_config(folder / CONFIG, {"model_cfg": {"text_cfg": {}}, "preprocess_cfg": {}}, ["model_cfg"])


def tokenizer_of(source: str) -> Any:
    """Load the tokenizer of a CLIP as open_clip calls it; code that lies in a folder is never run."""
    folder = Path(source.removeprefix("local-dir:"))
    options = {}
    if folder.is_dir() and "hf_tokenizer_name" in (_config(folder)["model_cfg"].get("text_cfg") or {}):
        options["trust_remote_code"] = False
    return _open_clip().get_tokenizer(source, **options)


def save(folder: Path, clip: ClipModel, dtype: torch.dtype) -> None:
    """Write the weights beside the config that is there."""
    state = clip.model.state_dict().items()
    stored = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state}
    weights.write(folder, WEIGHTS, stored)


def _build(settings: Mapping[str, Any], source: str) -> nn.Module:
    try:
        return _open_clip().CLIP(**settings)
    except (TypeError, AttributeError, AssertionError) as error:
        raise UserError(f"{source}: open_clip cannot build this model", found=str(error)) from error


def _open_clip() -> Any:
    require("open_clip_torch", "CLIP")
    import open_clip

    return open_clip
