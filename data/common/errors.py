"""The error that a user's mistake, or a damaged input, ends in."""


class UserError(ValueError):
    """A mistake of the user or of an input file: one line that says what, where and how to fix it.

    Scripts print it without a traceback. Subclasses exist only where code tells them apart.
    """
