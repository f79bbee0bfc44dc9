-- The same tables as hypertables. The primary key is the only index (see the plain file); compression is enabled
-- here by series, a policy decides when chunks are compressed.
create table ticks (
    time      timestamptz not null,
    seq       bigint not null,
    bid       double precision not null,
    ask       double precision not null,
    bid_size  double precision,
    ask_size  double precision,
    series_id integer not null,
    primary key (series_id, time, seq)
);

create table trades (
    time      timestamptz not null,
    seq       bigint not null,
    price     double precision not null,
    size      double precision not null,
    series_id integer not null,
    side      "char",
    trade_id  text,
    primary key (series_id, time, seq)
);

select create_hypertable('ticks', by_range('time', interval '7 days'), create_default_indexes => false);
select create_hypertable('trades', by_range('time', interval '7 days'), create_default_indexes => false);

alter table ticks set (
    timescaledb.compress,
    timescaledb.compress_segmentby = 'series_id',
    timescaledb.compress_orderby = 'time, seq'
);

alter table trades set (
    timescaledb.compress,
    timescaledb.compress_segmentby = 'series_id',
    timescaledb.compress_orderby = 'time, seq'
);

comment on column trades.side is 'aggressor: b or s; null where the venue does not say';
