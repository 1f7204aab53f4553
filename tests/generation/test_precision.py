"""Layers in 8 and 4 bits: images near the exact ones, the same alone and in a batch, and known for what they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import tiny_adapter
import torch
from PIL import Image
from torch import Tensor, nn

from glmkit.cli import main
from glmkit.errors import UserError
from glmkit.evaluation.plan import GenerationSettings
from glmkit.files import read_json, read_jsonl, write_json
from glmkit.generation.condition_images import encode_condition_image, encode_condition_images
from glmkit.generation.denoising import decode_latents, decode_prior_tokens, denoise
from glmkit.generation.loading import load_model
from glmkit.generation.prior_tokens import generate_prior_tokens
from glmkit.generation.requests import new_request
from glmkit.inputs.images import read_image
from glmkit.models import checkpoint
from glmkit.models.float8 import has_products
from glmkit.models.hybrid import HybridModel
from glmkit.models.quantized import FORMATS, PackedLinear
from glmkit.records import Request
from glmkit.serving.adapters import AdapterSwitch, checked_adapters
from glmkit.shipped import ROOT

ONE = Request("a", "a red poster with 'HELLO'", height=64, width=96, steps=4, guidance=2.5)
IDS = torch.arange(6).view(2, 3)
LOW = ("8bit", "4bit")


def load(folder: Path, precision: str = "exact", adapters: tuple[str, ...] = ()) -> HybridModel:
    return load_model(folder, "cpu", adapters=adapters, precision=precision)


def with_rounded_weights(folder: Path, precision: str) -> HybridModel:
    """An exact model whose matrices have the values that those of a low precision stand for."""
    exact, low = HybridModel.load(folder), load(folder, precision)
    for component in FORMATS[precision]:
        module: nn.Module = getattr(exact, component)
        for name, layer in cast(nn.Module, getattr(low, component)).named_modules():
            if isinstance(layer, PackedLinear):
                cast(nn.Linear, module.get_submodule(name)).weight.data = layer.matrix.unpack()
    return exact


@pytest.mark.parametrize("precision", LOW)
def test_it_is_the_model_of_the_rounded_weights(tiny_model: Path, precision: str) -> None:
    """Every layer is packed and none else is; what comes of it is what exact arithmetic makes of these weights."""
    low, rounded = load(tiny_model, precision), with_rounded_weights(tiny_model, precision)
    assert low.arithmetic == f"torch.float32 {precision}"
    exact = HybridModel.load(tiny_model)
    ours, expected, others = ((denoise(one, [ONE], [IDS]), logits(one)) for one in (low, rounded, exact))
    for found, same, other in zip(ours, expected, others, strict=True):
        torch.testing.assert_close(found, same, atol=1e-4, rtol=0)
        assert (found - other).abs().max() > 1e-3
    for component in FORMATS[precision]:
        left = [m for m in cast(nn.Module, getattr(low, component)).modules() if isinstance(m, nn.Linear)]
        assert left == [] if component == "autoregressive" else len(left) == 13


def test_alone_or_in_a_batch(tiny_model: Path) -> None:
    """The same prior tokens; latents but for the rounding of the glyph encoder, which pads the texts of a batch."""
    hybrid = load(tiny_model, "4bit")
    requests = [replace(ONE, id=prompt, prompt=prompt, seed=3) for prompt in ("a sea with 'HELLO'", "no text")]
    ids = generate_prior_tokens(hybrid, requests)
    assert torch.equal(generate_prior_tokens(hybrid, requests[1:])[0], ids[1])
    alone = denoise(hybrid, requests[1:], ids[1:])
    torch.testing.assert_close(denoise(hybrid, requests, ids)[1:], alone, atol=2e-5, rtol=0)


def psnr(one: Tensor, other: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pixels in [-1, 1]."""
    return float(-10 * ((one.clamp(-1, 1) - other.clamp(-1, 1)) / 2).square().mean().log10())


def test_images_of_nano_are_near_the_exact_ones() -> None:
    """Under the prior tokens of posters, in 8 bits: eight differ by 29 dB on average, other seeds by 15."""
    exact, low = load(checkpoint.NANO), load(checkpoint.NANO, "8bit")
    folder = ROOT / "data" / "posters" / "train"
    near, far = [], []
    for poster in read_jsonl(folder / "metadata.jsonl")[:4]:
        ids = [encode_condition_image(exact, read_image(folder / poster["file_name"])).token_ids]
        one = new_request(exact.folder, "a", poster["text"], size="256x256", steps=5)
        expected, rounded, other = (
            decode_latents(hybrid, denoise(hybrid, [request], ids))
            for hybrid, request in ((exact, one), (low, one), (exact, replace(one, seed=1)))
        )
        near.append(psnr(rounded, expected))
        far.append(psnr(other, expected))
    assert np.mean(near) > np.mean(far) + 10


@pytest.mark.gpu
@pytest.mark.parametrize("precision", LOW)
def test_images_of_nano_on_a_gpu(precision: str) -> None:
    """By its kernels: near the exact images, the same twice, and prior tokens alone as in a batch."""
    exact, low = (load_model(checkpoint.NANO, "cuda", precision=one) for one in ("exact", precision))
    requests = [new_request(low.folder, str(seed), "a red 'SALE'", size="256x256", seed=seed) for seed in range(3)]
    ids = generate_prior_tokens(low, requests)
    assert torch.equal(generate_prior_tokens(low, requests[1:2])[0], ids[1])
    first = decode_prior_tokens(low, requests[1:2], ids[1:2])[0]
    assert decode_prior_tokens(low, requests[1:2], ids[1:2])[0].tobytes() == first.tobytes()
    latents = [denoise(hybrid, requests[1:2], ids[1:2]) for hybrid in (low, exact)]
    assert psnr(*(decode_latents(exact, one) for one in latents)) > 25


@pytest.mark.gpu
def test_an_adapter_on_a_gpu(tiny_model: Path, tmp_path: Path) -> None:
    """Beside the weights, in both halves: about what it is when merged into the exact ones."""
    adapters = []
    for component in FORMATS["8bit"]:
        tiny_adapter.make_adapter(tiny_model, tmp_path / component, component)
        adapters.append(str(tmp_path / component))
    plain, changed = (load_model(tiny_model, "cuda", adapters=some, precision="8bit") for some in ((), adapters))
    merged = load_model(tiny_model, "cuda", adapters=adapters)
    assert not torch.equal(generate_prior_tokens(changed, [ONE])[0], generate_prior_tokens(plain, [ONE])[0])
    before, ours, expected = (denoise(hybrid, [ONE], [IDS]) for hybrid in (plain, changed, merged))
    assert (ours - expected).norm() < 0.5 * (before - expected).norm()


def logits(hybrid: HybridModel) -> Tensor:
    ids = torch.randint(64, (1, 9), generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        values: Tensor = hybrid.autoregressive(ids, torch.arange(9).expand(3, 1, 9))
    return values


@pytest.mark.parametrize("precision", LOW)
def test_adapters_stay_beside_the_weights(tiny_model: Path, tmp_path: Path, precision: str) -> None:
    """Two at once, with weights, one of a layer that is not packed: as if merged into the rounded weights."""
    adapters = []
    for number, component in enumerate(("decoder", "autoregressive", "decoder")):
        tiny_adapter.make_adapter(tiny_model, tmp_path / str(number), component, seed=number)
        adapters.append(f"{tmp_path / str(number)}:{0.5 + number}")
    low, rounded = load(tiny_model, precision, tuple(adapters)), with_rounded_weights(tiny_model, precision)
    plain = logits(rounded)
    for adapter in adapters:
        tiny_adapter.apply_adapter(rounded, adapter)
    torch.testing.assert_close(logits(low), logits(rounded), atol=1e-4, rtol=0)
    assert (logits(low) - plain).abs().max() > 0.1
    with torch.inference_mode():
        ours, theirs = (one.decoder(*tiny_adapter.decoder_inputs()) for one in (low, rounded))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_what_does_not_fit(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="unknown precision '8bits'"):
        load(tiny_model, "8bits")
    tiny_adapter.make_adapter(tiny_model, tmp_path / "one", "decoder")
    config = tmp_path / "one" / "decoder" / "adapter_config.json"
    write_json(config, {**read_json(config), "lora_bias": True})
    monkeypatch.setattr("glmkit.generation.loading.check_adapter", lambda *_: None)
    with pytest.raises(UserError, match="changes more than low precision can add"):
        load(tiny_model, "8bit", (str(tmp_path / "one"),))
    monkeypatch.setattr("glmkit.serving.adapters.check_adapter", lambda *_: None)
    with pytest.raises(UserError, match="changes more than low precision can add"):
        AdapterSwitch(load(tiny_model, "8bit"), checked_adapters(tiny_model, {"one": str(tmp_path / "one")}))


@pytest.mark.parametrize(
    ("precision", "low_memory"),
    [
        ("8bit", False),
        ("exact", True),
        pytest.param("4bit", False, marks=pytest.mark.thorough),
        pytest.param("8bit", True, marks=pytest.mark.thorough),
    ],
)
def test_a_server_exchanges_adapters(tiny_model: Path, tmp_path: Path, precision: str, low_memory: bool) -> None:
    """By request, of both halves, one of a layer that is not packed: as of a model that was loaded with them."""
    folders = {"one": tmp_path / "one", "two": tmp_path / "two"}
    for component, folder in zip(("decoder", "autoregressive"), folders.values(), strict=True):
        tiny_adapter.make_adapter(tiny_model, folder, component)
    hybrid = load(tiny_model, precision)
    hybrid.low_memory = low_memory
    switch = AdapterSwitch(
        hybrid, checked_adapters(tiny_model, {name: str(folder) for name, folder in folders.items()})
    )
    results = []
    for chosen in ((("two", 0.5), ("one", 2.0)), ()):
        switch.use(chosen)
        expected = load(tiny_model, precision, tuple(f"{folders[name]}:{weight}" for name, weight in chosen))
        results.append(denoise(hybrid, [ONE], [IDS]))
        assert torch.equal(results[-1], denoise(expected, [ONE], [IDS]))
        assert torch.equal(logits(hybrid), logits(expected))
    assert not torch.equal(*results)


def test_settings_of_a_run_say_it(tiny_model: Path) -> None:
    def settings(model: Any, **changes: Any) -> dict[str, Any]:
        return GenerationSettings.with_defaults(model, "cpu", **changes).to_dict()

    assert "precision" not in settings(str(tiny_model))
    assert settings(str(tiny_model), precision="8bit")["precision"] == "8bit"
    assert settings(load(tiny_model, "4bit"))["precision"] == "4bit"


def test_from_the_command_line(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder of images is resumed by the precision that its images were made with, and no other."""
    has_products.cache_clear()  # which speaks once
    command = ["--model", str(tiny_model), "--size", "64x64", "--steps", "2", "--device", "cpu"]
    many = ["generate", "an 'A'", *command, "--seeds", "0", "--out", str(tmp_path / "many")]
    assert main([*many, "--precision", "8bit"]) == 0
    assert "saves memory here, not time" in capsys.readouterr().err
    with Image.open(next((tmp_path / "many").glob("*.png"))) as image:
        assert image.info["precision"] == "8bit"
    for options, counts in ((["8bit"], "0 generated, 1 already there"), (["exact"], "1 generated, 0 already there")):
        assert main([*many, "--precision", *options]) == 0
        assert counts in capsys.readouterr().out
    with Image.open(next((tmp_path / "many").glob("*.png"))) as image:
        assert "precision" not in image.info
        exact = image.tobytes()
    source = str(next((tmp_path / "many").glob("*.png")))
    assert main(["edit", source, "an 'A'", *command, "--precision", "4bit", "--out", str(tmp_path / "e.png")]) == 0
    with Image.open(tmp_path / "e.png") as image:
        assert (image.info["precision"], image.tobytes() == exact) == ("4bit", False)


def test_one_component_at_a_time(tiny_model: Path) -> None:
    """The same, read again, as with all of them in the memory."""
    at_a_time = load(tiny_model, "8bit")
    at_a_time.low_memory = True
    expected = denoise(load(tiny_model, "8bit"), [ONE], [IDS])
    for _ in range(2):
        assert torch.equal(denoise(at_a_time, [ONE], [IDS]), expected)
        at_a_time.unload_except("vae")
        assert "decoder" not in vars(at_a_time)


def test_the_encoder_of_condition_images_leaves(tiny_model: Path, tmp_path: Path) -> None:
    """Behind an edit, for the room that the decoder needs; an exact model keeps it."""
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    edit = replace(ONE, condition_images=(str(tmp_path / "a.png"),))
    for precision, stays in (("exact", True), ("8bit", False)):
        hybrid = load(tiny_model, precision)
        assert len(encode_condition_images(hybrid, [edit])[0]) == 1
        assert ("semantic_vq" in vars(hybrid)) == stays
