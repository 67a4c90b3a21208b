-- Pauses, weights and priorities; and what the leader expects of the time to come.

-- A pause is a limit too: set by somebody, for a reason, until some time. A weight is a tenant's share beside others.
alter table limits drop constraint limits_scope_check, drop constraint limits_rule_check;
alter table limits add constraint limits_scope_check check (scope in ('tenant', 'account', 'model', 'batch')),
    add constraint limits_rule_check
        check (rule in ('videos_per_minute', 'requests_per_minute', 'max_in_flight', 'weight', 'paused')),
    add constraint limits_paused_check check (rule <> 'paused' or (scope <> 'account' and value = 1)),
    add constraint limits_weight_check check (rule <> 'weight' or (scope = 'tenant' and value <= 1000)),
    add constraint limits_batch_check check (scope <> 'batch' or rule = 'paused');

-- The customer's own pause, beside an operator's.
alter table batches add column paused_at timestamptz;
grant update (paused_at) on batches to freezeframe_api;

-- Which of a tenant's batches goes first: the higher, then the older.
alter table batches add column priority smallint not null default 5 check (priority between 0 and 9);
alter table batch_lanes add column priority smallint not null default 5 check (priority between 0 and 9);
grant insert (priority) on batches, batch_lanes to freezeframe_api;

-- What the leader expects of a batch with waiting videos, and when it said so. Of no account in money or order.
create table batch_outlooks (
    batch_id text collate "C" primary key,
    tenant_id text collate "C" not null,
    -- waiting videos of the tenant that go before its first
    ahead integer not null check (ahead >= 0),
    -- null: nobody can tell, because something is shut or paused
    starts_at timestamptz,
    finishes_at timestamptz,
    told_at timestamptz not null default now()
) with (fillfactor = 50);
grant select, insert, update, delete on batch_outlooks to freezeframe_app;
grant select on batch_outlooks to freezeframe_api;
alter table batch_outlooks enable row level security;
create policy across_tenants on batch_outlooks to freezeframe_app using (true) with check (true);
create policy own_tenant on batch_outlooks to freezeframe_api
    using (tenant_id = nullif(current_setting('freezeframe.tenant', true), ''));

-- What the leader expects of a model for whoever asks now. Says nothing about any tenant.
create table model_outlooks (
    model text primary key,
    -- from its release to its end, on the average; null: none has ended yet
    video_secs double precision check (video_secs >= 0),
    -- how many a tenant that begins now would get in a minute, if no limit of its own were in the way; null: nobody can tell
    videos_per_minute double precision check (videos_per_minute >= 0),
    told_at timestamptz not null default now()
);
grant select, insert, update, delete on model_outlooks to freezeframe_app;
grant select on model_outlooks to freezeframe_api;
