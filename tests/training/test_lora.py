"""Adapters: only what a recipe names is trained; files that stock PEFT and stock diffusers read alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoint
import torch
from safetensors.torch import load_file, save_file
from tiny_adapter import apply_adapter
from torch import Tensor

from glmkit.cli import main
from glmkit.config import Lora
from glmkit.errors import UserError
from glmkit.models import checkpoint
from glmkit.models.checkpoint import export
from glmkit.models.checkpoint.adapter_files import CARD, DIFFUSERS_FILE, ComponentAdapter, read
from glmkit.models.hybrid import HybridModel
from glmkit.training import lora

TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")


def decoder_inputs() -> list[Tensor]:
    draw = torch.Generator().manual_seed(3)
    return [
        torch.randn(2, 4, 8, 8, generator=draw),
        torch.randn(2, 5, 24, generator=draw),
        torch.randint(64, (2, 16), generator=draw),
        torch.zeros(2, dtype=torch.bool),
        torch.tensor([500.0, 20.0]),
        torch.full((2, 2), 64.0),
        torch.zeros(2, 2),
    ]


def ours(decoder: torch.nn.Module) -> Tensor:
    latents, glyph, *others = decoder_inputs()
    with torch.no_grad():
        output: Tensor = decoder(latents, glyph, None, *others)
    return output


def trained(model: Path, settings: Lora) -> torch.nn.Module:
    """A decoder whose adapters are no longer zero."""
    wrapped = lora.inject(checkpoint.load_component(model, "decoder"), settings)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return wrapped.eval()


def test_only_the_targets_are_trained(tiny_model: Path) -> None:
    # Torch multiplies by a weight that needs no gradient in another way, which may round otherwise.
    decoder = checkpoint.load_component(tiny_model, "decoder").requires_grad_(False)
    before = ours(decoder)
    wrapped = lora.inject(decoder, Lora(rank=3, alpha=5, targets=("to_q", "ff.net.2")))
    names = [name for name, parameter in wrapped.named_parameters() if parameter.requires_grad]
    assert len(names) == 2 * 2 * 2, "two layers, two targets, A and B"
    assert all(".lora_" in name and (".to_q." in name or ".ff.net.2." in name) for name in names)
    assert torch.equal(ours(decoder), before), "a fresh adapter changes nothing; the very module is adapted"
    assert all(p.shape[0 if "lora_A" in n else 1] == 3 for n, p in wrapped.named_parameters() if p.requires_grad)


@pytest.mark.parametrize(("target", "guess"), [("to_qq", "to_q"), ("ff.net.0", "ff.net."), ("to_out", "to_out.0")])
def test_an_unknown_target_names_the_nearest(tiny_model: Path, target: str, guess: str) -> None:
    decoder = checkpoint.load_component(tiny_model, "decoder")
    with pytest.raises(UserError) as caught:
        lora.inject(decoder, Lora(targets=("to_q", target)))
    assert repr(target) in str(caught.value)
    assert f"did you mean '{guess}" in str(caught.value)
    assert not [name for name, _ in decoder.named_modules() if "lora" in name]


def test_a_target_far_from_every_name(tiny_model: Path) -> None:
    with pytest.raises(UserError) as caught:
        lora.inject(checkpoint.load_component(tiny_model, "decoder"), Lora(targets=("zzzzzz",)))
    assert "None" not in str(caught.value)
    assert "to_q" in str(caught.value)


@pytest.mark.parametrize(("rank", "alpha"), [(4, 4), (4, 10), (8, 2)])
def test_stock_diffusers_draws_the_same(tiny_model: Path, tmp_path: Path, rank: int, alpha: int) -> None:
    """Also with alpha unlike rank, which diffusers reads from the file's metadata only."""
    settings = Lora(rank=rank, alpha=alpha, targets=TARGETS)
    wrapped = trained(tiny_model, settings)
    lora.save(wrapped, tmp_path / "ad" / "decoder", "decoder", tiny_model)
    stock = tiny_checkpoint.diffusers_pipeline(tiny_model).transformer
    latents, glyph, prior, drop, timestep, size, crop = decoder_inputs()
    stock.load_lora_adapter(tmp_path / "ad" / "decoder", weight_name=DIFFUSERS_FILE)
    with torch.no_grad():
        theirs = stock(latents, glyph, prior, drop[:, None].expand_as(prior), timestep, size, crop).sample
    stock.unload_lora()
    torch.testing.assert_close(theirs, ours(wrapped), atol=1e-4, rtol=0)

    hybrid = HybridModel(tiny_model)
    plain = ours(hybrid.decoder)
    apply_adapter(hybrid, tmp_path / "ad")
    torch.testing.assert_close(ours(hybrid.decoder), theirs, atol=1e-4, rtol=0)
    assert (plain - theirs).abs().max() > 0.01


def test_files(tiny_model: Path, tmp_path: Path) -> None:
    """PEFT's own two files, the card and the diffusers copy; saving again replaces them and leaves nothing else."""
    folder = tmp_path / "ad" / "decoder"
    for _ in range(2):
        lora.save(trained(tiny_model, Lora(rank=2, alpha=3, targets=("to_q",))), folder, "decoder", tiny_model)
        assert sorted(path.name for path in folder.iterdir()) == [
            "adapter_config.json",
            "adapter_model.safetensors",
            CARD,
            DIFFUSERS_FILE,
        ]
        assert [path.name for path in folder.parent.iterdir()] == ["decoder"]
        assert len({path.stat().st_mode for path in folder.iterdir()}) == 1, "all may read what one may read"
    targets = Lora(rank=2, targets=TARGETS)
    lora.save(trained(tiny_model, targets), tmp_path / "more" / "decoder", "decoder", tiny_model)
    settings = json.loads((tmp_path / "more" / "decoder" / "adapter_config.json").read_text())
    assert settings["target_modules"] == sorted(TARGETS), "not in the order of a set"
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["target_modules"]) == (2, 3, ["to_q"])
    from safetensors import safe_open

    with safe_open(folder / DIFFUSERS_FILE, framework="pt") as handle:
        names = list(handle.keys())
    assert all(name.startswith("transformer.transformer_blocks.") and ".attn1.to_q.lora_" in name for name in names)


def test_the_autoregressive_adapter(tiny_model: Path, tmp_path: Path) -> None:
    model = checkpoint.load_component(tiny_model, "autoregressive")
    wrapped = lora.inject(model, Lora(rank=2, alpha=4, targets=("q_proj", "gate_up_proj")))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    lora.save(wrapped.eval(), tmp_path / "ad" / "autoregressive", "autoregressive", tiny_model)
    assert not (tmp_path / "ad" / "autoregressive" / DIFFUSERS_FILE).exists()
    ids, positions = torch.randint(60, (1, 9)), torch.arange(9).expand(3, 1, 9)
    hybrid = HybridModel(tiny_model)
    with torch.no_grad():
        plain = hybrid.autoregressive(ids, positions)
        apply_adapter(hybrid, tmp_path / "ad")
        torch.testing.assert_close(hybrid.autoregressive(ids, positions), model(ids, positions), atol=1e-4, rtol=0)
        assert (hybrid.autoregressive(ids, positions) - plain).abs().max() > 0.01


def test_dora(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lengths and directions are learnt, saved, and drawn with by PEFT, stock diffusers and the merged weights alike;
    ComfyUI's keys have no word for lengths."""
    wrapped = lora.inject(checkpoint.load_component(tiny_model, "decoder"), Lora(rank=2, targets=TARGETS, dora=True))
    plain = ours(wrapped.get_base_model())  # type: ignore[operator]
    optimizer = torch.optim.AdamW([value for value in wrapped.parameters() if value.requires_grad], lr=0.05)
    latents, glyph, *others = decoder_inputs()
    fresh = {name: value.detach().clone() for name, value in wrapped.named_parameters()}
    for _ in range(3):
        (wrapped(latents, glyph, None, *others) - 1).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, value in wrapped.named_parameters() if not torch.equal(fresh[name], value)}
    assert {name.split("lora_")[1].split(".")[0] for name in moved} == {"A", "B", "magnitude_vector"}
    learnt = ours(wrapped.eval())
    assert (learnt - plain).abs().max() > 0.01

    folder = tmp_path / "ad" / "decoder"
    lora.save(wrapped, folder, "decoder", tiny_model)
    hybrid = HybridModel(tiny_model)
    apply_adapter(hybrid, tmp_path / "ad")
    torch.testing.assert_close(ours(hybrid.decoder), learnt, atol=1e-4, rtol=0)
    stock = tiny_checkpoint.diffusers_pipeline(tiny_model).transformer
    stock.load_lora_adapter(folder, weight_name=DIFFUSERS_FILE)
    prior, drop, timestep, size, crop = others
    with torch.no_grad():
        theirs = stock(latents, glyph, prior, drop[:, None].expand_as(prior), timestep, size, crop).sample
    torch.testing.assert_close(theirs, learnt, atol=1e-4, rtol=0)

    out = tmp_path / "comfy.safetensors"
    assert main(["export", str(tmp_path / "ad"), "--format", "comfyui", "--out", str(out)]) == 2
    assert "use_dora" in capsys.readouterr().err
    assert not out.exists()
    half = f"{tmp_path / 'ad'}:0.5"
    with pytest.raises(UserError, match="DoRA adapter, which has no weight"):
        apply_adapter(HybridModel(tiny_model), half)
    assert main(["export", half, "--format", "diffusers", "--out", str(out)]) == 2
    assert not out.exists()


def test_a_kill_while_saving_leaves_the_old_adapter(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "ad" / "decoder"
    wrapped = trained(tiny_model, Lora(rank=2, targets=("to_q",)))
    lora.save(wrapped, folder, "decoder", tiny_model)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "write_style", full)
    with pytest.raises(KeyboardInterrupt):
        lora.save(wrapped, folder, "decoder", tiny_model)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["decoder"], "nothing half-written stays"


def test_a_full_disk(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """safetensors raises an error of its own, which has the system's only in its text."""
    from safetensors import SafetensorError

    wrapped = trained(tiny_model, Lora(rank=2, targets=("to_q",)))

    def full(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(export, "write_style", full)
    with pytest.raises(UserError, match=r"no space left while writing .*decoder"):
        lora.save(wrapped, tmp_path / "ad" / "decoder", "decoder", tiny_model)
    assert not list((tmp_path / "ad").iterdir())


def broken_save(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Let one step of saving go wrong without a word, as a changed library could."""
    write = export.write_style
    if kind == "alpha":
        monkeypatch.setattr(export, "write_style", lambda one, style, out: write(one, style, out, 1.1))
    else:

        def truncating(adapter: ComponentAdapter, *others: Any) -> int:
            tensors = load_file(adapter.file)
            lost = min(name for name in tensors if "lora_B" in name)
            save_file({**tensors, lost: torch.zeros_like(tensors[lost])}, adapter.file)
            return write(read(adapter.file.parent)["decoder"], *others)

        monkeypatch.setattr(export, "write_style", truncating)


@pytest.mark.parametrize("kind", ["alpha", "tensor"])
def test_a_save_that_gives_other_outputs_is_refused(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """What users call "the LoRA has no effect" shows while it is saved, and the old adapter stays."""
    wrapped = trained(tiny_model, Lora(rank=2, alpha=3, targets=TARGETS))
    broken_save(monkeypatch, kind)
    with pytest.raises(UserError, match="does not give back what was trained"):
        lora.save(wrapped, tmp_path / "ad" / "decoder", "decoder", tiny_model)
    assert not list((tmp_path / "ad").iterdir())


def test_the_look_at_a_save_leaves_training_as_it_was(tiny_model: Path, tmp_path: Path) -> None:
    wrapped = trained(tiny_model, Lora(rank=2, alpha=3, dropout=0.5, targets=TARGETS)).train()
    before = {name: value.clone() for name, value in wrapped.state_dict().items()}
    trainable = [name for name, parameter in wrapped.named_parameters() if parameter.requires_grad]
    lora.save(wrapped, tmp_path / "ad" / "decoder", "decoder", tiny_model)
    assert all(module.training for module in wrapped.modules())
    assert trainable == [name for name, parameter in wrapped.named_parameters() if parameter.requires_grad]
    after = wrapped.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
