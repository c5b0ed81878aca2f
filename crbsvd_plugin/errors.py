"""The one exception that means: the user can mend this."""


class UserError(Exception):
    """What was wrong, what was expected and what to do, in one line.

    The command line prints the text and ends with exit status 2. Everything else that is
    raised is a defect of ours (exit status 1, traceback in a log file), so a bare
    ``ValueError`` is never turned into a ``UserError`` from outside.
    """
