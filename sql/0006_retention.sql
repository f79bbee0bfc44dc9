-- Up to where rows were dropped for their age. Candles are kept: before this time they stand for themselves, and
-- nothing compares them with rows or rebuilds them.
create table retention (
    table_name     text primary key check (table_name in ('ticks', 'trades')),
    dropped_before timestamptz not null
);
