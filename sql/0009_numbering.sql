-- What names the numbering of this database: as long as clients see the same epoch, a seq means the same record. Made
-- with the table, and never changed: a number is never given out twice.
create table numbering (
    one   boolean primary key default true check (one),
    epoch text not null
);

insert into numbering (epoch) values (substr(replace(gen_random_uuid()::text, '-', ''), 1, 16));

comment on table numbering is 'one row';
