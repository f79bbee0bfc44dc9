-- Where the records of a range of numbers lie in time, so that the primary key (series_id, time, seq) of the tables of
-- records finds them: one row for 4096 numbers of a series and each hour that they fall into. A second key on
-- (series_id, seq) would cost each record a third of its bytes more; this is one small row a flush, updated in place.
create table seq_times (
    first     timestamptz not null,
    last      timestamptz not null,
    block     bigint not null,
    series_id integer not null references series (id) on delete cascade,
    hour      integer not null,
    primary key (series_id, block, hour)
) with (fillfactor = 80);

comment on column seq_times.block is 'seq / 4096';
comment on column seq_times.hour is 'hours since 1970';
comment on column seq_times.first is 'time of the oldest of these records, or before';
comment on column seq_times.last is 'time of the newest of these records, or behind';

insert into seq_times (series_id, block, hour, first, last)
    select t.series_id, t.seq / 4096, floor(extract(epoch from t.time) / 3600)::integer, min(t.time), max(t.time)
    from ticks t join series s on s.id = t.series_id where s.last_seq > 0 group by 1, 2, 3
    union all
    select t.series_id, t.seq / 4096, floor(extract(epoch from t.time) / 3600)::integer, min(t.time), max(t.time)
    from trades t join series s on s.id = t.series_id where s.last_seq > 0 group by 1, 2, 3;
