"""A client that none of us wrote, oandapyV20, takes the fake for the real venue."""

import json
import sys

import trio

from mdserver.testing.oanda import FakeOanda, open_fake_oanda

STREAM = """
import json, sys, oandapyV20
from oandapyV20.endpoints.accounts import AccountInstruments, AccountList
from oandapyV20.endpoints.instruments import InstrumentsCandles
from oandapyV20.endpoints.pricing import PricingInfo, PricingStream

url, rest, account, key = sys.argv[1:]
oandapyV20.oandapyV20.TRADING_ENVIRONMENTS["practice"] = {"stream": url, "api": rest}
api = oandapyV20.API(access_token=key, environment="practice")
accounts = api.request(AccountList())["accounts"]
names = [row["name"] for row in api.request(AccountInstruments(accountID=account))["instruments"]]
prices = api.request(PricingInfo(accountID=account, params={"instruments": names[0]}))["prices"]
candles = api.request(InstrumentsCandles(instrument=names[0], params={"granularity": "M5", "count": 9}))
lines = []
for line in api.request(PricingStream(accountID=account, params={"instruments": ",".join(names[:2])})):
    lines.append(line)
    if len(lines) == 8:
        break
print(json.dumps({"accounts": accounts, "names": names, "prices": prices, "candles": candles, "lines": lines}))
"""

REFUSED = """
import sys, oandapyV20
from oandapyV20.endpoints.accounts import AccountInstruments

url, rest, account, key = sys.argv[1:]
oandapyV20.oandapyV20.TRADING_ENVIRONMENTS["practice"] = {"stream": url, "api": rest}
try:
    oandapyV20.API(access_token="wrong").request(AccountInstruments(accountID=account))
except oandapyV20.exceptions.V20Error as error:
    print(error.code, error.msg)
"""


async def run_client(venue: FakeOanda, code: str) -> str:
    done = await trio.run_process(
        [sys.executable, "-c", code, venue.url, venue.rest_url, venue.account_id, venue.api_key],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


async def test_oandapyv20_streams_and_asks() -> None:
    async with open_fake_oanda() as venue:  # as it comes, without a script
        got = json.loads(await run_client(venue, STREAM))
        assert got["accounts"] == [{"id": venue.account_id, "tags": []}]
        assert got["names"] == list(venue.instruments)
        assert got["prices"][0]["instrument"] == got["names"][0]
        assert len(got["candles"]["candles"]) == 9
        assert {line["type"] for line in got["lines"]} <= {"PRICE", "HEARTBEAT"}
        prices = [line for line in got["lines"] if line["type"] == "PRICE"]
        assert {line["instrument"] for line in prices} == set(got["names"][:2])
        assert len({line["bids"][0]["price"] for line in prices}) > 2, "prices move"
        assert venue.limit.refused == 0


async def test_oandapyv20_is_refused_as_by_the_real_venue() -> None:
    async with open_fake_oanda() as venue:
        said = await run_client(venue, REFUSED)
    assert said == '401 {"errorMessage":"Insufficient authorization to perform request."}\n'
