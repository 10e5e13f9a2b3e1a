"""The one exception type for what a user can mend."""


class UserError(Exception):
    """Something the user can put right: a parameter, a file, a setting.

    The command line prints its message without a traceback and exits with code 2. The message is one line
    that names the thing, its value and the remedy. Every other exception is a bug and shows its traceback.
    """
