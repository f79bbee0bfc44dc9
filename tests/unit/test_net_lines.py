"""Lines out of bytes: the same however they are cut."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdserver.net.http_lines import LineReader, LineTooLong


@given(st.lists(st.binary(max_size=12)), st.lists(st.integers(0, 200)))
def test_the_cuts_make_no_difference(parts: list[bytes], cuts: list[int]) -> None:
    data = b"\n".join(parts)
    reader = LineReader(max_line_bytes=1000)
    borders = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    lines = [line for begin, end in itertools.pairwise(borders) for line in reader.feed(data[begin:end])]
    *complete, rest = data.split(b"\n")
    assert lines == [line.strip() for line in complete if line.strip()]
    assert reader.held == len(rest)


@pytest.mark.parametrize(
    "data", [b"12345678901", b"12345678901\n", b"1\n12345678901\n2\n", b"1\n12345678901"]
)
def test_a_line_over_the_bound(data: bytes) -> None:
    with pytest.raises(LineTooLong, match="more than 10 bytes"):
        LineReader(max_line_bytes=10).feed(data)
    reader = LineReader(max_line_bytes=10)
    assert reader.feed(b"1234567890\nab") == [b"1234567890"]
    assert reader.feed(b"cdefghij") == []
    with pytest.raises(LineTooLong):
        reader.feed(b"k")
