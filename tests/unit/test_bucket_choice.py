"""Which source answers, where none is named."""

from hypothesis import given
from hypothesis import strategies as st

from mdserver.web.api.bucket_choice import Buckets, choose_buckets, runs

US = 1_000_000
MINUTE = 60

opens = st.lists(st.integers(0, 30), unique=True).map(lambda ns: [n * MINUTE for n in sorted(ns)])
moment = st.integers(-MINUTE * US, 31 * MINUTE * US)
gap = st.tuples(moment, moment).map(lambda pair: (min(pair), max(pair)))
source = st.builds(Buckets, opens, st.none() | moment, st.lists(gap, max_size=3))


def is_complete(one: Buckets, time: int) -> bool:
    first, last = time * US, (time + MINUTE) * US - 1
    starts_within = one.earliest_us is not None and first < one.earliest_us <= last
    return not starts_within and not any(start <= last and end >= first for start, end in one.gaps)


@given(st.lists(source, max_size=4))
def test_each_bucket_is_of_the_first_that_has_it_complete_else_of_the_first_that_has_it(sources) -> None:
    chosen = choose_buckets(sources, MINUTE)
    assert [one.time for one in chosen] == sorted({time for one in sources for time in one.times})
    for one in chosen:
        having = [n for n, other in enumerate(sources) if one.time in other.times]
        whole = [n for n in having if is_complete(sources[n], one.time)]
        assert one.source == (whole or having)[0]
        assert sources[one.source].times[one.row] == one.time


@given(st.lists(source, max_size=4))
def test_runs_cover_what_was_chosen_in_order(sources) -> None:
    chosen = choose_buckets(sources, MINUTE)
    again = [one.time for place, first, last in runs(chosen) for one in chosen if first <= one.time <= last]
    assert again == [one.time for one in chosen]
    assert all(a[0] != b[0] for a, b in zip(runs(chosen), runs(chosen)[1:], strict=False))


def test_history_joins_in_front_of_the_live_feed() -> None:
    """The live feed's first bucket is cut by its start, so the import's, which is whole, is taken."""
    live = Buckets([120, 180, 240], earliest_us=150 * US)
    imported = Buckets([0, 60, 120, 180], earliest_us=0)
    assert [(one.time, one.source) for one in choose_buckets([live, imported], MINUTE)] == [
        (0, 1),
        (60, 1),
        (120, 1),
        (180, 0),
        (240, 0),
    ]


def test_a_gap_of_the_first_is_bridged_by_the_next_and_shown_where_there_is_no_other() -> None:
    live = Buckets([0, 60, 120], earliest_us=0, gaps=[(70 * US, 80 * US)])
    assert [one.source for one in choose_buckets([live, Buckets([0, 60], 0)], MINUTE)] == [0, 1, 0]
    assert [one.source for one in choose_buckets([live], MINUTE)] == [0, 0, 0]
