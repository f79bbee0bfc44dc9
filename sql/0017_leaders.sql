-- Which process leads a broker where several share a bus: one row per broker, written at each take-over before anything is
-- published. A leader that does not reach the bus reads here whether another leads by now.
create table leaders (
    fence   bigint not null,
    since   timestamptz not null default now(),
    broker  text primary key,
    process text not null
);

comment on column leaders.fence is 'of two leaders the one with the higher fence leads';
comment on column leaders.process is 'the name of the process on the bus: bus_process in its data folder';
