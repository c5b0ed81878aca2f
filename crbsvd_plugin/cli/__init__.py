"""The command `crbsvd`: one file per verb, loaded when it is called."""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import Any

import click

from .. import __version__
from ..errors import UserError, nearest

# Verb -> what it does, so that --help needs no verb's module
VERBS = {
    "basis": "Make a basis, and the dictionary to match with.",
    "sweep": "Compare every weight and rank of a basis, and say which to take.",
    "rank": "How many coefficients: noise of a scan against what a basis lacks.",
    "study": "Bias and standard deviation of parameters by simulation, beside their bounds.",
    "report": "Write one page about a basis: curves to hover, what to take, lines to paste.",
    "info": "Say what a basis is.",
    "audit": "What another sequence or other tissues lose in a basis.",
    "import": "Take over a basis of another program.",
    "export": "Write a basis for another program.",
    "check-model": "Is a model right? Shapes, derivatives, determinism, units.",
    "trajectory": "Write the trajectory of a Pulseq file, for recon and maps.",
    "simulate": "Write raw data of a digital phantom, and its true maps.",
    "recon": "Reconstruct coefficient images from raw data.",
    "fit": "Fit maps to coefficient images.",
    "maps": "Reconstruct raw data and fit maps: the main job.",
    "serve": "Reconstruct what scanners send, as they scan (FIRE, Gadgetron).",
    "stream": "Reconstruct a stream on standard input; the maps go to standard output.",
    "roi": "Print statistics of maps in the regions of a mask.",
    "demo": "Go the whole way on a phantom, with the errors against the truth.",
}
# `import` is a word of Python's own
_MODULES = {"check-model": "check_model", "import": "import_"}
_INTERRUPTED = 130


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            known = f"{', '.join(VERBS)}{nearest(cmd_name, VERBS)}"
            raise click.UsageError(f"no verb is called {cmd_name!r}, expected one of: {known}", ctx)
        command: click.Command = importlib.import_module(f".{_MODULES.get(cmd_name, cmd_name)}", __name__).command
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
    if isinstance(sys.stdout, io.TextIOWrapper):
        # a file name need not be text, and a terminal need not have all of its letters
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        result: Any = crbsvd.main(args=arguments, prog_name="crbsvd", standalone_mode=False)
    except (KeyboardInterrupt, click.Abort):
        return _say("interrupted", _INTERRUPTED)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else error.format_message())
        return 2
    except click.ClickException as error:
        hint = f"; see '{error.ctx.command_path} --help'" if isinstance(error, click.UsageError) and error.ctx else ""
        return _say(error.format_message().rstrip(".") + hint, 2)
    except UserError as error:
        return _say(str(error), 2)
    except BrokenPipeError:
        # whoever read our output has gone: nothing is left to say, and no second error at exit
        _discard_output()
        return 1
    except MemoryError as error:
        return _say(
            f"memory is not enough ({error or 'no more is told'}); take a smaller problem or a larger machine", 2
        )
    except OSError as error:
        # what we write ourselves has been answered for as UserError: this is standard output, or a cache
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return _defect(error)
        _discard_output()
        place = error.filename or "the output"
        return _say(f"cannot write {place} ({error.strerror}); free some space or choose another place", 2)
    except Exception as error:  # noqa: BLE001 - the last resort, so that a user never sees a traceback
        return _defect(error)
    return result if isinstance(result, int) else 0


def _discard_output() -> None:
    """Send what waits in standard output nowhere: at the end Python would try, and complain, once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _defect(error: Exception) -> int:
    """Keep the traceback of the exception that is being handled in a log file, and say so."""
    where = "the command line"
    # where there is no place for a log, the line must do
    with (
        contextlib.suppress(OSError),
        tempfile.NamedTemporaryFile("w", prefix="crbsvd-", suffix=".log", delete=False) as log,
    ):
        traceback.print_exc(file=log)
        log.flush()
        where = log.name
    return _say(f"internal error ({type(error).__name__}: {error}); please report it with {where}", 1)


def _say(text: str, status: int) -> int:
    click.echo("crbsvd: " + " ".join(text.split()), err=True)
    return status
