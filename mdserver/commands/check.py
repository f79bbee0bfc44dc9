"""``mdserver run check``: check that the stored data are complete and consistent."""

from __future__ import annotations

import json

import click
import msgspec

from ..config import Config
from ..plugin import CommandContext, CommandPlugin
from ..store.upkeep.integrity import SeriesReport, check
from .maintenance import json_option, open_for_maintenance, print_status, symbol_option, table

__all__ = ["plugin"]

SUMMARY = "Check that the stored data are complete and consistent"


@click.command("check", short_help=SUMMARY)
@symbol_option
@json_option
@click.pass_obj
def _command(context: CommandContext, symbol: str | None, as_json: bool) -> None:
    """Check for missing hours and duplicates, and compare candles, import ledger and metadata with the stored rows.

    It changes nothing. The exit code is 1 if anything is wrong.
    """
    reports = context.run(_check, context.config, symbol)
    wrong = sum(len(report.findings) for report in reports)
    if as_json:
        click.echo(json.dumps({"ok": not wrong, "series": msgspec.to_builtins(reports)}))
    else:
        for report in reports:
            _print(report)
        if not reports:
            click.echo("nothing is stored" if symbol is None else f"nothing is stored of {symbol}")
        else:
            click.echo(f"{wrong} findings" if wrong else "no faults found")
    if wrong:
        raise click.exceptions.Exit(1)


async def _check(config: Config, symbol: str | None) -> list[SeriesReport]:
    async with open_for_maintenance(config) as database:
        return await check(
            database,
            symbol,
            announce=lambda series, month: print_status(
                f"checking {series.broker} {series.symbol} {series.type} {month} …"
            ),
        )


def _print(report: SeriesReport) -> None:
    click.echo(f"{report.broker} {report.symbol} {report.type}: {report.rows} rows, market {report.market}")
    rows = [
        (one.month, one.rows, one.hours, one.open_hours, one.empty_hours, one.missing_hours, one.late)
        for one in report.months
    ]
    if rows:
        heading = ("  MONTH", "ROWS", "HOURS", "OPEN HOURS", "EMPTY", "MISSING", "LATE")
        click.echo(table(heading, [(f"  {row[0]}", *row[1:]) for row in rows]))
    for finding in report.findings:
        where = f" in {finding.month}" if finding.month else ""
        times = f": {', '.join(finding.at)}" if finding.at else ""
        more = ", …" if len(finding.at) < finding.count and finding.at else ""
        click.echo(f"  ! {finding.kind}{where}: {finding.count} × {finding.message}{times}{more}")
        click.echo(f"    remedy: {finding.remedy}")
    click.echo("")


plugin = CommandPlugin("check", SUMMARY, _command)
