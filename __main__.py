"""``python -m bellbench``."""

from .cli import main

main()
