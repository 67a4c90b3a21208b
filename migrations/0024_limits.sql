-- Limits that operators set while the service runs, and the turns that were given out under them.

-- What is set here stands before the value of the settings, or before what a tenant was made with. A value with an end
-- stands before the one without, until then.
create table limits (
    scope text not null check (scope in ('tenant', 'account', 'model')),
    -- the tenant's id without prefix, or the name of the account or model
    subject text collate "C" not null check (subject <> ''),
    rule text not null check (rule in ('videos_per_minute', 'requests_per_minute', 'max_in_flight')),
    value integer not null check (value > 0),
    temporary boolean not null,
    expires_at timestamptz,
    set_by text not null check (set_by <> ''),
    reason text not null check (reason <> ''),
    set_at timestamptz not null default now(),
    primary key (scope, subject, rule, temporary),
    check (temporary = (expires_at is not null)),
    check (rule <> 'requests_per_minute' or scope <> 'model'),
    check (rule <> 'videos_per_minute' or scope <> 'account')
);

-- Who changed what, from what and to what. The highest id tells readers whether anything changed.
create table limit_changes (
    id bigint generated always as identity primary key,
    at timestamptz not null default now(),
    actor text not null check (actor <> ''),
    act text not null check (act in ('set', 'clear')),
    scope text not null,
    subject text collate "C" not null,
    rule text not null,
    reason text not null check (reason <> ''),
    -- the row of `limits`; null where there was none, or is none now
    state_before jsonb,
    state_after jsonb
);
create index limit_changes_of on limit_changes (scope, subject, id);
create trigger limit_changes_append_only before update or delete or truncate on limit_changes
    for each statement execute function refuse_to_rewrite_history();

grant select, insert, update, delete on limits to freezeframe_app;
grant select, insert on limit_changes to freezeframe_app;

-- The turns of the last minutes: one row for each wave of releases, and one for each group of turns that was given back.
-- Whoever begins to lead reads it, so that a change of leader grants nothing twice. Rows are deleted when they count no more.
create table release_log (
    id bigint generated always as identity primary key,
    at timestamptz not null,
    -- from then on it says nothing any more
    until timestamptz not null,
    given_back boolean not null,
    -- given back because it was over before a worker began
    late boolean not null default false,
    -- who had the turns (`tenant:ID`, `account:NAME`, `model:NAME`, `batch:ID`), how many videos, and how long after `at`
    -- a worker may still use them
    subjects text[] collate "C" not null,
    videos integer[] not null,
    valid_ms integer[] not null,
    check (cardinality(subjects) = cardinality(videos) and cardinality(subjects) = cardinality(valid_ms))
);
create index release_log_given_back on release_log (id) where given_back;

grant select, insert, delete on release_log to freezeframe_app;

-- until when a worker may begin a released video; later it waits for another turn
alter table videos add column turn_until timestamptz;

-- everything before it has been released at least once; `next_position` goes back when a video is given back
alter table batch_lanes add column released_below integer not null default 0 check (released_below >= 0);
update batch_lanes set released_below = next_position where not closed;
-- an image has to be got before a video can begin: its turn lasts longer
alter table batch_lanes add column with_images boolean not null default false;
grant insert (with_images) on batch_lanes to freezeframe_api;

-- a batch may be slower than its tenant
alter table batches add column videos_per_minute integer check (videos_per_minute > 0);
alter table batch_lanes add column videos_per_minute integer check (videos_per_minute > 0);
grant insert (videos_per_minute) on batches, batch_lanes to freezeframe_api;

-- A customer is told the limits that hold now.
create function limit_of_tenant(tenant text, wanted text, otherwise integer) returns integer
    language sql stable security definer set search_path = pg_catalog, public, pg_temp
as $$
    select coalesce((select l.value from public.limits l
        where l.scope = 'tenant' and l.subject = tenant and l.rule = wanted
            and (l.expires_at is null or l.expires_at > now())
        order by l.temporary desc limit 1), otherwise)
$$;
revoke execute on function limit_of_tenant(text, text, integer) from public;
drop function tenant_of_key(bytea);
-- requests_per_minute is null where nobody set it: the settings hold then
create function tenant_of_key(key_hash bytea)
    returns table (id text, name text, videos_per_minute integer, max_in_flight integer, requests_per_minute integer)
    language sql stable security definer set search_path = pg_catalog, public, pg_temp
as $$
    select t.id, t.name, public.limit_of_tenant(t.id, 'videos_per_minute', t.videos_per_minute),
        public.limit_of_tenant(t.id, 'max_in_flight', t.max_in_flight),
        public.limit_of_tenant(t.id, 'requests_per_minute', null)
    from public.api_keys k join public.tenants t on t.id = k.tenant_id
    where k.hash = key_hash and k.revoked_at is null
$$;
comment on function tenant_of_key(bytea) is 'The tenant of an API key that is in force, by the hash of the key.';
revoke execute on function tenant_of_key(bytea) from public;
grant execute on function tenant_of_key(bytea) to freezeframe_api;
