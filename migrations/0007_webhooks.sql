-- What happened, told to whoever asked for it. An event is written in the transaction that changed the state.

create table events (
    id text collate "C" primary key,
    tenant_id text collate "C" not null,
    batch_id text collate "C" not null,
    kind text not null check (kind <> ''),
    payload jsonb not null,
    created_at timestamptz not null default now(),
    -- an event of a kind happens to a batch once
    unique (batch_id, kind)
);
create index events_of_tenant on events (tenant_id, id);

create table deliveries (
    id text collate "C" primary key,
    event_id text collate "C" not null references events,
    tenant_id text collate "C" not null,
    url text not null,
    state delivery_state not null default 'pending',
    attempts_made integer not null default 0 check (attempts_made >= 0),
    next_attempt_at timestamptz default now(),
    finished_at timestamptz,
    created_at timestamptz not null default now(),
    unique (event_id, url),
    check ((next_attempt_at is not null) = (state = 'pending')),
    check ((finished_at is null) = (state = 'pending'))
);
create index deliveries_due on deliveries (next_attempt_at) where next_attempt_at is not null;

create table delivery_attempts (
    delivery_id text collate "C" not null references deliveries,
    n integer not null check (n > 0),
    started_at timestamptz not null,
    duration_ms integer not null check (duration_ms >= 0),
    status_code integer,
    error text,
    response_excerpt text,
    next_attempt_at timestamptz,
    primary key (delivery_id, n)
);

grant select, insert on events, delivery_attempts to freezeframe_app;
grant select, insert, update on deliveries to freezeframe_app;
