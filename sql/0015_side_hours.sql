-- Bid and ask candles, computed from the ticks when they are first asked for: one row for each hour of a side. version is
-- the xmin of the hour's mid candle. Whatever changes the ticks of an hour writes that candle in the same transaction, so
-- a row counts exactly as long as its version is that of the candle, and nobody has to take it back.
create table side_hours (
    time      timestamptz not null,
    version   bigint not null,
    open      double precision not null,
    high      double precision not null,
    low       double precision not null,
    close     double precision not null,
    whole     bigint not null,
    fraction  bigint not null,
    row_count bigint not null,
    series_id integer not null references series (id) on delete cascade,
    side      text not null check (side in ('bid', 'ask')),
    minutes   bytea not null,
    primary key (series_id, side, time)
);

-- the minutes are read for shorter timeframes only, and compressing them would cost more than it saves
alter table side_hours alter column minutes set storage external;

comment on column side_hours.whole is 'volume in whole units; fraction: and in hundred-millionths';
comment on column side_hours.minutes is 'the 1m candles, eight little-endian bytes a value: open time in seconds, open, '
    'high, low, close, whole, fraction, row_count of one candle after another';
