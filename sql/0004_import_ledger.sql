-- What was imported: one row per hour of a series, written in the transaction of its ticks. So an hour is
-- imported exactly once, an unchanged one is skipped unread, and nobody takes a failed hour for an empty one.
create table import_ledger (
    hour       timestamptz not null,
    changed_at timestamptz not null default now(),
    series_id  integer not null references series (id),
    row_count  integer not null default 0,
    attempts   integer not null default 1,
    settled    boolean not null default true,
    outcome    text not null check (outcome in ('ok', 'empty', 'failed')),
    checksum   text not null default '',
    service    text not null default '',
    origin     text not null default '',
    cause      text not null default '',
    primary key (series_id, hour)
);

comment on column import_ledger.outcome is 'ok: row_count ticks are stored; empty: the source has none; failed: see cause';
comment on column import_ledger.settled is 'false: so recent that the source may still change it; it is asked again';
comment on column import_ledger.checksum is 'SHA-256 of the file as fetched, in hexadecimal';
comment on column import_ledger.origin is 'the file or URL that the hour came from';
