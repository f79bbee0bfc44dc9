"""The table of instruments: scales, markets and starts, and what a wrong name says."""

from __future__ import annotations

import csv
import datetime

import pytest

from mdserver.errors import Rejected
from mdserver.market_hours import HOUR_US, MARKETS
from mdserver.symbols import canonical
from mdserver.testing.recorded import recorded_folder
from mdserver_dukascopy import DukascopyConfig, instruments
from mdserver_dukascopy.config import ExtraInstrument


def test_each_row_makes_sense_and_the_file_is_sorted() -> None:
    rows = list(instruments.table().values())
    assert len(rows) == 1_618
    assert [row.symbol for row in rows] == sorted(row.symbol for row in rows)
    assert len({row.jetta_code for row in rows}) == len({row.code for row in rows}) == len(rows)
    for row in rows:
        assert canonical(row.symbol) == row.symbol
        assert row.jetta_code.replace(".", "").replace("-", "") == row.code
        assert 1 <= row.decimals <= 6
        assert row.market in MARKETS
        assert row.start_us is None or (row.start_us > 0 and row.start_us % HOUR_US == 0)


@pytest.mark.parametrize(
    ("symbol", "decimals", "market"),
    [
        ("EURUSD", 5, "fx"),
        ("USDJPY", 3, "fx"),
        ("HKDJPY", 5, "fx"),
        ("USDCZK", 4, "fx"),
        ("AUDCNH", 6, "fx"),
        ("XAUUSD", 3, "session"),
        ("XAUTRY", 1, "session"),
        ("USA500IDXUSD", 3, "session"),
        ("VOLIDXUSD", 2, "session"),
        ("GASCMDUSD", 4, "session"),
        ("AAPLUSUSD", 3, "session"),
        ("BTCUSD", 1, "crypto"),
        ("ADAUSD", 3, "crypto"),
        ("XLMUSD", 5, "crypto"),
    ],
)
def test_known_instruments(symbol: str, decimals: int, market: str) -> None:
    row = instruments.Instruments().find(symbol)
    assert (row.decimals, row.market) == (decimals, market)


def test_history_of_eurusd_starts_in_may_2003() -> None:
    start = datetime.datetime(2003, 5, 4, 21, tzinfo=datetime.UTC)
    assert instruments.Instruments().find("EURUSD").start_us == round(start.timestamp()) * 1_000_000


def test_a_name_that_is_no_symbol_of_ours_has_one() -> None:
    row = instruments.Instruments().find("DUKEUR")
    assert (row.code, row.jetta_code) == ("DUK+EUR", "DUK+-EUR")


@pytest.mark.parametrize(
    ("symbol", "hint"),
    [("EURUSDT", "EURUSD"), ("USA500", "USA500IDXUSD"), ("BRENT", "BRENTCMDUSD"), ("AAPL", "AAPLUSUSD")],
)
def test_an_unknown_symbol_is_named_with_what_was_meant(symbol: str, hint: str) -> None:
    with pytest.raises(Rejected, match=f"no instrument '{symbol}'; did you mean .*{hint}"):
        instruments.Instruments().find(symbol)


def test_an_unknown_symbol_without_anything_like_it() -> None:
    with pytest.raises(
        Rejected, match=r"no instrument 'Q': one that is new or delisted can be named in the config"
    ):
        instruments.Instruments().find("Q")


@pytest.mark.recorded
def test_scales_equal_the_services_own_list() -> None:
    folder = recorded_folder()
    if folder is None:
        pytest.skip("no recorded data: set MDSERVER_RECORDED_DATA to their folder")
    path = folder / "Leo4815162342+dukascopy-node" / "dukascopy_instruments.csv"
    with path.open(newline="", encoding="utf-8") as file:
        scales = {row["datafeed_code"]: int(row["scale"]) for row in csv.DictReader(file)}
    assert {row.code: 10**row.decimals for row in instruments.table().values()} == scales


def test_the_config_adds_what_the_table_does_not_have() -> None:
    config = DukascopyConfig(
        instruments=(ExtraInstrument("ual.us/usd", 3), ExtraInstrument("XYZUSD", 5, "fx", "XYZ", "XYZ-USD"))
    )
    added = [instruments.of_config(one) for one in config.instruments]
    table = instruments.Instruments(added)
    assert table.find("UAL.USUSD") == ("UAL.USUSD", "UAL.USUSD", "UAL.USUSD", 3, "session", None)
    assert table.find("XYZUSD") == ("XYZUSD", "XYZ", "XYZ-USD", 5, "fx", None)
    assert table.find("EURUSD").decimals == 5
    with pytest.raises(Rejected, match="no instrument 'UALUSUSD'"):
        table.find("UALUSUSD")
