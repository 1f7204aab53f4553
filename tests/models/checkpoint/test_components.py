"""Weights travel between our modules and the reference classes in both directions; broken folders say what is wrong."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoint
import torch

from glmkit.errors import UserError
from glmkit.models import checkpoint
from glmkit.models.checkpoint import weights


def reference_tensors(folder: Path, component: str) -> dict[str, torch.Tensor]:
    """The component's tensors as `from_pretrained` holds them."""
    pipeline = tiny_checkpoint.diffusers_pipeline(folder)
    module = {"decoder": pipeline.transformer, "glyph": pipeline.text_encoder, "vae": pipeline.vae}.get(
        component, pipeline.vision_language_encoder
    )
    spec = checkpoint.COMPONENTS[component]
    named = {spec.module_name(name): value for name, value in module.state_dict().items()}
    return {name: value for name, value in named.items() if name is not None}


def test_hub_ids(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is here is no hub id, even when it is called like one."""
    ids = {"glm-image": "zai-org/GLM-Image", "owner/name": "owner/name", "nano": None, "./owner/name": None}
    assert {name: checkpoint.hub_id(name) for name in ids} == ids
    monkeypatch.chdir(tiny_model.parent.parent)
    assert checkpoint.hub_id(f"{tiny_model.parent.name}/{tiny_model.name}") is None
    assert checkpoint.hub_id(tiny_model) is None


@pytest.mark.parametrize("component", checkpoint.COMPONENTS)
def test_loads_what_reference_wrote(tiny_model: Path, component: str) -> None:
    state = checkpoint.load_component(tiny_model, component).state_dict()
    reference = reference_tensors(tiny_model, component)
    assert state.keys() == reference.keys()
    for name, value in state.items():
        assert torch.equal(value, reference[name]), name


def test_reference_loads_what_we_wrote(tiny_copy: Path) -> None:
    """New weights of every component, in several shards, all at once through the reference pipeline."""
    torch.manual_seed(1)
    written = {component: checkpoint.new_component(tiny_copy, component) for component in checkpoint.COMPONENTS}
    for component, module in written.items():
        checkpoint.save_component(tiny_copy, component, module, max_shard_bytes=60_000)
    assert len(list((tiny_copy / "vision_language_encoder").glob("*.safetensors"))) > 2
    assert not (tiny_copy / "vision_language_encoder" / "model.safetensors").exists()
    for component, module in written.items():
        reference = reference_tensors(tiny_copy, component)
        for name, value in module.state_dict().items():
            assert torch.equal(value, reference[name]), (component, name)


def test_sharded_folders_of_reference_load(tmp_path: Path, tiny_model: Path) -> None:
    sharded = tiny_checkpoint.build(tmp_path / "sharded", max_shard_size=60_000)
    assert (sharded / "transformer" / "diffusion_pytorch_model.safetensors.index.json").exists()
    for component in ("autoregressive", "decoder"):
        one, many = (checkpoint.load_component(folder, component).state_dict() for folder in (tiny_model, sharded))
        assert all(torch.equal(one[name], many[name]) for name in one)


def test_saving_one_part_keeps_the_other(tiny_copy: Path) -> None:
    before = checkpoint.load_component(tiny_copy, "semantic_vq").state_dict()
    model: Any = checkpoint.load_component(tiny_copy, "autoregressive")
    with torch.no_grad():
        model.lm_head.weight.add_(1)
    checkpoint.save_component(tiny_copy, "autoregressive", model)
    after = checkpoint.load_component(tiny_copy, "semantic_vq").state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    again: Any = checkpoint.load_component(tiny_copy, "autoregressive")
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)


def test_from_many_shards_back_to_one_file(tiny_copy: Path) -> None:
    decoder = checkpoint.load_component(tiny_copy, "decoder")
    for limit, files in ((60_000, 5), (100_000, 3), (10**9, 1)):
        checkpoint.save_component(tiny_copy, "decoder", decoder, max_shard_bytes=limit)
        found = [path.name for path in (tiny_copy / "transformer").iterdir()]
        assert len([name for name in found if name.endswith(".safetensors")]) == files
        assert not [name for name in found if name.startswith(".")]
        again = checkpoint.load_component(tiny_copy, "decoder").state_dict()
        assert all(torch.equal(again[name], value) for name, value in decoder.state_dict().items())


def test_dtypes(tiny_copy: Path) -> None:
    vae = checkpoint.load_component(tiny_copy, "vae")
    checkpoint.save_component(tiny_copy, "vae", vae, dtype=torch.bfloat16)
    assert {entry.dtype for entry in checkpoint.stored_tensors(tiny_copy, "vae").values()} == {"BF16"}
    assert {value.dtype for value in checkpoint.load_component(tiny_copy, "vae").state_dict().values()} == {
        torch.float32
    }
    half = checkpoint.load_component(tiny_copy, "vae", dtype=torch.bfloat16)
    for name, value in half.state_dict().items():
        assert torch.equal(value, vae.state_dict()[name].bfloat16())


def test_vae_statistics_are_saved_with_the_config(tiny_copy: Path) -> None:
    vae: Any = checkpoint.load_component(tiny_copy, "vae")
    vae.set_statistics([1.0, 2.0, 3.0, 4.0], [0.5, 0.5, 0.5, 2.0])
    checkpoint.save_component(tiny_copy, "vae", vae)
    again: Any = checkpoint.load_component(tiny_copy, "vae")
    assert again.mean.flatten().tolist() == [1.0, 2.0, 3.0, 4.0]


def test_weights_are_mapped_not_copied(tiny_model: Path) -> None:
    """On the CPU in the stored dtype the parameters are the file's pages: no second copy exists."""
    stored = checkpoint.stored_tensors(tiny_model, "decoder")
    size = next(iter(stored.values())).file.stat().st_size
    module = checkpoint.load_component(tiny_model, "decoder")
    pointers = [parameter.data_ptr() for parameter in module.parameters()]
    assert max(pointers) - min(pointers) < size


def test_create_writes_a_folder_that_reference_loads(tiny_model: Path, tmp_path: Path) -> None:
    configs = {name: json.loads((tiny_model / name / "config.json").read_text()) for name in checkpoint.PUBLISHED}
    folder = tmp_path / "new"
    checkpoint.create(folder, configs, {"size": "128x128"})
    shutil.copytree(tiny_model / "processor", folder / "processor")
    for component in checkpoint.COMPONENTS:
        checkpoint.save_component(folder, component, checkpoint.new_component(folder, component), dtype=torch.bfloat16)
    pipeline = tiny_checkpoint.diffusers_pipeline(folder)
    assert pipeline.scheduler.config.base_image_seq_len == 256
    assert pipeline.tokenizer("abc").input_ids == [100, 101, 102, 1]


def only_file(folder: Path) -> Path:
    (path,) = folder.glob("*.safetensors")
    return path


@pytest.mark.parametrize("kept", [0, 5, 200, -1])
def test_truncated_file(tiny_copy: Path, kept: int) -> None:
    path = only_file(tiny_copy / "transformer")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match="truncated") as error:
        checkpoint.load_component(tiny_copy, "decoder")
    assert str(path) in str(error.value)


@pytest.mark.parametrize("name", ["vae/config.json", "processor/chat_template.jinja", "vae/*.safetensors"])
def test_a_size_that_cannot_be_is_found_before_anything_is_read(tiny_copy: Path, name: str) -> None:
    """To hash 64 GiB that are no model would take minutes."""
    (path,) = tiny_copy.glob(name)
    os.truncate(path, 64 * 2**30)  # without a block more on the disk
    with pytest.raises(UserError, match=f"{path.name} is (too large|truncated or broken)"):
        checkpoint.resolve(tiny_copy)


def test_missing_shard(tiny_copy: Path) -> None:
    checkpoint.save_component(
        tiny_copy, "decoder", checkpoint.load_component(tiny_copy, "decoder"), max_shard_bytes=60_000
    )
    lost = next((tiny_copy / "transformer").glob("*-00002-of-*"))
    lost.unlink()
    with pytest.raises(UserError, match="missing") as error:
        checkpoint.load_component(tiny_copy, "decoder")
    assert str(lost) in str(error.value)


def test_weights_that_do_not_fit_the_config(tiny_copy: Path) -> None:
    config = tiny_copy / "transformer" / "config.json"
    settings = json.loads(config.read_text())
    for change, message in (
        ({"num_layers": 3}, "lacks .* tensors"),
        ({"num_layers": 1}, "does not have"),
        ({"time_embed_dim": 16}, "another shape"),
    ):
        config.write_text(json.dumps({**settings, **change}))
        with pytest.raises(UserError, match=message):
            checkpoint.load_component(tiny_copy, "decoder")


def test_a_kill_while_writing_leaves_the_old_weights(tiny_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch

    before = checkpoint.load_component(tiny_copy, "decoder").state_dict()
    save_file, calls = safetensors.torch.save_file, []

    def dies_in_the_second_shard(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        save_file(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(safetensors.torch, "save_file", dies_in_the_second_shard)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save_component(
            tiny_copy, "decoder", checkpoint.new_component(tiny_copy, "decoder"), max_shard_bytes=60_000
        )
    after = checkpoint.load_component(tiny_copy, "decoder").state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert sorted(path.name for path in (tiny_copy / "transformer").iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]


def test_resolve(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert checkpoint.resolve(tiny_model) == tiny_model
    assert checkpoint.resolve("data/nano") == checkpoint.resolve("nano")  # as recipes of pretraining name it
    assert checkpoint.hub_id("data/nano") is None
    with pytest.raises(UserError, match="did you mean 'nano'"):
        checkpoint.resolve("nanno")
    with pytest.raises(UserError, match="does not exist"):
        checkpoint.resolve(tmp_path / "nothing" / "here")
    with pytest.raises(UserError, match="not a model folder"):
        checkpoint.resolve(tmp_path)


def test_only_the_needed_folders_are_downloaded(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[tuple[str, list[str]]] = []

    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(tiny_model)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert checkpoint.resolve("glm-image", ["vae", "glyph"]) == tiny_model
    checkpoint.resolve("someone/model", ["autoregressive"])
    assert asked[0][0] == "zai-org/GLM-Image"
    assert set(asked[0][1]) == {"model_index.json", "glmkit.json", "vae/*", "text_encoder/*", "tokenizer/*"}
    assert set(asked[1][1]) >= {"vision_language_encoder/*", "processor/*"}
    assert "transformer/*" not in asked[1][1]


def test_an_unreachable_hub_is_a_clear_error(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that is misspelt looks like a hub id: the folders beside it are named."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def snapshot_download(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("no network and nothing cached")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(UserError, match="someone/model") as raised:
        checkpoint.resolve("someone/model")
    assert "give a folder" in str(raised.value.fix)
    monkeypatch.chdir(tiny_model.parent.parent)
    with pytest.raises(UserError) as raised:
        checkpoint.resolve(f"{tiny_model.parent.name}/misspelt")
    assert f"folders here ({tiny_model.parent.name}/{tiny_model.name}" in str(raised.value.fix)


def test_shards_never_exceed_the_limit() -> None:
    tensors = {str(i): torch.zeros(10 * (i + 1)) for i in range(6)}
    shards = weights._shards(tensors, 250)
    assert [name for shard in shards for name in shard] == list(tensors)
    assert all(sum(tensors[name].nbytes for name in shard) <= 250 for shard in shards)


def test_a_copy_leaves_behind_what_tells_of_the_weights(tiny_copy: Path, tmp_path: Path) -> None:
    for name in ("README.md", "samples.png", "LICENSE"):
        (tiny_copy / name).write_text("of these weights")
    checkpoint.copy(tiny_copy, tmp_path / "other")
    files = [
        {path.relative_to(one) for path in one.rglob("*") if path.is_file()} for one in (tiny_copy, tmp_path / "other")
    ]
    assert files[0] - files[1] == {Path("README.md"), Path("samples.png")}
    assert files[1] < files[0]
