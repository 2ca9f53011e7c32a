"""Why a program refuses to act. A program that ends with one of these prints its text and exits with its status."""


class Refused(Exception):
    """Something is not as it has to be, and nothing was changed because of it."""

    #: Exit status of the program.
    status = 1


class Missing(Refused):
    """A path does not exist."""


class NotRegular(Refused):
    """A path is not a regular file."""


class TooLarge(Refused):
    """A file or a tree is larger than what is read."""


class IsDirectory(Refused):
    """A path is a directory, and a file cannot take its place."""

    status = 4


class TooLong(Refused):
    """A path is longer than programs that take paths can use."""

    status = 3
