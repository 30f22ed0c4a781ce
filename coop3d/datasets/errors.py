"""The one error a reader raises for data it cannot use."""

from __future__ import annotations


class DataError(ValueError):
    """A file of the dataset is missing, unreadable or inconsistent.

    The message names the file and key, what was found, what was expected and what to do. Datasets turn it into
    a counted `BadSample`; anything else is a bug and is not caught.
    """
