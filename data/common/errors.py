"""`UserError`, the base of all errors that users cause or can fix."""


class UserError(ValueError):
    """A mistake of the user or in an input file: one line that says what, where and how to fix it.

    Scripts print it without a traceback. Subclasses exist only where code distinguishes them.
    """
