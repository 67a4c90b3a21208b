-- Customers, their keys and what they may do. Ids are ULIDs without their prefix, compared byte by byte.

create table tenants (
    id text collate "C" primary key,
    name text not null check (name <> ''),
    videos_per_minute integer not null check (videos_per_minute > 0),
    max_in_flight integer not null check (max_in_flight > 0),
    -- sealed with the service's master key: a dump of the database signs nothing
    webhook_secret_sealed bytea not null,
    created_at timestamptz not null default now()
);

create table api_keys (
    -- SHA-256 of the whole key; the key itself is shown once and never stored
    hash bytea primary key check (octet_length(hash) = 32),
    tenant_id text collate "C" not null references tenants,
    hint text not null,
    created_at timestamptz not null default now(),
    revoked_at timestamptz
);
create index api_keys_of_tenant on api_keys (tenant_id);

create table idempotency_keys (
    tenant_id text collate "C" not null references tenants,
    key text not null check (length(key) between 1 and 255),
    -- SHA-256 of the request in its canonical form
    request_hash bytea not null check (octet_length(request_hash) = 32),
    answer jsonb not null,
    created_at timestamptz not null default now(),
    primary key (tenant_id, key)
);

grant select, insert, update on tenants, api_keys to freezeframe_app;
grant select, insert on idempotency_keys to freezeframe_app;
