"""The exceptions that carry one line for the user: what is wrong, and how to fix it."""


class UserError(Exception):
    """A UserError is a mistake in settings, paths, models or credentials: one line saying what is wrong and how to fix
    it.

    The command line prints the line without a traceback and exits with code 2.
    """


class MachineTrouble(RuntimeError):
    """Something that is no recording's fault: a limit on memory or processor time, no process, no disk. The text says
    what and how to fix it, in one line. Work is left undone for it; nothing is rejected.
    """
