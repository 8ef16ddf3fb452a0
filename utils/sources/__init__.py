"""From what a user names to a file on disk that may be opened.

A published name, a path or an address becomes a `Source`, which knows or fetches its file. Nothing here
imports torch, so that a misspelt name is answered at once.
"""

from utils.sources.edm_pickle import Placed, Record, has_objects, read_objects
from utils.sources.numpy_arrays import Array, has_arrays, read_arrays
from utils.sources.registry import Entry, read_registry, table
from utils.sources.source import Source, parse
from utils.sources.weight_formats import (
    check_regular,
    check_saved,
    has_header,
    read_header,
    refuse_start,
)

__all__ = [
    "Array",
    "Entry",
    "Placed",
    "Record",
    "Source",
    "check_regular",
    "check_saved",
    "has_arrays",
    "has_header",
    "has_objects",
    "parse",
    "read_arrays",
    "read_header",
    "read_objects",
    "read_registry",
    "refuse_start",
    "table",
]
