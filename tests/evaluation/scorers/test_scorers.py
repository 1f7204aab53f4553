"""Learned scorers on tiny random weights, each against a computation of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import tiny_clip
import tiny_hpsv3
import torch
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPImageProcessor, CLIPProcessor, CLIPTokenizer

from glmkit.errors import UserError
from glmkit.evaluation import scorers
from glmkit.evaluation.scorers import aesthetic_v2, hpsv2_1, hpsv3, imagereward, pickscore

PROMPT = "a sign that says 'Red Fox'"
LONG = "a very long prompt about a fox " * 20


@pytest.fixture(scope="module")
def image() -> Image.Image:
    levels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(levels).resize((90, 60), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip.build(tmp_path_factory.mktemp("clip") / "tiny")


def test_names() -> None:
    assert scorers.names() == ["aesthetic-v2", "hpsv2-1", "hpsv3", "imagereward", "pickscore"]
    with pytest.raises(UserError, match="did you mean 'pickscore'"):
        scorers.resolve("pikscore:here")


def test_the_aesthetic_predictor_is_its_layers_one_after_another(
    clip: Path, image: Image.Image, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    layers: dict[str, nn.Module] = {"0": nn.Linear(16, 8), "2": nn.Linear(8, 4), "4": nn.Linear(4, 1)}
    torch.save(
        {f"layers.{n}.{key}": value for n, layer in layers.items() for key, value in layer.state_dict().items()},
        tmp_path / "head.pth",
    )
    scorer = aesthetic_v2.load(f"{tmp_path / 'head.pth'},{clip}", "cpu")
    network, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{clip}")
    with torch.no_grad():
        feature = network.encode_image(prepare(image)[None], normalize=True)
        expected = float(nn.Sequential(*layers.values())(feature)[0, 0])
    assert scorer.score(image, "") == pytest.approx(expected, abs=1e-6)
    assert scorer.count_tokens(LONG) <= scorer.most_tokens == 0
    torch.save({"layers.0.weight": torch.ones(1, 5), "layers.0.bias": torch.ones(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="for another CLIP"):
        aesthetic_v2.load(f"{tmp_path / 'other.pth'},{clip}", "cpu")


def test_hps_is_a_hundred_times_the_cosine(
    clip: Path, image: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hpsv2_1, "ARCHITECTURE", f"local-dir:{clip}")
    state = load_file(clip / "open_clip_model.safetensors")
    torch.save({"state_dict": state}, tmp_path / "hps.pt")
    scorer = hpsv2_1.load(str(tmp_path / "hps.pt"), "cpu")
    model = tiny_clip.reference(state)
    # The longer side is 32 pixels, the rest black; OpenAI's mean and deviation.
    whole = Image.new("RGB", (32, 32))
    whole.paste(image.resize((32, 21), Image.Resampling.BICUBIC), (0, 5))
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    pixels = (torch.tensor(np.asarray(whole)).permute(2, 0, 1)[None] / 255 - torch.tensor(mean)[:, None, None]) / (
        torch.tensor(std)[:, None, None]
    )
    tokens = open_clip.get_tokenizer("ViT-H-14")([PROMPT])
    with torch.no_grad():
        output = model(input_ids=tokens, pixel_values=pixels)
    cosine = functional.cosine_similarity(output.image_embeds, output.text_embeds)
    assert scorer.score(image, PROMPT) == pytest.approx(100 * float(cosine[0]), abs=0.05)
    assert (scorer.count_tokens("a fox"), scorer.most_tokens) == (4, 77)
    assert scorer.count_tokens(LONG) > 77


def test_pickscore_is_the_scaled_cosine_of_clip(clip: Path, image: Image.Image, tmp_path: Path) -> None:
    state = load_file(clip / "open_clip_model.safetensors")
    model = tiny_clip.reference(state)
    model.logit_scale.data.fill_(2.5)
    folder = tmp_path / "pickscore"
    model.save_pretrained(folder)
    words = SimpleTokenizer()
    (tmp_path / "vocab.json").write_text(json.dumps(words.encoder), encoding="utf-8")
    merges = "\n".join(" ".join(pair) for pair in sorted(words.bpe_ranks, key=words.bpe_ranks.__getitem__))
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    start, end = "<start_of_text>", "<end_of_text>"
    special = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end}
    tokenizer = CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"), **special)
    preparation = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(preparation, tokenizer).save_pretrained(folder)
    scorer = pickscore.load(str(folder), "cpu")
    network = open_clip.create_model(f"local-dir:{clip}").eval()
    pixels = preparation(image, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        seen = network.encode_image(pixels, normalize=True)
        read = network.encode_text(open_clip.get_tokenizer("ViT-H-14")([PROMPT]), normalize=True)
    assert scorer.score(image, PROMPT) == pytest.approx(np.exp(2.5) * float((seen @ read.T)[0, 0]), abs=1e-4)
    assert scorer.count_tokens(LONG) > scorer.most_tokens == 77
    assert np.isfinite(scorer.score(image, LONG))


WIDTH, PATCH, SIDE, TEXT = 64, 8, 32, 16


def reward_state() -> dict[str, Tensor]:
    """Weights by the published names: an image encoder of 2 layers, a text encoder of 2, and the head."""
    generator = torch.Generator().manual_seed(0)

    def tensor(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.6

    state = {"cls_token": tensor(1, 1, WIDTH), "pos_embed": tensor(1, (SIDE // PATCH) ** 2 + 1, WIDTH)}
    state |= {"patch_embed.proj.weight": tensor(WIDTH, 3, PATCH, PATCH), "patch_embed.proj.bias": tensor(WIDTH)}
    linears = {"attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH)}
    linears |= {"mlp.fc1": (2 * WIDTH, WIDTH), "mlp.fc2": (WIDTH, 2 * WIDTH)}
    norms = ["norm"]
    for layer in range(2):
        norms += [f"blocks.{layer}.norm1", f"blocks.{layer}.norm2"]
        for name, shape in linears.items():
            state |= {f"blocks.{layer}.{name}.weight": tensor(*shape), f"blocks.{layer}.{name}.bias": tensor(shape[0])}
    for name in norms:
        state |= {f"{name}.weight": 1 + tensor(WIDTH), f"{name}.bias": tensor(WIDTH)}
    text = {"embeddings.word_embeddings.weight": tensor(12, TEXT)}
    text |= {"embeddings.position_embeddings.weight": tensor(64, TEXT)}
    names: dict[str, tuple[int, ...]] = {"embeddings.LayerNorm": (TEXT,)}
    for layer in range(2):
        before = f"encoder.layer.{layer}"
        for kind, keys in (("attention", TEXT), ("crossattention", WIDTH)):
            sizes: dict[str, tuple[int, ...]] = {
                "self.query": (TEXT, TEXT),
                "self.key": (TEXT, keys),
                "self.value": (TEXT, keys),
            }
            sizes |= {"output.dense": (TEXT, TEXT), "output.LayerNorm": (TEXT,)}
            names |= {f"{before}.{kind}.{name}": size for name, size in sizes.items()}
        names |= {f"{before}.intermediate.dense": (32, TEXT), f"{before}.output.dense": (TEXT, 32)}
        names |= {f"{before}.output.LayerNorm": (TEXT,)}
    for name, size in names.items():
        text |= {f"{name}.weight": tensor(*size), f"{name}.bias": tensor(size[0])}
    head = {
        f"{n}.{kind}": tensor(*size)
        for n, rows, columns in ((0, 8, TEXT), (2, 4, 8), (4, 1, 4))
        for kind, size in (("weight", (rows, columns)), ("bias", (rows,)))
    }
    return {
        **{f"blip.visual_encoder.{key}": value for key, value in state.items()},
        **{f"blip.text_encoder.{key}": value for key, value in text.items()},
        **{f"mlp.layers.{key}": value for key, value in head.items()},
    }


class Reference:
    """BLIP written out by hand, in float64, from the published names."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = {key: value.double() for key, value in state.items()}

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def norm(self, x: Tensor, name: str, eps: float) -> Tensor:
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + eps).sqrt()
        return x * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    @staticmethod
    def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        width = q.shape[-1] // heads
        parts = []
        for head in range(heads):
            columns = slice(head * width, (head + 1) * width)
            shares = (q[:, columns] @ k[:, columns].T / width**0.5).softmax(-1)
            parts.append(shares @ v[:, columns])
        return torch.cat(parts, -1)

    def image(self, pixels: Tensor) -> Tensor:
        at = "blip.visual_encoder"
        kernel = self.state[f"{at}.patch_embed.proj.weight"].flatten(1)
        patches = functional.unfold(pixels[None].double(), PATCH, stride=PATCH)[0].T
        x = patches @ kernel.T + self.state[f"{at}.patch_embed.proj.bias"]
        x = torch.cat([self.state[f"{at}.cls_token"][0], x]) + self.state[f"{at}.pos_embed"][0]
        for layer in (0, 1):
            block = f"{at}.blocks.{layer}"
            q, k, v = self.linear(self.norm(x, f"{block}.norm1", 1e-6), f"{block}.attn.qkv").chunk(3, -1)
            x = x + self.linear(self.attend(q, k, v, 1), f"{block}.attn.proj")
            hidden = functional.gelu(self.linear(self.norm(x, f"{block}.norm2", 1e-6), f"{block}.mlp.fc1"))
            x = x + self.linear(hidden, f"{block}.mlp.fc2")
        return self.norm(x, f"{at}.norm", 1e-6)

    def reward(self, pixels: Tensor, ids: list[int]) -> float:
        at, seen = "blip.text_encoder", self.image(pixels)
        x = self.state[f"{at}.embeddings.word_embeddings.weight"][ids]
        x = x + self.state[f"{at}.embeddings.position_embeddings.weight"][: len(ids)]
        x = self.norm(x, f"{at}.embeddings.LayerNorm", 1e-12)
        for layer in (0, 1):
            block = f"{at}.encoder.layer.{layer}"
            for kind, keys in (("attention", None), ("crossattention", seen)):
                q = self.linear(x, f"{block}.{kind}.self.query")
                k, v = (self.linear(x if keys is None else keys, f"{block}.{kind}.self.{n}") for n in ("key", "value"))
                mixed = self.linear(self.attend(q, k, v, 2), f"{block}.{kind}.output.dense")
                x = self.norm(x + mixed, f"{block}.{kind}.output.LayerNorm", 1e-12)
            hidden = functional.gelu(self.linear(x, f"{block}.intermediate.dense"))
            x = self.norm(x + self.linear(hidden, f"{block}.output.dense"), f"{block}.output.LayerNorm", 1e-12)
        for layer in (0, 2, 4):
            x = self.linear(x, f"mlp.layers.{layer}")
        return (float(x[0, 0]) - 0.16717362830052426) / 1.0333394966054072


@pytest.fixture
def reward_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "imagereward"
    folder.mkdir()
    torch.save(reward_state(), folder / "ImageReward.pt")
    sizes = {"hidden_size": TEXT, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    (folder / "med_config.json").write_text(json.dumps({**sizes, "layer_norm_eps": 1e-12, "encoder_width": WIDTH}))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "fox", "sign"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    return folder


def test_imagereward_is_blip_with_a_linear_head(reward_folder: Path, image: Image.Image) -> None:
    scorer = imagereward.load(str(reward_folder), "cpu")
    pixels = open_clip.image_transform(SIDE, is_train=False)(image)
    reference = Reference(reward_state())
    for prompt, ids in (("A red fox sign", [2, 5, 6, 7, 8, 3]), ("a dog", [2, 5, 1, 3])):
        assert scorer.score(image, prompt) == pytest.approx(reference.reward(pixels, ids), rel=1e-4, abs=1e-4)
    other = Image.new("RGB", image.size, "teal")
    values = [scorer.score(one, prompt) for one in (image, other) for prompt in ("a red fox", "a dog")]
    assert min(abs(a - b) for number, a in enumerate(values) for b in values[:number]) > 0.001
    assert (scorer.count_tokens("a red fox"), scorer.most_tokens) == (5, 35)
    cut = "fox " * 60
    assert scorer.score(image, cut) == pytest.approx(reference.reward(pixels, [2, *[7] * 33, 3]), rel=1e-4, abs=1e-4)


@pytest.fixture(scope="module")
def hps_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hpsv3")
    tiny_hpsv3.build(folder)
    return folder


# The reward class of the hpsv3 package, version 1.0.0, with transformers 4.45.2 gave these for the toy's weights.
PUBLISHED = {PROMPT: -0.14392220973968506, LONG: 0.790343165397644, "a {} {x} 红": -0.8962993621826172}


@pytest.mark.parametrize("prompt", PUBLISHED, ids=["quotes", "long", "braces"])
def test_hpsv3_gives_the_numbers_of_the_published_code(prompt: str, hps_folder: Path, image: Image.Image) -> None:
    assert hpsv3.load(str(hps_folder), "cpu").score(image, prompt) == pytest.approx(PUBLISHED[prompt], abs=1e-4)


def test_hpsv3_is_the_head_on_the_state_of_the_token_for_the_reward(hps_folder: Path, image: Image.Image) -> None:
    state = load_file(hps_folder / "HPSv3.safetensors")
    scorer = hpsv3.load(str(hps_folder), "cpu")
    model, words = tiny_hpsv3.reference(hps_folder, state)
    # 256 tokens of 28 pixels: 90 x 60 becomes 560 x 392, rounded up; 14 x 20 tokens, 4 patches each.
    rows, columns = 14, 20
    levels = np.asarray(image.resize((28 * columns, 28 * rows), Image.Resampling.BICUBIC), dtype=np.float64) / 255
    levels = (levels - open_clip.OPENAI_DATASET_MEAN) / open_clip.OPENAI_DATASET_STD
    # Two equal frames; patches of one token stand beside each other: row, column, row in it, column in it.
    parts = levels.reshape(rows, 2, 14, columns, 2, 14, 3).transpose(0, 3, 1, 4, 6, 2, 5)
    patches = np.repeat(parts.reshape(-1, 3, 1, 14 * 14), 2, axis=2).reshape(-1, 3 * 2 * 14 * 14)
    seen = "<|vision_start|>" + "<|image_pad|>" * (rows * columns) + "<|vision_end|>"
    rubric = tiny_hpsv3.RUBRIC.replace("{text_prompt}", PROMPT) + tiny_hpsv3.ENDING
    said = f"<|im_start|>system\nHelp.<|im_end|>\n<|im_start|>user\n{seen}{rubric}<|im_end|>\n<|im_start|>assistant\n"
    ids = torch.tensor([words(said)["input_ids"]])
    with torch.no_grad():
        states = model(
            input_ids=ids,
            position_ids=torch.arange(ids.shape[1]).expand(3, 1, -1),
            pixel_values=torch.tensor(patches),
            image_grid_thw=torch.tensor([[1, 2 * rows, 2 * columns]]),
            output_hidden_states=True,
        ).hidden_states[-1][0]
    x = states[words(said)["input_ids"].index(words.convert_tokens_to_ids("<|Reward|>"))].numpy()
    for layer in (0, 3, 5):
        x = state[f"rm_head.{layer}.weight"].double().numpy() @ x + state[f"rm_head.{layer}.bias"].double().numpy()
        x = np.maximum(x, 0) if layer != 5 else x
    assert scorer.score(image, PROMPT) == pytest.approx(float(x[0]), abs=1e-4)
    assert abs(x[0] - x[1]) > 0.01
    assert (scorer.count_tokens("a fox"), scorer.most_tokens) == (5, 32768)
    assert scorer.score(image, "a <|Reward|> of 5") != scorer.score(image, "a fox")


def test_hpsv3_reads_its_rubric_from_the_published_file(hps_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "hpsv3"
    shutil.copytree(hps_folder, folder)
    (folder / "data_collator_qwen.py").write_text("INSTRUCTION = 'rate {text_prompt}'\n")
    with pytest.raises(UserError, match="does not hold the rubric of HPSv3"):
        hpsv3.load(str(folder), "cpu")
    before = hpsv3.load(str(hps_folder), "cpu").identity
    source = (hps_folder / "data_collator_qwen.py").read_text()
    (folder / "data_collator_qwen.py").write_text(source.replace("Look at", "Consider"))
    assert hpsv3.load(str(folder), "cpu").identity.key != before.key
    state = load_file(folder / "HPSv3.safetensors")
    save_file({key: value for key, value in state.items() if "layers.1.mlp" not in key}, folder / "HPSv3.safetensors")
    with pytest.raises(UserError, match="does not hold the weights of this scorer"):
        hpsv3.load(str(folder), "cpu")


@pytest.mark.parametrize("name", ["aesthetic-v2", "hpsv2-1", "hpsv3", "imagereward", "pickscore"])
@pytest.mark.parametrize("content", [None, b"no weights", b""], ids=["nothing", "text", "empty"])
def test_other_files_say_what_to_type(name: str, content: bytes | None, tmp_path: Path) -> None:
    module: Any
    module, _ = scorers.find(scorers.resolve(name))
    place = tmp_path / "folder"
    place.mkdir()
    files = {"hpsv3": "HPSv3.safetensors", "imagereward": "ImageReward.pt", "pickscore": "model.safetensors"}
    path = place / files.get(name, "weights.pt")
    if content is not None:
        path.write_bytes(content)
        (place / "med_config.json").write_text("{}")
        (place / "data_collator_qwen.py").write_text("INSTRUCTION = '{text_prompt} <|Reward|>'")
    for location in ("", str(place if name in files else path)):
        with pytest.raises(UserError) as caught:
            module.load(location, "cpu")
        assert caught.value.fix == module.FIX
