"""The command line. Each file of `glmkit/commands/` is one command; heavy imports live inside its `run`."""

from __future__ import annotations

import argparse
import codecs
import importlib
import io
import logging
import os
import pkgutil
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from glmkit import __version__, commands
from glmkit.errors import LESS_MEMORY, UserError, first_line, is_out_of_memory, nearest, shorten
from glmkit.files import FIXES, NO_SPACE, as_user_error

EXAMPLES = """Generate, edit, fine-tune and evaluate images with GLM-Image. For example:

  glmkit generate 'A poster that says "OPEN"' --out open.png
  glmkit edit open.png 'Make the background red.' --out red.png
  glmkit finetune nano/poster_lora output=reports/mine

Without --model, the small model nano is used; it runs on a CPU.
glmkit --help lists all commands, glmkit COMMAND --help its options."""


class Parser(argparse.ArgumentParser):
    """argparse with the nearest name in the message of an unknown command, option or choice."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Refuse what is left over here, where the options of the command are known, not in the parent parser."""
        known = argparse.Namespace() if namespace is None else namespace
        known, rest = super().parse_known_args(args, known)
        words = [action.dest for action in self._actions if action.nargs == "*" and not action.option_strings]
        if words and not any(word.startswith("-") for word in rest):
            # argparse ends a list of words at the first option, also if more of them follow it.
            getattr(known, words[0]).extend(rest)
        elif rest:
            hint = "put several words in quotes"
            if "--adapter" in (args or ()):
                hint = "--adapter goes before each adapter"
            more = "" if rest[0].startswith("-") else f"; {hint}"
            self.error(f"unrecognized arguments: {' '.join(rest)}{more}")
        return known, []

    def error(self, message: str) -> NoReturn:
        """Print the message with the nearest name that would have been right, and exit with code 2."""
        guess = None
        if choice := re.search("invalid choice: '([^']*)'", message):
            guess = nearest(choice[1], [str(value) for action in self._actions for value in action.choices or ()])
        elif option := re.search(r"unrecognized arguments: .*?(--[^\s=]+)", message):
            guess = nearest(option[1], [text for action in self._actions for text in action.option_strings])
        if guess:
            message += f"; did you mean {guess}?"
        self.exit(2, f"error: {shorten(message)}\n  try:   {self.prog} --help\n")


def build_parser() -> Parser:
    """Make the parser of all commands."""
    parser = Parser(prog="glmkit", description="Run, fine-tune, evaluate and compare GLM-Image models.")
    parser.add_argument("--version", action="version", version=f"glmkit {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for module_info in sorted(pkgutil.iter_modules(commands.__path__), key=lambda info: info.name):
        module = importlib.import_module(f"glmkit.commands.{module_info.name}")
        command = subparsers.add_parser(module_info.name, help=module.HELP, description=module.HELP)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def _escape(error: UnicodeError) -> tuple[str, int]:
    """Write characters that a terminal's encoding lacks as JSON does, which `--json` needs, and people can read."""
    assert isinstance(error, UnicodeEncodeError)
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2)), error.end


def _accept_all_characters() -> None:
    """Let no character end a command: on Windows the output may be in an encoding without Chinese."""
    codecs.register_error("glmkit", _escape)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="glmkit")


def _check_paths(arguments: argparse.Namespace, words: Sequence[str]) -> None:
    """Raise UserError for an empty word where a path belongs: a variable that is not set, which would mean "here"."""
    values = [one for value in vars(arguments).values() for one in (value if isinstance(value, list) else [value])]
    if "" in words and Path() in values:
        raise UserError("a path is empty", fix="a name, or . for this folder")


def _drop_output() -> None:
    """Let nothing more be printed: Python would try again when it ends, and end with another exit code."""
    with suppress(OSError, ValueError):  # ValueError: a stream without a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    _accept_all_characters()
    if not (sys.argv[1:] if argv is None else argv):
        print(EXAMPLES)
        return 0
    arguments = build_parser().parse_args(argv)
    # Before torch is imported: OpenMP's threads wait for each other by spinning by default, and on a machine
    # that does anything else meanwhile this takes several times as long as the work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # PEFT imports it whenever it is installed, and then it recommends a kernel that nothing here needs.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    try:
        _check_paths(arguments, sys.argv[1:] if argv is None else argv)
        code = int(arguments.run(arguments) or 0)
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _drop_output()
        return 0
    except OSError as error:  # a path that a person gave, which none of the commands could use
        if (explained := as_user_error(error)) is None:
            if error.errno not in NO_SPACE or error.filename is not None:
                raise
            _drop_output()
            explained = UserError("no space left while writing what the command prints", fix=FIXES[error.errno])
        print(f"error: {explained}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        print(f"error: {UserError('out of memory', found=first_line(error), fix=LESS_MEMORY)}", file=sys.stderr)
        return 2
