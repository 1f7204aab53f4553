"""From a prompt to the token sequence that the autoregressive model reads, and back from positions to training batches.

A text-to-image sequence is `prompt <sop>H/32 W/32<eop><sop>h w<eop> start | preview h*w | large H/32*W/32 | end`;
an edit puts `start codes end` of every source first, has one size pair and no preview. The token layout is that of
`GlmImageProcessor`, the positions are those of `GlmImageModel.get_rope_index` (transformers 5, `models/glm_image`).

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
from glmkit.models.autoregressive.config import AutoregressiveConfig
from glmkit.models.semantic_vq.model import MAX_ASPECT

TOKEN_PIXELS = 32
PREVIEW_SIDE = 16
MAX_CONDITION_IMAGES = 3
IGNORED = -100

Grid = tuple[int, int]


@dataclass(frozen=True)
class Grids:
    """Rows and columns of the large grid (32 pixels a token) and of the preview (about 256 tokens)."""

    large: Grid
    preview: Grid


def grids(height: int, width: int) -> Grids:
    """The grids of an image of height x width pixels. Raises UserError for a size that the model cannot draw."""
    if height % TOKEN_PIXELS or width % TOKEN_PIXELS or min(height, width) < TOKEN_PIXELS:
        near = [max(1, round(side / TOKEN_PIXELS)) * TOKEN_PIXELS for side in (width, height)]
        raise UserError(
            f"width and height must be multiples of {TOKEN_PIXELS}",
            found=f"{width}x{height}",
            fix=f"{near[0]}x{near[1]}",
        )
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
    """The tokenizer and chat template of a `processor/` folder; gives the ids that the stock processor gives."""

    def __init__(self, folder: Path | str) -> None:
        from transformers import AutoTokenizer

        if not (Path(folder) / "tokenizer.json").is_file():
            raise UserError(f"{folder} has no tokenizer.json", fix="the processor/ folder of a GLM-Image checkpoint")
        self.tokenizer = AutoTokenizer.from_pretrained(str(folder))
        self.image_token_id: int = self.tokenizer.convert_tokens_to_ids(self.tokenizer.image_token)

    def text_to_image(self, prompt: str, height: int, width: int) -> list[int]:
        """Ids of a prompt for an image of height x width pixels, up to and with the start of the preview."""
        return self.text_to_image_batch([_asking(prompt)], height, width)[0]

    def text_to_image_batch(self, prompts: Sequence[str], height: int, width: int) -> list[list[int]]:
        """`text_to_image` of many prompts for one size, tokenised together; training leaves some of them empty."""
        shape = grids(height, width)
        size = self._size(shape.large) + self._size(shape.preview)
        return self._ids([self._chat(prompt, 0) + size for prompt in prompts])

    def edit(self, prompt: str, source_ids: Sequence[Tensor], height: int, width: int) -> list[int]:
        """Ids of an edit of 1 to 3 sources, each given as its codes h w, up to and with the start of the image."""
        return self.edit_batch([_asking(prompt)], [source_ids], height, width)[0]

    def edit_batch(
        self, prompts: Sequence[str], source_ids: Sequence[Sequence[Tensor]], height: int, width: int
    ) -> list[list[int]]:
        """`edit` of many prompts for one size, tokenised together; training leaves some of them empty."""
        size = self._size(grids(height, width).large)
        texts = [self._with_placeholders(*pair) + size for pair in zip(prompts, source_ids, strict=True)]
        filled = []
        for ids, own in zip(self._ids(texts), source_ids, strict=True):
            codes = iter(torch.cat([grid.flatten() for grid in own]).tolist())
            filled.append([next(codes) if token == self.image_token_id else token for token in ids])
        return filled

    def _with_placeholders(self, prompt: str, source_ids: Sequence[Tensor]) -> str:
        if not 1 <= len(source_ids) <= MAX_CONDITION_IMAGES:
            raise UserError(f"an edit takes 1 to {MAX_CONDITION_IMAGES} source images", found=len(source_ids))
        image = self.tokenizer.image_token
        parts = self._chat(prompt, len(source_ids)).split(image)
        counted = zip(source_ids, parts[1:], strict=True)
        return parts[0] + "".join(image * codes.numel() + after for codes, after in counted)

    def _chat(self, prompt: str, sources: int) -> str:
        if self.tokenizer.image_token in prompt:
            raise UserError(f"a prompt must not contain {self.tokenizer.image_token}", found=prompt, fix="take it out")
        content = [{"type": "image"}] * sources + [{"type": "text", "text": prompt}]
        return self.tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)

    def _size(self, grid: Grid) -> str:
        return f"{self.tokenizer.grid_bos_token}{grid[0]} {grid[1]}{self.tokenizer.grid_eos_token}"

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        start = self.tokenizer.bos_token
        # The stock processor leaves automatic tokens out exactly when the text already opens with the start token.
        opened = texts[0].startswith(start)
        return self.tokenizer([text + start for text in texts], add_special_tokens=not opened)["input_ids"]


def _asking(prompt: str) -> str:
    """The prompt; UserError when it asks for nothing."""
    if not prompt.strip():
        raise UserError("the prompt is empty", fix="describe the image")
    return prompt


def decode_positions(start: int, grids_in_order: Sequence[Grid], device: torch.device | str = "cpu") -> Tensor:
    """Positions 3 x N of image tokens whose first grid starts at position `start`, grids in writing order.

    Time stays at the start of its grid, row and column count from it; the next grid starts after the longer side.
    """
    parts = []
    for height, width in grids_in_order:
        row = torch.arange(height, device=device)[:, None].expand(height, width)
        column = torch.arange(width, device=device).expand(height, width)
        parts.append(torch.stack((torch.zeros_like(row), row, column)).flatten(1) + start)
        start += max(height, width)
    return torch.cat(parts, dim=1)


def prompt_positions(ids: Sequence[int], source_grids: Sequence[Grid], image_start_token_id: int) -> Tensor:
    """Positions 3 x P of a prompt: text counts up on all axes, the codes after the k-th start token form grid k."""
    parts, begin, position = [], 0, 0
    for height, width in source_grids:
        first_code = list(ids).index(image_start_token_id, begin) + 1
        text = torch.arange(position, position + first_code - begin).expand(3, -1)
        position += first_code - begin
        parts += [text, decode_positions(position, [(height, width)])]
        position += max(height, width)
        begin = first_code + height * width
    parts.append(torch.arange(position, position + len(ids) - begin).expand(3, -1))
    return torch.cat(parts, dim=1)


def next_position(positions_3P: Tensor) -> int:
    """Where the first grid after a prompt starts: prompts end with text, which counts up on all axes."""
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
    source_grids: Sequence[Grid] = (),
) -> TrainingSequence:
    """Prompt, then the images' codes h w in writing order (preview, large; an edit: large), then the end token; on
    the device of the codes."""
    device = images[0].device
    order = [(codes.shape[0], codes.shape[1]) for codes in images]
    prompt_3P = prompt_positions(prompt_ids, source_grids, config.image_start_token_id)
    # The end token stands where a one-token grid would.
    image_3N = decode_positions(next_position(prompt_3P), [*order, (1, 1)])
    end = torch.tensor([config.image_end_token_id], device=device)
    written = torch.cat([codes.flatten() for codes in images] + [end])
    ids_T = torch.cat((torch.tensor(list(prompt_ids), device=device), written))
    targets_T = torch.full_like(ids_T, IGNORED)
    targets_T[len(prompt_ids) - 1 : -1] = written
    return TrainingSequence(ids_T, torch.cat((prompt_3P, image_3N), dim=1).to(device), targets_T)


@dataclass(frozen=True)
class TrainingBatch:
    """Teacher-forced sequences, padded on the right: attention looks back, so no mask is needed.

    `valid_BT` is False on padding. `targets_BT` holds what to predict from each token, -100 where nothing is. The same
    without the prompts, for a head that computes only what the loss reads (`model(ids_BT, positions_3BT,
    logits_to_keep=keep_BN)`): `keep_BN` are the columns that have a target, and `written_BN` are those targets: the
    codes of the images in writing order, then the end.
    """

    ids_BT: Tensor
    positions_3BT: Tensor
    valid_BT: Tensor
    targets_BT: Tensor
    keep_BN: Tensor
    written_BN: Tensor


def training_batch(
    prompts: Sequence[Sequence[int]],
    images: Sequence[Tensor],
    config: AutoregressiveConfig,
    prompt_length: int | None = None,
    source_grids: Sequence[Grid] = (),
) -> TrainingBatch:
    """Batch sequences of one image size, on the device of the codes; each as `training_sequence` builds it.

    `images` are codes B h w in writing order (preview, large; an edit: large). `source_grids` are those of every
    prompt's sources, which all prompts hold at the same place. `prompt_length` pads to a fixed number of columns (for
    compiled models); by default the longest prompt decides.
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
    assert not source_grids or len({prompt.index(start) for prompt in prompts}) == 1, "sources at different places"
    # Text counts up behind the sources, so one row of positions serves prompts of every length.
    prompt_3P = prompt_positions(padded[0], source_grids, start).to(device)
    first_B1 = prompt_3P[0, length_B1 - 1] + 1

    end_B1 = torch.full((batch, 1), config.image_end_token_id, device=device)
    written_BN = torch.cat([codes.flatten(1) for codes in images] + [end_B1], dim=1)
    order = [(codes.shape[1], codes.shape[2]) for codes in images]
    image_3N = decode_positions(0, [*order, (1, 1)], device)
    at_BN = length_B1 + torch.arange(written_BN.shape[1], device=device)

    def with_images(prompt_part_BP: Tensor, fill: int, index_BN: Tensor, values_BN: Tensor) -> Tensor:
        tail = prompt_part_BP.new_full((batch, written_BN.shape[1]), fill)
        return torch.cat((prompt_part_BP, tail), dim=1).scatter(1, index_BN, values_BN)

    positions = [
        with_images(text_P.expand(batch, -1), 0, at_BN, first_B1 + image_N)
        for text_P, image_N in zip(prompt_3P, image_3N, strict=True)
    ]
    column_T = torch.arange(columns + written_BN.shape[1], device=device)
    return TrainingBatch(
        ids_BT=with_images(prompt_BP, config.pad_token_id, at_BN, written_BN),
        positions_3BT=torch.stack(positions),
        valid_BT=column_T < length_B1 + written_BN.shape[1],
        targets_BT=with_images(torch.full_like(prompt_BP, IGNORED), IGNORED, at_BN - 1, written_BN),
        keep_BN=at_BN - 1,
        written_BN=written_BN,
    )
