-- Orders and their videos. The row is the truth; a queue job is only a wake-up.
--
-- These tables are hot: every video passes through several updates. So no foreign keys here (rows are never deleted, and
-- each is written in the transaction that wrote its parent), few indexes, room on each page for updates in place, and no
-- index that names `state`, so that claims and endings stay in place.

create table batches (
    id text collate "C" primary key,
    tenant_id text collate "C" not null,
    status batch_status not null default 'queued',
    total integer not null check (total > 0),
    succeeded integer not null default 0 check (succeeded >= 0),
    failed integer not null default 0 check (failed >= 0),
    frozen_credits bigint not null check (frozen_credits >= 0),
    request_id text not null,
    webhook_url text,
    metadata jsonb,
    created_at timestamptz not null default now(),
    started_at timestamptz,
    finished_at timestamptz,
    check (succeeded + failed <= total),
    check ((finished_at is not null) = (status in ('completed', 'partial', 'failed'))),
    check (finished_at is null or succeeded + failed = total),
    check (status <> 'completed' or succeeded = total),
    check (status <> 'partial' or (succeeded > 0 and failed > 0)),
    check (status <> 'failed' or failed = total)
) with (fillfactor = 50);
create index batches_of_tenant on batches (tenant_id, id);

-- The part of a batch that asks for one model: what the scheduler chooses between.
create table batch_lanes (
    batch_id text collate "C" not null,
    model text not null,
    tenant_id text collate "C" not null,
    total integer not null check (total > 0),
    waiting integer not null check (waiting >= 0),
    settled integer not null default 0 check (settled >= 0),
    closed boolean not null default false,
    primary key (batch_id, model),
    check (waiting + settled <= total),
    check (closed = (settled = total))
) with (fillfactor = 50);
create index batch_lanes_open on batch_lanes (tenant_id, batch_id) where not closed;

create table videos (
    id text collate "C" primary key,
    batch_id text collate "C" not null,
    tenant_id text collate "C" not null,
    position integer not null check (position >= 0),
    model text not null,
    prompt text not null,
    seconds integer not null check (seconds > 0),
    size text not null,
    custom_id text,
    metadata jsonb,
    price_credits bigint not null check (price_credits >= 0),
    -- credits of the batch's earlier videos: places the video's price in the batch's frozen amount, so that it is known
    -- which grant pays for it
    price_offset bigint not null check (price_offset >= 0),
    state video_state not null default 'waiting',
    -- from when on it may be released; set while it waits
    eligible_at timestamptz default now(),
    -- grows with every claim; whoever writes with an older one is refused
    lease_epoch integer not null default 0,
    -- the claim that made the present epoch, so that a repeated claim is recognised
    claim_id text collate "C",
    provider text,
    upstream_model text,
    attempts_made integer not null default 0 check (attempts_made >= 0),
    attempts_spent integer not null default 0 check (attempts_spent >= 0),
    waits integer not null default 0 check (waits >= 0),
    deaths integer not null default 0 check (deaths >= 0),
    failure_class failure_class,
    failure_message text,
    output_key text,
    output_bytes bigint check (output_bytes > 0),
    output_sha256 bytea check (octet_length(output_sha256) = 32),
    created_at timestamptz not null default now(),
    finished_at timestamptz,
    check ((eligible_at is not null) = (state = 'waiting')),
    check ((finished_at is not null) = (state in ('succeeded', 'failed'))),
    check ((failure_class is not null) = (state = 'failed')),
    check ((output_key is not null) = (state = 'succeeded')),
    check ((output_key is null) = (output_sha256 is null) and (output_key is null) = (output_bytes is null)),
    check (attempts_spent <= attempts_made)
) with (fillfactor = 50);
create unique index videos_of_batch on videos (batch_id, position);
create index videos_waiting on videos (batch_id, model, eligible_at, position) where eligible_at is not null;

-- One try at a provider. Written as `sent` before the first byte leaves.
create table attempts (
    video_id text collate "C" not null,
    n integer not null check (n > 0),
    id text collate "C" not null,
    state attempt_state not null default 'sent',
    -- the claim's epoch: only its holder may write here
    lease_epoch integer not null,
    provider text not null,
    upstream_model text not null,
    worker text not null,
    sent_at timestamptz not null default now(),
    handle text,
    accepted_at timestamptz,
    finished_at timestamptz,
    failure_class failure_class,
    failure_message text,
    primary key (video_id, n),
    check ((finished_at is null) = (state in ('sent', 'accepted', 'unknown'))),
    check (state <> 'accepted' or handle is not null),
    check (state <> 'succeeded' or handle is not null)
) with (fillfactor = 50);
-- at most one live attempt of a video
create unique index attempts_live on attempts (video_id) where finished_at is null;
-- a job at a provider belongs to one attempt
create unique index attempts_handle on attempts (provider, handle) where handle is not null;

grant select, insert, update on batches, batch_lanes, videos, attempts to freezeframe_app;
