"""The token sequences of the AR model: from prompts to ids and positions, and from images to training batches.

A text-to-image sequence is `prompt <sop>H/32 W/32<eop><sop>h w<eop> start | preview h*w | large H/32*W/32 | end`;
an edit puts `start tokens end` of every condition image first, has one size pair and no preview. The token layout is
that of `GlmImageProcessor`, the positions are those of `GlmImageModel.get_rope_index` (transformers 5,
`models/glm_image`).

Shapes: B batch, T tokens, P prompt tokens, N image tokens (preview, large); the 3 of a position: time, row, column.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from glmkit.errors import UserError
from glmkit.generation import chat_limits
from glmkit.models.autoregressive.config import AutoregressiveConfig
from glmkit.models.checkpoint.configs import described_by
from glmkit.models.semantic_vq.model import MAX_ASPECT
from glmkit.text import check_text

TOKEN_PIXELS = 32
PREVIEW_SIDE = 16
MAX_CONDITION_IMAGES = 3
MAX_PIXELS = 4096**2  # four times what the published model generates
IGNORED = -100

Grid = tuple[int, int]


@dataclass(frozen=True)
class Grids:
    """Rows and columns of the large grid (32 pixels per token) and of the preview (about 256 tokens)."""

    large: Grid
    preview: Grid


def grids(height: int, width: int) -> Grids:
    """Return the grids of an image of height x width pixels; UserError for a size that the model cannot generate."""
    if height % TOKEN_PIXELS or width % TOKEN_PIXELS or min(height, width) < TOKEN_PIXELS:
        near = [max(1, round(side / TOKEN_PIXELS)) * TOKEN_PIXELS for side in (width, height)]
        raise UserError(
            f"width and height must be multiples of {TOKEN_PIXELS}",
            found=f"{width}x{height}",
            fix=f"{near[0]}x{near[1]}",
        )
    if height * width > MAX_PIXELS:
        side = math.isqrt(MAX_PIXELS)
        raise UserError("the image is too large", found=f"{width}x{height}", fix=f"at most the area of {side}x{side}")
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise UserError(
            f"an image may be at most {MAX_ASPECT} times as long as wide",
            found=f"{width}x{height}",
            fix="a longer short side",
        )
    large = (height // TOKEN_PIXELS, width // TOKEN_PIXELS)
    ratio = large[0] / large[1]
    return Grids(large, (int(math.sqrt(ratio) * PREVIEW_SIDE), int(math.sqrt(1 / ratio) * PREVIEW_SIDE)))


class PromptTokenizer:
    """The tokenizer and chat template of a `processor/` folder; gives the ids that `GlmImageProcessor` gives."""

    def __init__(self, folder: Path | str) -> None:
        from transformers import AutoTokenizer

        folder = Path(folder)
        if not (folder / "tokenizer.json").is_file():
            raise UserError(f"{folder} has no tokenizer.json", fix="the processor/ folder of a GLM-Image checkpoint")
        with described_by(folder / "tokenizer.json", "the tokenizer of a GLM-Image"):
            # Code that lies in the folder is never run, nor does the terminal ask whether to.
            self.tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
            names = ("image_token", "bos_token", "grid_bos_token", "grid_eos_token")
            special: list[str] = [getattr(self.tokenizer, name) for name in names]
            self.image_token_id, *_ = (int(self.tokenizer.convert_tokens_to_ids(token)) for token in special)
        with described_by(folder / "chat_template.jinja", "the chat of a GLM-Image"), chat_limits.limited():
            for images in range(MAX_CONDITION_IMAGES + 1):
                text = self._chat("a prompt", images)
                if "a prompt" not in text or text.count(special[0]) != images:
                    raise ValueError("a chat without its prompt, or without a place for each image")

    def text_to_image(self, prompt: str, height: int, width: int) -> list[int]:
        """Return the ids of a prompt for an image of height x width pixels, up to and with the start of the preview."""
        check_prompt(prompt)
        return self.text_to_image_batch([prompt], height, width)[0]

    def text_to_image_batch(self, prompts: Sequence[str], height: int, width: int) -> list[list[int]]:
        """Tokenise many prompts for one size together, as `text_to_image` does; here they may be empty."""
        shape = grids(height, width)
        size = self._size(shape.large) + self._size(shape.preview)
        return self._ids([self._chat(prompt, 0) + size for prompt in prompts])

    def edit(self, prompt: str, condition_ids: Sequence[Tensor], height: int, width: int) -> list[int]:
        """Return the ids of an edit, up to and with the start of the image.

        `condition_ids` are the token ids h w of its 1 to 3 condition images.
        """
        check_prompt(prompt)
        return self.edit_batch([prompt], [condition_ids], height, width)[0]

    def edit_batch(
        self, prompts: Sequence[str], condition_ids: Sequence[Sequence[Tensor]], height: int, width: int
    ) -> list[list[int]]:
        """Tokenise many edits for one size together, as `edit` does; here prompts may be empty."""
        size = self._size(grids(height, width).large)
        texts = [self._with_placeholders(*pair) + size for pair in zip(prompts, condition_ids, strict=True)]
        filled = []
        for ids, grids_of_prompt in zip(self._ids(texts), condition_ids, strict=True):
            image_ids = iter(torch.cat([grid.flatten() for grid in grids_of_prompt]).tolist())
            filled.append([next(image_ids) if token == self.image_token_id else token for token in ids])
        return filled

    def _with_placeholders(self, prompt: str, condition_ids: Sequence[Tensor]) -> str:
        if not 1 <= len(condition_ids) <= MAX_CONDITION_IMAGES:
            raise UserError(f"an edit takes 1 to {MAX_CONDITION_IMAGES} images", found=len(condition_ids))
        image = self.tokenizer.image_token
        before, *after = self._chat(prompt, len(condition_ids)).split(image)
        pairs = zip(condition_ids, after, strict=True)
        return before + "".join(image * ids.numel() + text for ids, text in pairs)

    def _chat(self, prompt: str, images: int) -> str:
        if self.tokenizer.image_token in prompt:
            raise UserError(f"a prompt must not contain {self.tokenizer.image_token}", found=prompt, fix="take it out")
        content = [{"type": "image"}] * images + [{"type": "text", "text": prompt}]
        return str(self.tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False))

    def _size(self, grid: Grid) -> str:
        return f"{self.tokenizer.grid_bos_token}{grid[0]} {grid[1]}{self.tokenizer.grid_eos_token}"

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        start = self.tokenizer.bos_token
        # The published processor leaves automatic tokens out exactly when the text already opens with the start token.
        opened = texts[0].startswith(start)
        ids: list[list[int]] = self.tokenizer([text + start for text in texts], add_special_tokens=not opened)[
            "input_ids"
        ]
        return ids


def check_prompt(prompt: str) -> None:
    """Raise UserError for a prompt that is empty, is no whole text, or is longer than any that describes an image."""
    check_text(prompt, "the prompt")


def decode_positions(start: int, grids_in_order: Sequence[Grid], device: torch.device | str = "cpu") -> Tensor:
    """Return the positions 3 x N of image tokens whose first grid starts at position `start`, in order of generation.

    Time stays at the start of its grid, row and column count from it; the next grid starts after the longer side.
    """
    positions = []
    for height, width in grids_in_order:
        row = torch.arange(height, device=device)[:, None].expand(height, width)
        column = torch.arange(width, device=device).expand(height, width)
        positions.append(torch.stack((torch.zeros_like(row), row, column)).flatten(1) + start)
        start += max(height, width)
    return torch.cat(positions, dim=1)


def prompt_positions(ids: Sequence[int], condition_grids: Sequence[Grid], image_start_token_id: int) -> Tensor:
    """Return the positions 3 x P of a prompt.

    Text counts up on all axes, the tokens after the k-th start token form grid k.
    """
    positions, begin, position = [], 0, 0
    for height, width in condition_grids:
        first_of_grid = list(ids).index(image_start_token_id, begin) + 1
        text = torch.arange(position, position + first_of_grid - begin).expand(3, -1)
        position += first_of_grid - begin
        positions += [text, decode_positions(position, [(height, width)])]
        position += max(height, width)
        begin = first_of_grid + height * width
    positions.append(torch.arange(position, position + len(ids) - begin).expand(3, -1))
    return torch.cat(positions, dim=1)


def next_position(positions_3P: Tensor) -> int:
    """Return where the first grid after a prompt starts: prompts end with text, which counts up on all axes."""
    return int(positions_3P[0, -1]) + 1


@dataclass(frozen=True)
class TrainingSequence:
    """One teacher-forced sequence. `targets_T[t]` is what to predict from token t, -100 where nothing is."""

    ids_T: Tensor
    positions_3T: Tensor
    targets_T: Tensor


def training_sequence(
    prompt_ids: Sequence[int],
    images: Sequence[Tensor],
    config: AutoregressiveConfig,
    condition_grids: Sequence[Grid] = (),
) -> TrainingSequence:
    """Join a prompt, the token ids h w of its images in order of generation, and the end token.

    The order is preview, large; of an edit large alone. The sequence is on the device of the images.
    """
    device = images[0].device
    order = [(ids.shape[0], ids.shape[1]) for ids in images]
    prompt_3P = prompt_positions(prompt_ids, condition_grids, config.image_start_token_id)
    # The end token stands where a one-token grid would.
    image_3N = decode_positions(next_position(prompt_3P), [*order, (1, 1)])
    end = torch.tensor([config.image_end_token_id], device=device)
    target_ids_N = torch.cat([ids.flatten() for ids in images] + [end])
    ids_T = torch.cat((torch.tensor(list(prompt_ids), device=device), target_ids_N))
    targets_T = torch.full_like(ids_T, IGNORED)
    targets_T[len(prompt_ids) - 1 : -1] = target_ids_N
    return TrainingSequence(ids_T, torch.cat((prompt_3P, image_3N), dim=1).to(device), targets_T)


@dataclass(frozen=True)
class TrainingBatch:
    """Teacher-forced sequences, padded on the right: attention looks back, so no mask is needed.

    `target_columns_BN` are the columns that have a target, so that a head computes only what the loss reads
    (`logits_to_keep=target_columns_BN`), and `target_ids_BN` are those targets: the token ids of the images in order
    of generation, then the end.
    """

    ids_BT: Tensor
    positions_3BT: Tensor
    target_columns_BN: Tensor
    target_ids_BN: Tensor


def training_batch(
    prompts: Sequence[Sequence[int]],
    images: Sequence[Tensor],
    config: AutoregressiveConfig,
    prompt_length: int | None = None,
    condition_grids: Sequence[Grid] = (),
) -> TrainingBatch:
    """Batch sequences of one image size, on the device of the images; each as `training_sequence` builds it.

    `images` are token ids B h w in order of generation (preview, large; of an edit large alone). `condition_grids` are
    those of every prompt's condition images, which all prompts hold at the same position. `prompt_length` pads to a
    fixed number of columns (for compiled models); by default the longest prompt decides.
    """
    device, batch = images[0].device, len(prompts)
    longest = max(len(prompt) for prompt in prompts)
    if prompt_length is not None and longest > prompt_length:
        raise UserError(
            f"a prompt has {longest} tokens", fix=f"a prompt_length of at least {longest}, not {prompt_length}"
        )
    columns = prompt_length or longest
    padded = [list(prompt) + [config.pad_token_id] * (columns - len(prompt)) for prompt in prompts]
    prompt_BP = torch.tensor(padded, device=device)
    length_B1 = torch.tensor([[len(prompt)] for prompt in prompts], device=device)
    start = config.image_start_token_id
    assert not condition_grids or len({prompt.index(start) for prompt in prompts}) == 1, "images at other positions"
    # Text counts up behind the images, so the positions of one prompt serve those of every length.
    prompt_3P = prompt_positions(padded[0], condition_grids, start).to(device)
    first_B1 = prompt_3P[0, length_B1 - 1] + 1

    end_B1 = torch.full((batch, 1), config.image_end_token_id, device=device)
    target_ids_BN = torch.cat([ids.flatten(1) for ids in images] + [end_B1], dim=1)
    order = [(ids.shape[1], ids.shape[2]) for ids in images]
    image_3N = decode_positions(0, [*order, (1, 1)], device)
    column_BN = length_B1 + torch.arange(target_ids_BN.shape[1], device=device)

    def with_images(prompt_part_BP: Tensor, fill: int, index_BN: Tensor, values_BN: Tensor) -> Tensor:
        tail = prompt_part_BP.new_full((batch, target_ids_BN.shape[1]), fill)
        return torch.cat((prompt_part_BP, tail), dim=1).scatter(1, index_BN, values_BN)

    positions = [
        with_images(text_P.expand(batch, -1), 0, column_BN, first_B1 + image_N)
        for text_P, image_N in zip(prompt_3P, image_3N, strict=True)
    ]
    return TrainingBatch(
        ids_BT=with_images(prompt_BP, config.pad_token_id, column_BN, target_ids_BN),
        positions_3BT=torch.stack(positions),
        target_columns_BN=column_BN - 1,
        target_ids_BN=target_ids_BN,
    )
