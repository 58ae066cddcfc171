"""The lines of LIST NODES as rows. Does not: ask for them."""

import csv
from collections.abc import Sequence

from swarmlearning.errors import DecodeError


def read_nodes(lines: Sequence[str]) -> list[dict[str, str]]:
    """Read the lines of LIST NODES.

    Raises:
        DecodeError: they are not a table with a header.
    """
    try:
        rows = [
            [field.strip() for field in row] for row in csv.reader(lines, skipinitialspace=True, strict=True) if row
        ]
    except csv.Error as error:
        raise DecodeError(f"LIST NODES answered no CSV ({error})") from error
    if not rows or len(set(rows[0])) != len(rows[0]) or any(len(row) != len(rows[0]) for row in rows):
        raise DecodeError("LIST NODES answered no table: expected a header, and as many columns in each row")
    return [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
