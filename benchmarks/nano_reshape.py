"""Give a trained nano another shape, so that its training goes on where it was and not from fresh weights.

    python benchmarks/nano_reshape.py OUT --layers 0 0 1 2 2 3 4 --units 704   # grow the AR model
    python benchmarks/nano_reshape.py OUT --model FOLDER --units 480           # prune its MLPs
    python benchmarks/nano_reshape.py OUT --glyph 256                          # prune the glyph encoder's MLPs
    python benchmarks/nano_reshape.py OUT --time 16                            # narrow the decoder's time embedding
    python benchmarks/nano_reshape.py OUT --rounding                           # the same in float32 as in bfloat16

Growing changes no output: a layer that is there twice adds nothing the second time, and new units of an MLP have no
weight yet. Pruning takes the units whose loss changes an MLP's output least and lets the others make up for them. The
narrower time embedding is fitted to what all blocks got from the wide one. Both need training afterwards, or a look at
the validation loss: the errors that are printed are of outputs, not of images.

Biases of queries and keys grow in training, and autocast rounds what is projected to bfloat16: beside a bias of 48 the
rest keeps steps of 0.25. A model can come to need that rounding. `--rounding` fits the projections to what they give
with it, and takes the constants from keys that no attention weight depends on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from glmkit.files import atomic_folder, read_json, write_json
from glmkit.models import checkpoint
from glmkit.models.autoregressive.model import CausalLayer
from glmkit.models.checkpoint.components import COMPONENTS, load_component, new_component, save_component
from glmkit.models.decoder.layers import TimeAndSize
from glmkit.models.glyph.model import GlyphEncoder
from glmkit.models.hybrid import HybridModel
from glmkit.pretraining import posters
from glmkit.pretraining.config import PretrainData
from glmkit.training.data import buckets, first_batches
from glmkit.training.data.dataset import glyph_texts
from glmkit.training.features import FeatureCache
from glmkit.training.objectives.token_batches import TokenBatch, TokenSequences

State = dict[str, Tensor]
SIZES = {(256, 256): 8.0, (320, 192): 3.0, (192, 320): 3.0, (512, 512): 3.0, (384, 384): 0.3, (128, 128): 0.3}
"""Sizes at which the time embedding is fitted, each with its weight."""
LAYERS = "language_model.layers."
RANK = 24  # principal directions of the modulation that are fitted
DAMPING = 1e-4  # of the mean of the diagonal


def reshape(model: Path, out: Path, component: str, values: dict[str, Any], state: State) -> None:
    """Copy a model folder to `out`, one component in bfloat16 with other `values` in its config and another state."""
    with atomic_folder(out) as folder:
        checkpoint.copy(model, folder)
        path = folder / COMPONENTS[component].folder / "config.json"
        config = read_json(path)
        config.get("text_config", config).update(values)
        write_json(path, config)
        module = new_component(folder, component)
        module.load_state_dict(state)
        save_component(folder, component, module, torch.bfloat16)


def grow(state: State, layers: Sequence[int], units: int) -> State:
    """Return an AR model with these layers of the old one, in this order, and so many units per MLP; same outputs."""
    generator, seen = torch.Generator().manual_seed(0), set[int]()
    grown = {name: tensor for name, tensor in state.items() if not name.startswith(LAYERS)}
    for new, old in enumerate(layers):
        for name, tensor in state.items():
            if not name.startswith(f"{LAYERS}{old}."):
                continue
            last = name.removeprefix(f"{LAYERS}{old}.")
            if last == "mlp.gate_up_proj.weight":
                halves = tensor.chunk(2)
                more = (units - len(halves[0]), tensor.shape[1])
                new_rows = [torch.randn(more, generator=generator) * half.float().std() for half in halves]
                tensor = torch.cat([halves[0], new_rows[0], halves[1], new_rows[1]])
            elif last == "mlp.down_proj.weight":
                tensor = torch.cat([tensor, tensor.new_zeros(len(tensor), units - tensor.shape[1])], dim=1)
            elif old in seen and last.startswith("post_") and last != "post_attention_layernorm.weight":
                tensor = torch.zeros_like(tensor)
            grown[f"{LAYERS}{new}.{last}"] = tensor
        seen.add(old)
    return grown


def least_important(weight: Tensor, moments: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """Return which inputs of a linear layer stay, and its weights for them.

    One after the other the input goes whose loss, made up for by all others, adds least to the squared error of the
    outputs (Optimal Brain Surgeon, Hassibi and Stork 1992). `moments` are sums of products of the inputs, I x I.
    """
    weight = weight.double()
    inverse = torch.linalg.inv(moments + DAMPING * moments.diagonal().mean() * torch.eye(len(moments)))
    alive = torch.ones(len(moments), dtype=torch.bool)
    for _ in range(len(moments) - kept):
        loss = (weight.square().sum(dim=0) / inverse.diagonal()).masked_fill(~alive, torch.inf)
        gone = int(loss.argmin())
        alive[gone] = False
        weight = weight - torch.outer(weight[:, gone], inverse[gone]) / inverse[gone, gone]
        inverse = inverse - torch.outer(inverse[:, gone], inverse[gone]) / inverse[gone, gone]
        inverse[gone, gone] = 1.0  # its row and column are zero but for rounding
    return alive, weight[:, alive].float()


def input_moments(layers: Sequence[nn.Linear], run: Callable[[], None]) -> list[Tensor]:
    """Return the sums of products of what each layer gets while `run` runs, I x I."""
    moments = [torch.zeros((), dtype=torch.double) for _ in layers]

    def watch(number: int) -> Callable[[nn.Module, tuple[Tensor]], None]:
        def add(_: nn.Module, inputs: tuple[Tensor]) -> None:
            states = inputs[0].flatten(0, -2).double()
            moments[number] = moments[number] + states.T @ states

        return add

    handles = [layer.register_forward_pre_hook(watch(number)) for number, layer in enumerate(layers)]
    with torch.no_grad():
        run()
    for handle in handles:
        handle.remove()
    return moments


def token_batches(hybrid: HybridModel, data: PretrainData) -> list[TokenBatch]:
    """Return the prompts and prior tokens of all images of the training world that `data` names."""
    images, _ = posters.load(data)
    sequences = TokenSequences(images, hybrid, FeatureCache(torch.device("cpu")))
    return [sequences.padded(indices) for indices in first_batches(buckets(images), 16, limit=len(images.captions))]


def prune(model: Path, units: int, data: PretrainData) -> State:
    """Return an AR model with fewer units per MLP, chosen by what they do on images of the training world."""
    hybrid = HybridModel.load(model, torch.device("cpu"), torch.float32)
    batches = token_batches(hybrid, data)

    def run() -> None:
        for batch in batches:
            batch.logits(hybrid.autoregressive)

    layers = [cast(CausalLayer, layer).mlp.down_proj for layer in hybrid.autoregressive.language_model.layers]
    state = hybrid.autoregressive.state_dict()
    for number, (layer, moments) in enumerate(zip(layers, input_moments(layers, run), strict=True)):
        alive, weight = least_important(layer.weight, moments, units)
        name = f"{LAYERS}{number}.mlp"
        gate, up = state[f"{name}.gate_up_proj.weight"].chunk(2)
        state[f"{name}.gate_up_proj.weight"] = torch.cat([gate[alive], up[alive]])
        state[f"{name}.down_proj.weight"] = weight
    return state


def fit_rounding(model: Path, data: PretrainData) -> State:
    """Return an AR model whose attention projects in float32 what this one does where autocast rounds to bfloat16."""
    hybrid = HybridModel.load(model, torch.device("cpu"), torch.float32)
    autoregressive = hybrid.autoregressive
    batches = token_batches(hybrid, data)
    products: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def loss() -> float:
        with torch.no_grad():
            parts = [part for batch in batches for part in batch.cross_entropies(batch.logits(autoregressive)).values()]
            return torch.cat(parts).mean().item()

    def rounded(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        result, states = output.bfloat16(), inputs[0].flatten(0, -2).double()
        states = torch.cat([states, torch.ones(len(states), 1)], dim=1)
        before, wanted = products.get(layer, (0, 0))
        products[layer] = before + states.T @ states, wanted + states.T @ result.flatten(0, -2).double()
        return result.float()

    before = loss()
    attentions = [cast(CausalLayer, layer).self_attn for layer in autoregressive.language_model.layers]
    projections = [layer for one in attentions for layer in (one.q_proj, one.k_proj, one.v_proj)]
    handles = [layer.register_forward_hook(rounded) for layer in projections]
    wanted = loss()
    for handle in handles:
        handle.remove()
    with torch.no_grad():
        for layer in projections:
            moments, outputs = products[layer]
            moments = moments + 1e-6 * moments.diagonal().mean() * torch.eye(len(moments))
            solution = torch.linalg.solve(moments, outputs).float()
            layer.weight.copy_(solution[:-1].T)
            layer.bias.copy_(solution[-1])
        for one in attentions:  # what all keys have in common, unless positions turn it
            one.k_proj.bias.view(one.key_heads, -1)[:, autoregressive.config.rotary_dim :] = 0
    print(f"nats per token: {wanted:.4f} rounded; in float32 {before:.4f} before, {loss():.4f} now")
    return autoregressive.state_dict()


def prune_glyph(model: Path, units: int, texts: Sequence[Sequence[str]]) -> State:
    """Return a glyph encoder with fewer units per MLP, chosen by what they do on such texts of prompts."""
    glyph = HybridModel.load(model, torch.device("cpu"), torch.float32).glyph
    state = glyph.state_dict()
    names = [name.removesuffix(".wo.weight") for name in state if name.endswith(".wo.weight")]
    layers = [cast(nn.Linear, glyph.get_submodule(f"{name}.wo")) for name in names]
    for name, layer, moments in zip(names, layers, input_moments(layers, lambda: _encode(glyph, texts)), strict=True):
        alive, state[f"{name}.wo.weight"] = least_important(layer.weight, moments, units)
        for gate in ("wi_0", "wi_1"):
            state[f"{name}.{gate}.weight"] = state[f"{name}.{gate}.weight"][alive]
    return state


def _encode(glyph: GlyphEncoder, texts: Sequence[Sequence[str]]) -> None:
    for of_prompt in texts:  # one by one: padding would count as text
        glyph.encode_texts([of_prompt])


def narrow_time(model: Path, width: int, steps: int) -> State:
    """Return a decoder with a time embedding of another width, fitted to the modulation of every block.

    The small network learns by Adam; the matrices behind it are the best ones for it, by least squares.
    """
    decoder = HybridModel.load(model, torch.device("cpu"), torch.float32).decoder
    state = decoder.state_dict()
    names = [name for name in state if name.endswith(("norm1.linear.weight", "norm_out.linear.weight"))]
    times = torch.arange(0, 1001, 10).float()
    time, weights = times.repeat(len(SIZES)), torch.tensor(list(SIZES.values())).repeat_interleave(len(times))
    size = torch.tensor(list(SIZES)).float().repeat_interleave(len(times), dim=0)
    root = (weights / weights.mean()).sqrt()[:, None]
    with torch.no_grad():
        condition = decoder.time_condition_embed(time, size, torch.zeros_like(size))
        modulation = condition @ torch.cat([state[name] for name in names]).T
        centred = (modulation - modulation.mean(dim=0)) * root
        variances, directions = torch.linalg.eigh(centred @ centred.T)  # the principal components, by their products
        target = directions[:, -RANK:] * variances[-RANK:].clamp(min=0).sqrt()
    torch.manual_seed(0)
    small = TimeAndSize(replace(decoder.config, time_embed_dim=width))
    for layer in small.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=1.5 * layer.in_features**-0.5)
            nn.init.normal_(layer.bias, std=0.7)

    def solved(wanted: Tensor) -> tuple[Tensor, Tensor]:
        inputs = torch.cat([small(time, size, torch.zeros_like(size)), torch.ones(len(time), 1)], dim=1) * root
        damped = inputs.T @ inputs + 1e-5 * len(time) * torch.eye(width + 1)
        return inputs, torch.linalg.solve(damped, inputs.T @ wanted)

    optimizer = torch.optim.Adam(small.parameters(), lr=1e-2)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-2 * min(1.0, (steps - step) / (0.6 * steps))
        inputs, solution = solved(target)
        loss = (inputs @ solution - target).square().sum() / target.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"time embedding of {width}: {loss.item():.2%} of the variance of the modulation is lost")
    with torch.no_grad():
        _, solution = solved(modulation * root)
    rows = solution.T.split([len(state[name]) for name in names])
    for name, both in zip(names, rows, strict=True):
        bias = name.replace(".weight", ".bias")
        state[name], state[bias] = both[:, :width], state[bias] + both[:, width]
    return {**state, **{f"time_condition_embed.{name}": tensor for name, tensor in small.state_dict().items()}}


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--layers", type=int, nargs="+", help="layers of the AR model; a repeated one adds nothing yet")
    parser.add_argument("--units", type=int, help="units of each MLP of the AR model")
    parser.add_argument("--glyph", type=int, metavar="UNITS", help="units of each MLP of the glyph encoder")
    parser.add_argument("--posters", type=int, default=320, help="images to prune by (default %(default)s)")
    parser.add_argument("--rounding", action="store_true", help="fit the AR model's attention to bfloat16's rounding")
    parser.add_argument("--time", type=int, help="width of the decoder's time embedding")
    parser.add_argument(
        "--steps", type=int, default=2000, help="of the fit of the time embedding (default %(default)s)"
    )
    arguments = parser.parse_args(given)
    model, units = checkpoint.resolve(arguments.model), arguments.units
    if arguments.time:
        state = narrow_time(model, arguments.time, arguments.steps)
        reshape(model, arguments.out, "decoder", {"time_embed_dim": arguments.time}, state)
    elif units and arguments.layers:
        values = {"num_hidden_layers": len(arguments.layers), "intermediate_size": units}
        state = grow(load_component(model, "autoregressive").state_dict(), arguments.layers, units)
        reshape(model, arguments.out, "autoregressive", values, state)
    elif units or arguments.glyph or arguments.rounding:
        images = {"count": arguments.posters, "seed": 930, "world": "everyday"}
        edits = {**images, "count": max(1, arguments.posters // 8), "seed": 960}
        data = PretrainData.model_validate({"posters": images, "edits": edits})
        if arguments.rounding:
            reshape(model, arguments.out, "autoregressive", {}, fit_rounding(model, data))
        elif units:
            state = prune(model, units, data)
            reshape(model, arguments.out, "autoregressive", {"intermediate_size": units}, state)
        else:
            state = prune_glyph(model, arguments.glyph, glyph_texts(posters.load(data)[0]))
            reshape(model, arguments.out, "glyph", {"d_ff": arguments.glyph}, state)
    else:
        parser.error("give --layers and --units, --units, --glyph, --time, or --rounding")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
