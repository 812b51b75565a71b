"""The one exception that is the user's to mend."""


class UserError(Exception):
    """A mistake in settings, paths, models or credentials: one line saying what is wrong and how to mend it.

    The command line prints the line without a traceback and exits with code 2.
    """
