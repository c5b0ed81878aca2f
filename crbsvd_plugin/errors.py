"""The one exception that means: the user can mend this."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """What was wrong, what was expected and what to do, in one line.

    The command line prints the text and ends with exit status 2. Everything else that is
    raised is a defect of ours (exit status 1, traceback in a log file), so a bare
    ``ValueError`` is never turned into a ``UserError`` from outside.
    """


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint at the known word that is most like `word`, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
