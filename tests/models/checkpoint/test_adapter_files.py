"""Adapters of every program give the same weights, bit by bit; what does not fit is refused, with what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoint
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_adapter import apply_adapter, decoder_inputs, make_adapter

from glmkit.cli import main
from glmkit.errors import UserError
from glmkit.models import checkpoint
from glmkit.models.checkpoint import weights
from glmkit.models.checkpoint.adapter_files import CARD, CONFIG, DIFFUSERS_FILE, WEIGHTS, read
from glmkit.models.checkpoint.adapters import Adapter
from glmkit.models.checkpoint.export import export_adapter
from glmkit.models.hybrid import HybridModel

Tensors = dict[str, torch.Tensor]


def merged(model: Path, adapter: Path, component: str = "decoder") -> Tensors:
    hybrid = HybridModel(model)
    apply_adapter(hybrid, adapter)
    state: Tensors = getattr(hybrid, component).state_dict()
    return state


def same(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def exported(adapter: Path, style: str, out: Path) -> Path:
    export_adapter(Adapter(adapter), style, out)
    return out


def kohya(folder: Path, out: Path) -> Path:
    """The decoder's adapter as kohya's scripts name it."""
    state: Tensors = {}
    for name, tensor in load_file(folder / WEIGHTS).items():
        layer, role, _ = name.removeprefix("base_model.model.").rsplit(".", 2)
        key = "lora_unet_" + layer.replace(".", "_")
        state[f"{key}.{'lora_down' if role == 'lora_A' else 'lora_up'}.weight"] = tensor
        state[f"{key}.alpha"] = torch.tensor(float(json.loads((folder / CONFIG).read_text())["lora_alpha"]))
    save_file(state, out, {"ss_network_module": "networks.lora"})
    return out


def plain_peft(folder: Path, out: Path) -> Path:
    """PEFT's two files alone, under the names of the published classes."""
    out.mkdir()
    names = ("base_model.model.language_model.", "base_model.model.model.language_model.")
    save_file({name.replace(*names): tensor for name, tensor in load_file(folder / WEIGHTS).items()}, out / WEIGHTS)
    (out / CONFIG).write_bytes((folder / CONFIG).read_bytes())
    return out


def test_every_style_gives_the_same_bits(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From glmkit to diffusers, from there to ComfyUI, from there to PEFT; kohya's names; a folder of one file."""
    make_adapter(tiny_model, tmp_path / "a", "decoder", alpha=5)
    start = tmp_path / "a" / "decoder"
    diffusers = exported(tmp_path / "a", "diffusers", tmp_path / "d.safetensors")
    comfyui = exported(diffusers, "comfyui", tmp_path / "c.safetensors")
    peft = exported(comfyui, "peft", tmp_path / "p")
    (tmp_path / "one").mkdir()
    exported(peft, "diffusers", tmp_path / "one" / DIFFUSERS_FILE)
    expected = merged(tiny_model, start)
    for other in (diffusers, comfyui, peft, peft / "decoder", tmp_path / "one"):
        assert same(merged(tiny_model, other), expected), other
    assert "note:" not in capsys.readouterr().err, "exports say what they were trained on"
    for other in (kohya(start, tmp_path / "k.safetensors"), plain_peft(start, tmp_path / "plain")):
        assert same(merged(tiny_model, other), expected), other
        assert f"{other}" in capsys.readouterr().err, "without a record of its base"

    from peft import PeftModel

    transformer = tiny_checkpoint.diffusers_pipeline(tiny_model).transformer
    outputs = []
    latents, glyph, _, prior, drop, timestep, size, crop = decoder_inputs()
    inputs = (latents, glyph, prior, drop[:, None].expand_as(prior), timestep, size, crop)
    for folder, name in ((tmp_path, "d.safetensors"), (tmp_path / "one", DIFFUSERS_FILE)):
        transformer.load_lora_adapter(folder, weight_name=name)
        with torch.no_grad():
            outputs.append(transformer(*inputs).sample)
        transformer.unload_lora()
    assert torch.equal(*outputs)
    theirs = PeftModel.from_pretrained(checkpoint.load_component(tiny_model, "decoder"), str(peft / "decoder"))
    assert same(theirs.merge_and_unload().state_dict(), expected)


def test_adapters_of_the_published_classes(tiny_model: Path, tmp_path: Path) -> None:
    """PEFT on the language model of transformers writes its names, not ours."""
    make_adapter(tiny_model, tmp_path / "a", "autoregressive")
    given = plain_peft(tmp_path / "a" / "autoregressive", tmp_path / "plain")
    expected = merged(tiny_model, tmp_path / "a", "autoregressive")
    assert same(merged(tiny_model, given, "autoregressive"), expected)


def test_ranks_and_alphas_of_single_layers(tiny_model: Path, tmp_path: Path) -> None:
    """As other programs write them: no config, one alpha for each layer, and none is alpha equal to rank."""
    width = checkpoint.config(tiny_model, "decoder")["num_attention_heads"] * 16
    layers = {"transformer_blocks.0.attn1.to_q": (2, 3.0), "transformer_blocks.1.attn1.to_q": (4, None)}
    state: Tensors = {}
    for layer, (rank, alpha) in layers.items():
        state[f"diffusion_model.{layer}.lora_A.weight"] = torch.randn(rank, width)
        state[f"diffusion_model.{layer}.lora_B.weight"] = torch.randn(width, rank)
        if alpha is not None:
            state[f"diffusion_model.{layer}.alpha"] = torch.tensor(alpha)
    save_file(state, tmp_path / "c.safetensors")
    before = checkpoint.load_component(tiny_model, "decoder").state_dict()
    after = merged(tiny_model, tmp_path / "c.safetensors")
    for layer, (rank, alpha) in layers.items():
        down, up = (state[f"diffusion_model.{layer}.lora_{half}.weight"] for half in "AB")
        change = (rank if alpha is None else alpha) / rank * up @ down
        torch.testing.assert_close(after[f"{layer}.weight"] - before[f"{layer}.weight"], change, atol=1e-5, rtol=1e-4)
    again = exported(tmp_path / "c.safetensors", "diffusers", tmp_path / "d.safetensors")
    assert same(merged(tiny_model, again), after)
    assert same(merged(tiny_model, exported(again, "comfyui", tmp_path / "e.safetensors")), after)


def config(**changes: Any) -> Callable[[Path], None]:
    """Change PEFT's config; None: leave the key out."""

    def spoil(folder: Path) -> None:
        settings = {**json.loads((folder / CONFIG).read_text()), **changes}
        kept = {key: value for key, value in settings.items() if changes.get(key, value) is not None}
        (folder / CONFIG).write_text(json.dumps(kept))

    return spoil


def tensors(change: Callable[[Tensors], Tensors]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        changed = change({name: value.clone() for name, value in load_file(folder / WEIGHTS).items()})
        (folder / WEIGHTS).unlink()
        save_file(changed, folder / WEIGHTS)
        (folder / CARD).unlink()  # whose count would find most of these, too

    return spoil


def text(name: str, content: bytes | str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return spoil


def last(state: Tensors, **changes: Any) -> Tensors:
    name = sorted(state)[-1]
    return {**state, name: torch.full_like(state[name], changes["to"])}


def lost(folder: Path) -> None:
    """One layer of a whole kind is gone; nothing but the record knows that it was there."""
    kept = {name: value.clone() for name, value in load_file(folder / WEIGHTS).items() if "proj_out" not in name}
    (folder / WEIGHTS).unlink()
    save_file(kept, folder / WEIGHTS)
    config(target_modules=["to_q", "to_v"])(folder)


ON_EXPORT = {  # what shows without the model: (what spoils an adapter, what is said)
    "other prefix": (tensors(lambda t: {f"x.{name}": v for name, v in t.items()}), "no part of a LoRA adapter"),
    "renamed layers": (
        tensors(lambda t: {name.replace("attn1", "attention"): v for name, v in t.items()}),
        "attention.to_q",
    ),
    "no tensors": (tensors(lambda _: {}), "holds no tensors"),
    "fewer tensors": (lost, "tensors, 10 when it was written"),
    "a tensor more": (tensors(lambda t: {**t, "bias": torch.zeros(3)}), "bias"),
    "NaN": (tensors(lambda t: last(t, to=float("nan"))), "not all finite"),
    "inf": (tensors(lambda t: last(t, to=float("-inf"))), "not all finite"),
    "integers": (tensors(lambda t: {name: v.int() for name, v in t.items()}), "not all finite"),
    "one dimension": (tensors(lambda t: {name: v.flatten() for name, v in t.items()}), "no part of a LoRA"),
    "no lora_alpha": (config(lora_alpha=None), "no lora_alpha"),
    "alpha is NaN": (config(lora_alpha=float("nan")), "lora_alpha: nan"),
    "alpha is text": (config(lora_alpha="6"), "lora_alpha: '6'"),
    "no rank": (config(r=None), "no r"),
    "rank 0": (config(r=0), "r: 0"),
    "ranks are text": (config(rank_pattern={"to_q": "x"}), "rank_pattern"),
    "XLORA": (config(peft_type="XLORA"), "XLORA"),
    "no peft_type": (config(peft_type=None), "no peft_type"),
    "pissa": (config(init_lora_weights="pissa_niter_4"), "pissa"),
    "no targets": (config(target_modules=None), "no target_modules"),
    "targets are numbers": (config(target_modules=[3]), "target_modules"),
    "bias": (config(bias="all"), "bias"),
    "whole modules": (config(modules_to_save=["proj_out"]), "modules_to_save"),
    "another PEFT's key": (config(use_magic=True), "use_magic"),
    "config is a list": (text(CONFIG, "[]"), "no JSON object"),
    "config is broken": (text(CONFIG, "{"), "not valid JSON"),
    "config is empty": (text(CONFIG, "{}".encode("utf-16")), "no peft_type"),
    "no config": (lambda folder: (folder / CONFIG).unlink(), f"has no {CONFIG}"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), f"has no {WEIGHTS}"),
    "record is a list": (text(CARD, "[]"), "which component"),
    "record is null": (text(CARD, "null"), "which component"),
    "unknown component": (text(CARD, '{"component": "../x"}'), "which component"),
    "another component": (text(CARD, '{"component": "glyph"}'), "no adapter of the glyph"),
}
ON_MODEL = {
    "a layer less": (tensors(lambda t: {n: v for n, v in t.items() if "proj_out" not in n}), "2 missing: "),
    "every other layer": (tensors(lambda t: {n: v for n, v in t.items() if "blocks.1" not in n}), "4 missing: "),
    "one tensor less": (tensors(lambda t: dict(sorted(t.items())[1:])), "1 missing: "),
    "a layer too many": (
        tensors(lambda t: t | {n.replace("blocks.1", "blocks.7"): v.clone() for n, v in t.items()}),
        "4 not used: ",
    ),
    "another shape": (tensors(lambda t: {n: v[..., :-1].contiguous() for n, v in t.items()}), "10 of another shape: "),
    "another rank": (config(r=4), "of another shape"),
    "rank 10^9": (config(r=10**9), "of another shape"),
    "DoRA without lengths": (config(use_dora=True), "5 missing: "),
    "fewer targets": (config(target_modules=["to_q"]), "6 not used: "),
    "no such target": (config(target_modules=["to_z"]), "do not fit"),
    "a bad pattern": (config(rank_pattern={"(": 3}), "do not fit"),
    "layers_to_transform": (config(layers_to_transform=[0]), "not used: "),
    "layers that are text": (config(layers_to_transform="x", layers_pattern=3), "do not fit"),
    "exclude_modules": (config(exclude_modules=["to_v"]), "4 not used: "),
}


@pytest.mark.parametrize("kind", [*ON_EXPORT, *ON_MODEL])
def test_what_does_not_fit_is_refused(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """By generate, merge and export alike, with what is wrong; a model that it was not merged into is not written."""
    spoil, said = {**ON_EXPORT, **ON_MODEL}[kind]
    make_adapter(tiny_model, tmp_path / "a", "decoder")
    spoil(tmp_path / "a" / "decoder")
    adapter, out = str(tmp_path / "a"), tmp_path / "out"
    commands = {
        "generate": ["poster", "--model", str(tiny_model), "--adapter", adapter, "--out", f"{out}.png"],
        "merge": [str(tiny_model), "--adapter", adapter, "--out", str(out)],
        "export": [adapter, "--format", "diffusers", "--out", f"{out}.safetensors"],
    }
    for command, arguments in commands.items():
        if command == "export" and kind in ON_MODEL:
            continue
        assert main([command, *arguments]) == 2, command
        assert said in capsys.readouterr().err, command
        assert not list(tmp_path.glob("*out*")), command


def header(tensors: object, data: bytes = bytes(8)) -> bytes:
    text = tensors if isinstance(tensors, bytes) else json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(**changes: Any) -> dict[str, Any]:
    return {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


HEADERS = {
    "unknown dtype": header(entry(dtype="F7")),
    "dtype is a number": header(entry(dtype=3)),
    "negative offsets": header(entry(data_offsets=[-8, 0])),
    "offsets in reverse": header(entry(data_offsets=[8, 0])),
    "overlap": header(entry() | {"v": entry()["w"]}),
    "gap": header(entry(data_offsets=[4, 12]), bytes(12)),
    "offsets are fractions": header(entry(data_offsets=[0.0, 8.0])),
    "shape is text": header(entry(shape="ab")),
    "negative shape": header(entry(shape=[-1, -2])),
    "huge shape": header(entry(shape=[2**62, 2**62])),
    "other size": header(entry(shape=[3])),
    "deep": header(b"[" * 100_000),
    "not an object": header([]),
    "entries are lists": header({"w": []}),
    "metadata is a list": header({"__metadata__": [1], **entry()}),
    "longer than the file": (2**62).to_bytes(8, "little") + b"{}",
    "cut": header(entry(), bytes(4)),
    "more behind": header(entry(), bytes(12)),
    "empty": b"",
}


@pytest.mark.parametrize("kind", HEADERS)
def test_headers_that_describe_no_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(HEADERS[kind])
    with pytest.raises(UserError, match="truncated or broken"):
        weights.read_header(path)
    path.write_bytes(header(entry()))
    assert weights.read_header(path)["w"].shape == (2,)


def test_what_is_no_adapter(tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    for name in ("a", "b"):
        save_file({"w": torch.zeros(1)}, tmp_path / "two" / f"{name}.safetensors")
    (tmp_path / "w.pt").touch()
    for path, said in (
        (tmp_path / "none", "does not exist"),
        (tmp_path, "is not an adapter folder"),
        (tmp_path / "two", "a.safetensors, b.safetensors"),
        (tmp_path / "two" / "a.safetensors", "no part of a LoRA adapter"),
        (tmp_path / "w.pt", "not a safetensors file"),
    ):
        with pytest.raises(UserError, match=said):
            read(path)


def test_a_run_stands_for_its_adapters(tmp_path: Path) -> None:
    (tmp_path / "run" / "adapter").mkdir(parents=True)
    (tmp_path / "run" / "manifest.json").touch()
    assert Adapter.parse(f"{tmp_path}/run:0.5") == Adapter(tmp_path / "run" / "adapter", 0.5)


def test_metadata_has_one_key(tiny_model: Path, tmp_path: Path) -> None:
    """Several are written in an order that changes from run to run."""
    make_adapter(tiny_model, tmp_path / "a", "decoder")
    for style in ("diffusers", "comfyui"):
        with safe_open(exported(tmp_path / "a", style, tmp_path / f"{style}.safetensors"), "pt") as handle:
            assert len(handle.metadata()) == 1
