-- A gap's place among the records of its series is behind a number, as it was announced: times do not give it, since
-- a late record has an older time than those before it. Rows from before this column are placed by time.
alter table gaps add column seq bigint;

comment on column gaps.seq is 'number of the record before the gap, 0 where none is stored; null where records are not stored';

update gaps g set seq = coalesce((
        select t.seq from ticks t where t.series_id = g.series_id and t.time <= g.from_time and t.seq > 0
        order by t.time desc, t.seq desc limit 1), 0)
    from series s where s.id = g.series_id and s.type = 'tick';

update gaps g set seq = coalesce((
        select t.seq from trades t where t.series_id = g.series_id and t.time <= g.from_time and t.seq > 0
        order by t.time desc, t.seq desc limit 1), 0)
    from series s where s.id = g.series_id and s.type = 'trade';
