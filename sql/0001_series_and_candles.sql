-- One row per (broker, symbol, record type). It is updated in the same transaction as the rows that it counts,
-- so metadata, ETags and the next seq are each one indexed read.
create table series (
    id        integer generated always as identity primary key,
    broker    text not null,
    symbol    text not null,
    type      text not null check (type in ('tick', 'trade')),
    last_seq  bigint not null default 0,
    row_count bigint not null default 0,
    earliest  timestamptz,
    latest    timestamptz,
    hist_v    bigint not null default 0,
    live_v    bigint not null default 0,
    unique (broker, symbol, type)
);

comment on column series.last_seq is 'number of the newest live record; imports do not move it';
comment on column series.hist_v is 'goes up with each change to closed history: imports, repairs, late records';
comment on column series.live_v is 'goes up with each live flush';

-- Rollups of every timeframe, computed with their ticks in one transaction. volume is numeric so that sums are
-- exact in any order; updates in place stay on the page (fillfactor).
create table candles (
    time       timestamptz not null,
    open       double precision not null,
    high       double precision not null,
    low        double precision not null,
    close      double precision not null,
    row_count  bigint not null,
    series_id  integer not null references series (id),
    timeframe  integer not null,
    volume     numeric not null,
    primary key (series_id, timeframe, time)
) with (fillfactor = 90);

comment on column candles.time is 'open time';
comment on column candles.timeframe is 'length in seconds';
