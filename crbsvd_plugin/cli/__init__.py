"""The command `crbsvd`: one file per verb, loaded when it is called."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import Any

import click

from .. import __version__
from ..errors import UserError

# Verb -> what it does, so that --help needs no verb's module
VERBS = {
    "basis": "Make a basis, and the dictionary to match with.",
    "info": "Say what a basis is.",
    "simulate": "Write raw data of a digital phantom, and its true maps.",
    "recon": "Reconstruct coefficient images from raw data.",
    "fit": "Fit maps to coefficient images.",
    "maps": "Reconstruct raw data and fit maps: the main job.",
    "demo": "Go the whole way on a phantom, with the errors against the truth.",
}
_INTERRUPTED = 130


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f".{cmd_name}", __name__).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
@click.version_option(__version__, prog_name="crbsvd")
def crbsvd() -> None:
    """Subspaces for quantitative MRI that keep the Cramer-Rao bound: bases, images, maps."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    0: done. 2: something the user can mend, one line on stderr. 130: interrupted.
    1: a defect of ours, the traceback in a log file.
    """
    try:
        result: Any = crbsvd.main(args=arguments, prog_name="crbsvd", standalone_mode=False)
    except (KeyboardInterrupt, click.Abort):
        return _say("interrupted", _INTERRUPTED)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else error.format_message())
        return 2
    except click.ClickException as error:
        hint = f"; see '{error.ctx.command_path} --help'" if isinstance(error, click.UsageError) and error.ctx else ""
        return _say(error.format_message() + hint, 2)
    except UserError as error:
        return _say(str(error), 2)
    except BrokenPipeError:
        # whoever read our output has gone: nothing is left to say, and no second error at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 - the last resort, so that a user never sees a traceback
        with tempfile.NamedTemporaryFile("w", prefix="crbsvd-", suffix=".log", delete=False) as log:
            traceback.print_exc(file=log)
        return _say(f"internal error ({type(error).__name__}: {error}); please report it with {log.name}", 1)
    return result if isinstance(result, int) else 0


def _say(text: str, status: int) -> int:
    click.echo("crbsvd: " + " ".join(text.split()), err=True)
    return status
