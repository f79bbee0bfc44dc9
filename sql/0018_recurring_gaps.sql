-- Gaps of a venue's garbage that lie close together are one row, or a venue of constant garbage would fill the table. It
-- lies behind all the numbers from seq to last_seq.
alter table gaps add column last_seq bigint check (last_seq > seq);

comment on column gaps.last_seq is 'of several gaps in one row the number of the record before the last one; else null';
