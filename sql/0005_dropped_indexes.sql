-- Secondary indexes that were dropped for an import, until they are there again: whatever ends the command between
-- dropping and recreating, nothing is forgotten.
create table dropped_indexes (
    dropped_at  timestamptz not null default now(),
    size_bytes  bigint not null,
    schema_name text not null,
    table_name  text not null,
    index_name  text not null,
    partitioned boolean not null,
    body        text not null,
    tablespace  text,
    comment     text,
    primary key (schema_name, table_name, index_name)
);

comment on column dropped_indexes.partitioned is 'an index of a partitioned table: each partition gets its part';
comment on column dropped_indexes.body is 'the definition from "using" on';
