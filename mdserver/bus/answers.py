"""What the leader of a broker tells the processes that follow: the venue's answers, and how the broker is."""

from __future__ import annotations

import msgspec

from ..model import Feed

__all__ = ["Answers", "decode_answers"]


class Answers(msgspec.Struct, frozen=True, array_like=True):
    """What the leader says of a broker."""

    holder: str
    fence: int
    state: str
    message: str
    feeds: list[tuple[Feed, str, str]]


decode_answers = msgspec.msgpack.Decoder(Answers).decode
