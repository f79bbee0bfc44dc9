-- Gaps that have not ended, one of a series at most. Written when they begin, so that they survive a crash of the server;
-- when they end they move to the table gaps.
create table lasting_gaps (
    series_id integer primary key references series (id) on delete cascade,
    from_time timestamptz not null,
    cause     text not null,
    size      bigint check (size >= 0)
);

comment on column lasting_gaps.from_time is 'the last record before the gap';
