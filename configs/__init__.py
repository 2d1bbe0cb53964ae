"""Reading configuration files: units, located errors, bundled files."""

from .documents import Document, Loc, parse, read, write
from .finding import bundled, find_config, gallery_entries, read_config
from .report import ConfigErrors, Report, nearest

__all__ = [
    "ConfigErrors",
    "Document",
    "Loc",
    "Report",
    "bundled",
    "find_config",
    "gallery_entries",
    "nearest",
    "parse",
    "read",
    "read_config",
    "write",
]
