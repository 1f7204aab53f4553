"""glmkit serve: a model behind OpenAI's images API."""

from __future__ import annotations

import argparse
import os
import shlex
from dataclasses import fields

from glmkit.errors import UserError
from glmkit.generation.options import InferenceOptions, add_inference_options, add_precision_option, add_tiling_option
from glmkit.serving.settings import ServerSettings

HELP = "Serve a model behind OpenAI's images API, with a page to try it."
KEY = "GLMKIT_API_KEY"
LIMITS = {
    "queue": "images that wait or are generated; more are refused with 429",
    "deadline": "seconds after which a request that is not done is dropped",
    "max_images": "images of one request",
    "max_steps": "denoising steps of an image",
    "max_pixels": "pixels of an image",
    "max_prompt": "characters of a prompt",
    "max_body": "bytes of a request",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    values = {field.name: field.default for field in fields(ServerSettings)}
    parser.add_argument("--model", default="nano", help="nano, a model folder or a hub id (default %(default)s)")
    parser.add_argument(
        "--adapter",
        metavar="NAME=DIR[:WEIGHT]",
        action="append",
        default=[],
        help="an adapter that clients get as model glm-image:NAME; once for each",
    )
    parser.add_argument("--host", default=values["host"], help=f"other than loopback needs {KEY} (default %(default)s)")
    parser.add_argument("--port", type=int, default=values["port"], help="0 for any (default %(default)s)")
    for name, text in LIMITS.items():
        kind = type(values[name])
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, metavar="N", type=kind, default=values[name], help=f"{text} (default %(default)s)")
    parser.add_argument("--shortcuts", action="store_true", help="let clients ask for quicker, not exact settings")
    parser.add_argument("--log-prompts", action="store_true", help="write prompts into the log")
    parser.add_argument("--no-warm-up", action="store_true", help="do not generate an image before the first request")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default %(default)s)")
    parser.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16 (default %(default)s)")
    add_inference_options(parser)
    add_tiling_option(parser)
    add_precision_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal ends the process."""
    from glmkit.extras import require

    for package in ("fastapi", "uvicorn", "python-multipart"):
        require(package, "glmkit serve")
    adapters = {}
    for text in arguments.adapter:
        name, equals, folder = text.partition("=")
        if not equals or not folder:
            raise UserError(
                "an adapter of a server has a name", found=text, fix=f"--adapter {shlex.quote(f'poster={text}')}"
            )
        if name in adapters:
            raise UserError(f"two adapters are called {name}", fix="another name for one of them")
        adapters[name] = folder
    settings = ServerSettings(
        host=arguments.host,
        port=arguments.port,
        api_key=os.environ.get(KEY),
        adapters=adapters,
        shortcuts=arguments.shortcuts,
        vae_tiling=arguments.vae_tiling,
        log_prompts=arguments.log_prompts,
        warm_up=not arguments.no_warm_up,
        **{name: getattr(arguments, name) for name in LIMITS},
    )
    from glmkit.serving.server import serve

    options = InferenceOptions.from_arguments(arguments)
    return serve(arguments.model, arguments.device, arguments.dtype, options, settings, arguments.precision)
