-- What is known of each provider account, for the whole cluster: whether new videos may go there, and if not, why and until
-- when. The scheduler reads it before it chooses a route, the claim before a request is sent. Time is the database's.

create table provider_accounts (
    name text collate "C" primary key,
    -- an operator's word: nothing new until an operator starts it again
    stopped_at timestamptz,
    stopped_by text,
    stop_reason text,
    -- the provider asked for a pause
    cooled_until timestamptz,
    cool_cause text,
    -- it said that our money or quota is used up, or that it does not know us
    quota_exhausted_at timestamptz,
    refused_at timestamptz,
    -- from when on one video may find out whether that still holds, and which video does
    probe_at timestamptz,
    probe_video text collate "C",
    check ((stopped_at is null) = (stopped_by is null) and (stopped_at is null) = (stop_reason is null)),
    check ((cooled_until is null) = (cool_cause is null)),
    check ((probe_at is not null) = (quota_exhausted_at is not null or refused_at is not null)),
    check (probe_video is null or probe_at is not null)
);

-- Who changed what, and from what. A pause that a provider asked for is no decision and leaves no row here.
create table provider_account_changes (
    id bigint generated always as identity primary key,
    account text collate "C" not null,
    at timestamptz not null default now(),
    actor text not null check (actor <> ''),
    act text not null check (act in ('stop', 'start', 'quota_exhausted', 'refused', 'answered_again')),
    reason text,
    state_before jsonb not null,
    state_after jsonb not null
);
create index provider_account_changes_of on provider_account_changes (account, id);

grant select, insert, update on provider_accounts to freezeframe_app;
grant select, insert on provider_account_changes to freezeframe_app;

-- Videos released or running at each account, for its `max_in_flight`: a model may lead to several accounts, and its routes
-- may change while its videos are under way. Counted in bulk, with the lane. A pacing counter must never stand in the way of
-- money, so nothing here is refused: it is cut off at zero where it is written, and forgotten when its lane closes.
create table lane_routes (
    batch_id text collate "C" not null,
    model text not null,
    provider text collate "C" not null,
    in_flight integer not null default 0,
    primary key (batch_id, model, provider)
) with (fillfactor = 50);

grant select, insert, update on lane_routes to freezeframe_app;

insert into lane_routes (batch_id, model, provider, in_flight)
select v.batch_id, v.model, v.provider, count(*)::integer
from batch_lanes l join videos v on v.batch_id = l.batch_id and v.model = l.model
where not l.closed and v.state in ('released', 'running') and v.provider is not null
group by v.batch_id, v.model, v.provider;

-- The account that is to blame for the end of the last attempt: the next one prefers another route.
alter table videos add column avoid text;
