-- Minutes of which the venue gives candles and no records, such as those of a gap in its ticks. The candles of the table
-- candles are computed from them where there are no rows: what came as a candle is told from what was computed by this.
create table venue_candles (
    time      timestamptz not null,
    open      double precision not null,
    high      double precision not null,
    low       double precision not null,
    close     double precision not null,
    row_count bigint not null,
    series_id integer not null references series (id) on delete cascade,
    primary key (series_id, time)
);

comment on column venue_candles.row_count is 'number of prices, as the venue counts them';
