"""Auxiliary losses against their definition written out; what they ask for can be learnt."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from glmkit.models.hybrid import HybridModel
from glmkit.posters.everyday.masks import alphabet
from glmkit.pretraining.characters import POSITIONS, CharacterPositionHead, GlyphCharacterHead
from glmkit.pretraining.posters import EverydayDataset, PosterDataset

PROMPTS = [["abc"], ["x", "hello, you"], [], ["a" * (POSITIONS + 4)]]


def test_the_order_of_letters(tiny_model: Path) -> None:
    """Cross-entropy of the letters before and behind, text by text; neither padding nor the end is asked for."""
    glyph = HybridModel(tiny_model).glyph
    ids = torch.from_numpy(glyph.tokenize(PROMPTS))
    embeddings, mask = glyph.encode_token_ids(ids)
    head = CharacterPositionHead(embeddings.shape[-1])
    nats = []
    for prompt, texts in enumerate(PROMPTS):
        rows = embeddings[prompt][mask[prompt]]
        start = 0
        for text in texts:
            start += len(texts) % 2 == 0  # the padding token in front
            for place in range(len(text)):
                before, behind = head.tell(rows[start + place]).view(2, POSITIONS).log_softmax(dim=1)
                nats += [-before[min(place, POSITIONS - 1)], -behind[min(len(text) - 1 - place, POSITIONS - 1)]]
            start += len(text) + 1
    assert len(nats) == 2 * sum(len(text) for texts in PROMPTS for text in texts)
    assert head.loss(embeddings, ids).item() == pytest.approx(torch.stack(nats).mean().item(), abs=1e-5)
    assert head.loss(embeddings[2:3], ids[2:3]).item() == 0, "no letters, no loss"


def test_the_encoder_can_learn_it(tiny_model: Path) -> None:
    """The gradient leads through the embeddings into the encoder: with its help the loss falls far below the head's."""
    glyph = HybridModel(tiny_model).glyph
    glyph.requires_grad_(True)
    torch.manual_seed(0)
    words = [["".join(chr(97 + int(letter)) for letter in torch.randint(26, (1 + place % 5,)))] for place in range(40)]
    ids = torch.from_numpy(glyph.tokenize(words))
    head = CharacterPositionHead(glyph.encoder.config.d_model)
    optimizer = torch.optim.Adam([*glyph.parameters(), *head.parameters()], lr=3e-3)
    for _ in range(150):
        loss = head.loss(glyph.encode_token_ids(ids)[0], ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1 < math.log(POSITIONS)


def test_each_byte_knows_its_character(tiny_model: Path) -> None:
    """Every byte of a character has its number; spaces, ends, padding and what is in no alphabet have none."""
    glyph = HybridModel(tiny_model).glyph
    prompts = [["né 大y"], ["€5", "小🙂x 为"], []]
    ids = torch.from_numpy(glyph.tokenize(prompts))
    head = GlyphCharacterHead(8, alphabet())
    for prompt, texts in enumerate(prompts):
        found = [row[row > 0].tolist() for row in head.labels(ids)[prompt]]
        expected = [
            [alphabet()[character] for character in text if character in alphabet() for _ in character.encode()]
            for text in texts
        ]
        assert [row for row in found if row] == expected
    assert head.tell.out_features == 1 + max(alphabet().values())


@pytest.mark.parametrize("kind", [PosterDataset, EverydayDataset])
def test_every_label_is_in_the_alphabet(kind: type[PosterDataset]) -> None:
    """What stands on posters is a character or one of six shapes, and each has a class of its own in the heads."""
    images = kind(24, 128, 128, 5, 1, "train")
    labels = images.character_labels(range(24), torch.device("cpu"))
    assert set(labels.unique().tolist()) <= {*range(7), *images.alphabet.values()}
    assert len(set(images.alphabet.values())) == len(images.alphabet)
