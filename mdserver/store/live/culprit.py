"""Find the one record that keeps a batch from being stored, whatever error the database reports."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from ...errors import StoreUnavailable
from ...model import Published, Topic

__all__ = ["CONFIRMED", "find_culprit"]

CONFIRMED = 3
"""How often the suspect must fail alone, while another record of its kind is accepted right after it."""


TryWrite: TypeAlias = Callable[[Sequence[Published]], Awaitable[None]]


async def find_culprit(
    records: Sequence[Published], try_write: TryWrite, others: Sequence[Published]
) -> tuple[int, str] | None:
    """Return the place of the first record that the database refuses by itself, and why; None if no record is to blame.

    ``try_write`` writes records and rolls back; it raises :class:`StoreUnavailable`. There is no culprit where the
    database is unavailable or refuses a whole kind (a missing privilege, a full disk): a record is to blame only if
    another one of its kind, from ``others``, is accepted. Costs about log2(n) tries.
    """
    good, bad = 0, len(records)  # the first `good` records are accepted, the first `bad` are not
    if await _fault(records, try_write) is None:
        return None
    while bad - good > 1:
        middle = (good + bad) // 2
        if await _fault(records[:middle], try_write) is None:
            good = middle
        else:
            bad = middle
    suspect = records[good]
    why = None
    same = [one for one in others if one.topic.type == suspect.topic.type and _key(one) != _key(suspect)]
    for _ in range(CONFIRMED):
        why = await _fault([suspect], try_write)
        if why is None or not await _one_goes_through(same, try_write):
            return None
    return (good, why) if why is not None else None


def _key(record: Published) -> tuple[Topic, int]:
    return record.topic, record.seq


async def _one_goes_through(others: Sequence[Published], try_write: TryWrite) -> bool:
    """Try the first, the last and a middle one: there may be another culprit among them."""
    for place in sorted({0, len(others) // 2, len(others) - 1} & set(range(len(others)))):
        if await _fault([others[place]], try_write) is None:
            return True
    return False


async def _fault(records: Sequence[Published], try_write: TryWrite) -> str | None:
    try:
        await try_write(records)
    except StoreUnavailable as error:
        return str(error)
    return None
