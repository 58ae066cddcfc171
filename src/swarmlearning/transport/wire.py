"""What both transports agree on: method names, limits, and how an error travels. Spec: docs/spec/transport.md.

Does not: open connections (`server`, `client`) or know what methods mean.
"""

import re
import struct
from collections.abc import Iterator
from typing import Final

from swarmlearning.encoding import Record, decode, encode
from swarmlearning.errors import Broken, DecodeError, NotYetAvailable, Refused, SwarmError
from swarmlearning.transport.api import MAX_BODY_BYTES, MAX_FRAME_BYTES, Address, Frame

MAX_METHOD_CHARS: Final = 128
"""Longest method name, characters."""

MAX_ERROR_CHARS: Final = 2000
"""An error's message is cut to this many characters, at both ends."""

MAX_FAILURE_BYTES: Final = 16 * 1024
"""Largest encoded `Failure`, bytes: the message above in UTF-8, and room for kind and code."""

UNKNOWN_METHOD: Final = "unknown-method"
TOO_LARGE: Final = "too-large"
INTERNAL: Final = "internal"
BUSY: Final = "busy"
MALFORMED: Final = "malformed"
CERTIFICATE: Final = "certificate"
"""Codes of refusals by the transport itself, beside those that handlers give."""

ACCEPT_REPLY: Final = "application/vnd.swarm.reply"
ACCEPT_FRAMES: Final = "application/vnd.swarm.frames"
ACCEPT_WHOLE: Final = "application/vnd.swarm.frames-whole"
"""What a client accepts says whether it asks for a call, a stream, or all frames of a short stream in one reply."""

PATH: Final = "/v1/"
"""Prefix of a method in a request's path; the 1 is the version of this protocol."""

FRAME_PREFIX: Final = struct.Struct(">I")
"""Before each frame: its length in bytes; 0 before the `Failure` that ends the stream."""

MAX_WHOLE_BYTES: Final = MAX_BODY_BYTES + FRAME_PREFIX.size + MAX_FAILURE_BYTES
"""Largest reply with all frames of a stream: the frames with their prefixes, and the end."""

_METHOD: Final = re.compile(r"[a-z0-9_-]+(/[a-z0-9_-]+)*")
_CODE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Failure(Record, frozen=True, kw_only=True):
    """An error on the wire. An empty `kind` says that there was none (the end of a stream that is complete)."""

    kind: str
    """Name of the class the server raised."""
    code: str
    message: str


OK: Final = Failure(kind="", code="", message="")


def failure_of(error: SwarmError) -> Failure:
    """How `error`, raised by a handler, travels to the client."""
    code = error.code if isinstance(error, Refused) else type(error).__name__
    return Failure(kind=type(error).__name__, code=code, message=one_line(str(error)))


def internal_failure(server: str, method: str) -> Failure:
    """What a client learns of an exception that is a bug at the server: nothing but where to look."""
    return Failure(kind="Broken", code=INTERNAL, message=f"{server} failed at {method}: an internal error, see its log")


def unknown_method(server: str, method: str, kind: str) -> Refused:
    """The refusal of a `kind` ("call" or "stream") that the server does not offer."""
    message = (
        f"{server} offers no {kind} {one_line(method)[:MAX_METHOD_CHARS]!r} here; do both run the same release, and is "
        "it the right port of that node (SN: P2P 30303, API 30304; SL: 30305)?"
    )
    return Refused(message, code=UNKNOWN_METHOD)


def refusal(failure: Failure) -> Refused:
    """What the client raises for `failure`; nothing in it is trusted to be short or printable."""
    code = failure.code if _CODE.fullmatch(failure.code) else "refused"
    return Refused(one_line(failure.message) or f"refused without a reason ({code})", code=code)


def decode_failure(data: bytes | bytearray | memoryview) -> Failure:
    """Decode an error body or the end of a stream.

    Raises:
        DecodeError: it is none.
    """
    return decode(data, Failure, limit=MAX_FAILURE_BYTES)


def encode_failure(failure: Failure) -> bytes:
    """Encode an error body or the end of a stream."""
    return encode(failure)


def cut_frames(body: bytes, server: str) -> Iterator[memoryview]:
    """The frames in a reply with all of them.

    Raises:
        DecodeError: it is no such reply.
        Refused: the handler failed.
    """
    rest = memoryview(body)
    while True:
        if len(rest) < FRAME_PREFIX.size:
            raise DecodeError(f"{server} sent a reply of {len(body)} bytes that ends in the middle of a frame")
        (size,) = FRAME_PREFIX.unpack(rest[: FRAME_PREFIX.size])
        rest = rest[FRAME_PREFIX.size :]
        if not size:
            break
        if size > len(rest):
            raise DecodeError(f"{server} sent a reply of {len(body)} bytes that ends in the middle of a frame")
        yield rest[:size]
        rest = rest[size:]
    end = decode_failure(bytes(rest))
    if end != OK:
        raise refusal(end)


def one_line(text: str) -> str:
    """`text` as one printable line of at most `MAX_ERROR_CHARS` characters: it may come from a stranger."""
    shown = "".join(c if c.isprintable() else " " for c in text[: MAX_ERROR_CHARS + 1])
    return shown if len(shown) <= MAX_ERROR_CHARS else shown[: MAX_ERROR_CHARS - 3] + "..."


def is_method(method: str) -> bool:
    """Whether `method` may be a method's name."""
    return len(method) <= MAX_METHOD_CHARS and _METHOD.fullmatch(method) is not None


def check_request(to: Address, method: str, body: bytes) -> None:
    """Check a request before anything of it is sent.

    Raises:
        NotYetAvailable: `to` is reached through its SN.
        Broken: a malformed method name, which is a bug of ours.
        Refused: the body is larger than any server accepts.
    """
    if to.endpoint.via:
        raise NotYetAvailable(
            f"{to.node} is reached via {to.endpoint.via}: reaching a node through its SN arrives in a later release; "
            "give it an address that others can reach"
        )
    if not is_method(method):
        raise Broken(f"method name {method!r}: expected parts of a-z 0-9 _ - between slashes")
    if len(body) > MAX_BODY_BYTES:
        raise Refused(
            f"request {method} of {len(body)} bytes: at most {MAX_BODY_BYTES} are accepted, send more as a stream",
            code=TOO_LARGE,
        )


def check_reply(method: str, reply: bytes) -> bytes:
    """Return a handler's reply if it may travel.

    Raises:
        Broken: the handler's reply is too large, which is a bug of the server's.
    """
    if len(reply) > MAX_BODY_BYTES:
        raise Broken(f"reply to {method} of {len(reply)} bytes: at most {MAX_BODY_BYTES}, serve it as a stream")
    return reply


def check_frame(method: str, frame: Frame) -> memoryview:
    """Return a handler's frame as bytes if it may travel.

    Raises:
        Broken: the frame is empty (that would end the stream), too large or not contiguous: a bug of the server's.
    """
    view = memoryview(frame)
    if not 0 < view.nbytes <= MAX_FRAME_BYTES:
        raise Broken(f"frame of {method} of {view.nbytes} bytes: expected 1-{MAX_FRAME_BYTES}")
    if not view.c_contiguous:
        raise Broken(f"frame of {method} is not contiguous in memory")
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def frame_too_large(server: str, size: int) -> DecodeError:
    """A server announced a frame larger than any may be."""
    return DecodeError(f"{server} sent a frame of {size} bytes; expected at most {MAX_FRAME_BYTES}")
