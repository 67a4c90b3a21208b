-- Releases waiting videos lane by lane, the longest eligible first. Arrays of one length: $1 batch, $2 model, $3 videos at
-- the most, $4 provider account, $5 upstream model.
with share as (
    select * from unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[])
        as s (batch_id, model, videos, provider, upstream_model)
), chosen as (
    select v.id, s.provider, s.upstream_model
    from share s cross join lateral (
        select id from videos
        where batch_id = s.batch_id and model = s.model and eligible_at is not null and eligible_at <= now()
        -- not locked: only the leader releases, and its lease is locked
        order by eligible_at, position limit s.videos
    ) v
), released as (
    update videos v set state = 'released', eligible_at = null, provider = c.provider, upstream_model = c.upstream_model
    from chosen c where v.id = c.id and v.state = 'waiting'
    returning v.id, v.batch_id, v.model
), counted as (
    update batch_lanes l set waiting = l.waiting - r.videos
    from (select batch_id, model, count(*)::integer as videos from released group by batch_id, model) r
    where l.batch_id = r.batch_id and l.model = r.model
), started as (
    update batches b set status = 'processing', started_at = now()
    where b.id in (select batch_id from released) and b.status = 'queued'
)
select id as "id: VideoId", batch_id as "batch: BatchId", model from released
