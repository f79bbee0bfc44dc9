-- When the server's socket had a record: null for what is imported, and for what was stored before. A column without
-- a default is instant, also where chunks are compressed.
alter table ticks add column received timestamptz;
alter table trades add column received timestamptz;

-- More kinds of records than two, and what else tells topics apart: a candle's interval, a book's depth. Of kinds that
-- are not stored there is a row too: it keeps their seq.
alter table series drop constraint series_type_check;
alter table series add column variant text not null default '';
alter table series drop constraint series_broker_symbol_type_key;
alter table series add unique (broker, symbol, type, variant);
