-- Who leads and who works. Time is the database's alone.

create table leader_leases (
    name text primary key,
    holder text not null,
    -- grows with every change of holder; a leader that was replaced cannot write with its old one
    epoch bigint not null default 1,
    expires_at timestamptz not null
);

create table workers (
    -- new at every start: a name that was used before could keep a dead process's jobs looking alive
    name text primary key,
    queue text not null,
    slots integer not null check (slots >= 0),
    started_at timestamptz not null default now(),
    seen_at timestamptz not null default now()
);

grant select, insert, update on leader_leases to freezeframe_app;
grant select, insert, update, delete on workers to freezeframe_app;
