-- An hour that the source denied to have (HTTP 404) in market hours is no empty one: it is asked again at each import,
-- until another side confirms it. What was taken for empty before comes back as denied.
alter table import_ledger drop constraint import_ledger_outcome_check;
alter table import_ledger add constraint import_ledger_outcome_check
    check (outcome in ('ok', 'empty', 'denied', 'failed'));
update import_ledger set outcome = 'denied', settled = false where outcome = 'empty' and cause like '%: no such hour';

comment on column import_ledger.outcome is
    'ok: row_count ticks are stored; empty: the source says that there are none; denied: it says that there is no such '
    'hour, which proves nothing; failed: see cause';
