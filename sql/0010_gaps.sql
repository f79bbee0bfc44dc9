-- Intervals in which records of a series may be missing. They come through the journal with the records, in one
-- transaction with those behind them.
create table gaps (
    id        bigint generated always as identity unique,
    series_id integer not null references series (id) on delete cascade,
    from_time timestamptz not null,
    to_time   timestamptz not null check (to_time >= from_time),
    cause     text not null,
    size      bigint check (size >= 0),
    state     text not null default 'open' check (state in ('open', 'filled', 'permanent')),
    primary key (series_id, from_time, to_time, cause)
);

comment on column gaps.from_time is 'the last record before the gap';
comment on column gaps.to_time is 'the first record after it';
comment on column gaps.size is 'how many records are missing; null where nobody knows';
