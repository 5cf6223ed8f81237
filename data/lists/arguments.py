"""Command-line arguments of scripts that read one list and write another."""

from __future__ import annotations

import argparse

from data.common.parallel import cores


def list_parser(description: str) -> argparse.ArgumentParser:
    """A parser with `--list`, `--output` and `--processes`."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", required=True, help="the list to read")
    parser.add_argument("--output", required=True, help="the list to write")
    parser.add_argument(
        "--processes", type=int, default=cores(), help="worker processes (%(default)s)"
    )
    return parser
