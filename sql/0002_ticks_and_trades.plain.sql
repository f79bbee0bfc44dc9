-- Widest columns first, so no padding. The primary key is the only index: it finds a range of a series,
-- keeps two ticks of one microsecond apart, and makes writing the same record twice an error.
create table ticks (
    time      timestamptz not null,
    seq       bigint not null,
    bid       double precision not null,
    ask       double precision not null,
    bid_size  double precision,
    ask_size  double precision,
    series_id integer not null,
    primary key (series_id, time, seq)
) partition by range (time);

create table trades (
    time      timestamptz not null,
    seq       bigint not null,
    price     double precision not null,
    size      double precision not null,
    series_id integer not null,
    side      "char",
    trade_id  text,
    primary key (series_id, time, seq)
) partition by range (time);

comment on column trades.side is 'aggressor: b or s; null where the venue does not say';
