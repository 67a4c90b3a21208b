-- Operators: who may see what runs and change it by HTTP, and what they did that no other history tells.

create table operators (
    -- SHA-256 of the whole key; the key itself is shown once and never stored
    key_hash bytea primary key check (octet_length(key_hash) = 32),
    key_hint text not null,
    name text collate "C" not null check (name <> ''),
    -- a viewer reads, ops changes as well
    role text not null check (role in ('viewer', 'ops')),
    created_at timestamptz not null default now(),
    revoked_at timestamptz
);
-- a name has one key that is in force
create unique index operators_in_force on operators (name) where revoked_at is null;

-- Who did what. Limits, pauses of single subjects and provider accounts have histories of their own; here is what was done to
-- operators, and to batches across tenants.
create table operator_acts (
    id bigint generated always as identity primary key,
    at timestamptz not null default now(),
    actor text not null check (actor <> ''),
    act text not null check (act in ('add_operator', 'revoke_operator', 'cancel', 'pause', 'resume')),
    reason text check (reason <> ''),
    -- the operator; or the batches that were asked for
    about jsonb not null,
    -- those that were changed, by their ids without prefix
    batches text[] collate "C" not null default '{}',
    check (reason is not null or act in ('add_operator', 'revoke_operator'))
);
create trigger operator_acts_append_only before update or delete or truncate on operator_acts
    for each statement execute function refuse_to_rewrite_history();

grant select, insert, update (revoked_at) on operators to freezeframe_app;
grant select, insert on operator_acts to freezeframe_app;
