"""Task files that a caller sends: one file of a form (RFC 7578), a safe name, written whole or not at all. Spec: CI-25.

The body has been read under its limit. Does not: decompress, or follow encodings of parts.
"""

import re
import unicodedata
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

import msgspec

from swarmlearning.errors import ConfigurationError, IdentityError
from swarmlearning.identity.files import write_file
from swarmlearning.swci.directory import MAX_LISTED, Directory

MAX_UPLOAD_BYTES: Final = 1 << 20
"""Largest form, bytes: file and headers."""

FIELD: Final = "file"
"""The form's field."""

_MODE: Final = 0o640

_MAX_HEAD_BYTES: Final = 4096
_NAME: Final = re.compile(r"\w[\w.+@ -]{0,126}[\w.+@-]|\w")
_DELIMITED: Final = re.compile(rb"[ \t]*\r\n")
_PARAMETER: Final = re.compile(r"""\s*;\s*([a-z*]+)=(?:"((?:[^"\\]|\\.)*)"|([^;\s"]+))""", re.IGNORECASE)
_BOUNDARY: Final = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")


class Upload(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was sent."""

    name: str
    data: bytes


def read_upload(content_type: str, body: bytes) -> Upload:
    """The file of a form that has the field `file` and nothing else.

    Raises:
        ConfigurationError: the form is malformed, has something else, or no safe name.
    """
    boundary = _boundary(content_type)
    # Every delimiter begins a line; the first one may begin the body.
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary, 2)
    if len(pieces) != 3 or not pieces[2].startswith(b"--"):
        raise ConfigurationError(f"the body is no form of one part, the field {FIELD!r}, that ends with its boundary")
    field, name, data = _read_part(pieces[1])
    if field != FIELD:
        raise ConfigurationError(f"the form has the field {field[:80]!r}; expected {FIELD!r}, with a file")
    return Upload(name=check_file_name(name), data=data)


def check_file_name(name: str) -> str:
    """`name`, in Unicode's composed form, if a file may be called so.

    Raises:
        ConfigurationError: it is a path, begins with a dot, or has odd characters.
    """
    name = unicodedata.normalize("NFC", name)
    if not _NAME.fullmatch(name) or len(name.encode()) > 200:
        raise ConfigurationError(
            f"file name {name[:80]!r}: expected 1-128 letters, digits, . _ + @ - and blanks, a letter or digit first, "
            "no path"
        )
    return name


def store_upload(directory: Directory, upload: Upload) -> Path:
    """Write a file into a session's current directory, in place of the one of its name, and return where.

    Raises:
        ConfigurationError: there is a directory of that name, there are too many files, or it cannot be written.
    """
    path = directory.resolve(str(directory.here)) / upload.name
    if path.is_dir() and not path.is_symlink():
        raise ConfigurationError(f"{upload.name} is a directory in {directory.here}; give the file another name")
    if not path.exists() and len(directory.files()) >= MAX_LISTED:
        raise ConfigurationError(f"{directory.here} has {MAX_LISTED} files, the most there can be; remove some")
    try:
        write_file(path, upload.data, mode=_MODE, force=True)
    except IdentityError as error:
        raise ConfigurationError(str(error)) from error
    return path


def _read_part(piece: bytes) -> tuple[str, str, bytes]:
    """Field name, file name and data.

    Raises:
        ConfigurationError: it is malformed.
    """
    head, separator, data = piece.partition(b"\r\n\r\n")
    if not _DELIMITED.match(piece):
        raise ConfigurationError("the body is no form: its boundary stands where no part begins")
    if not separator or len(head) > _MAX_HEAD_BYTES:
        raise ConfigurationError(f"a part of the form has no header of at most {_MAX_HEAD_BYTES} bytes")
    try:
        lines = head.decode().strip().split("\r\n")
    except UnicodeDecodeError as error:
        raise ConfigurationError("a part of the form has a header that is no UTF-8") from error
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("content-transfer-encoding", "binary").lower() not in ("binary", "8bit", "7bit"):
        raise ConfigurationError("a part of the form is encoded; expected its bytes as they are")
    values = _read_disposition(headers.get("content-disposition", ""))
    return values.get("name", ""), values.get("filename*", values.get("filename", "")), data


def _read_disposition(header: str) -> dict[str, str]:
    """The parameters of a Content-Disposition (RFC 6266, RFC 7578 section 4.2).

    Raises:
        ConfigurationError: it is malformed, or no form-data.
    """
    wrong = ConfigurationError(f'a part of the form says {header[:80]!r}; expected form-data; name="..."')
    kind, rest = header[: len("form-data")], header[len("form-data") :]
    values: dict[str, str] = {}
    while rest and (found := _PARAMETER.match(rest)):
        rest = rest[found.end() :]
        values[found[1].lower()] = re.sub(r'\\(["\\])', r"\1", found[2] or found[3] or "")
    if kind.lower() != "form-data" or rest.strip():
        raise wrong
    if extended := values.get("filename*"):
        charset, _, text = extended.partition("''")
        try:
            values["filename*"] = unquote_to_bytes(text).decode()
        except UnicodeDecodeError as error:
            raise wrong from error
        if charset.lower() != "utf-8":
            raise wrong
    return values


def _boundary(content_type: str) -> bytes:
    found = re.search(r"""(?:^|;)\s*boundary=(?:"([^"]*)"|([^;\s]*))""", content_type.partition(";")[2], re.IGNORECASE)
    boundary = (found[1] or found[2] or "") if found else ""
    if not _BOUNDARY.fullmatch(boundary):
        raise ConfigurationError("the Content-Type of the form names no boundary of 1-70 characters")
    return boundary.encode("ascii")
