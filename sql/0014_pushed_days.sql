-- What lies in a data lake: one row per day of a series and of what is kept of it, written once the object was read back
-- and compared. Retention drops no rows of a day that is not here.
create table pushed_days (
    pushed_at  timestamptz not null default now(),
    hist_v     bigint not null,
    row_count  bigint not null,
    size_bytes bigint not null,
    series_id  integer not null references series (id) on delete cascade,
    day        date not null,
    lake       text not null,
    what       text not null check (what in ('records', 'candles')),
    mark       text not null,
    checksum   text not null,
    object_key text not null,
    primary key (lake, series_id, what, day)
);

comment on column pushed_days.lake is 'the address of the lake';
comment on column pushed_days.mark is 'tells whether the day has changed since: over its 1m candles and its import ledger';
comment on column pushed_days.hist_v is 'hist_v of the series when the mark was last compared: nothing has changed while it is the same';
comment on column pushed_days.checksum is 'SHA-256 of the object, in hexadecimal';
