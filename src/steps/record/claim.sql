-- Takes videos under a new lease epoch. $1 videos, $2 claim ids (also the id of a new attempt), $3 worker, $4 batch size.
-- A claim that was written before (same claim id) changes nothing and answers the same.
with input as (
    select * from unnest($1::text[], $2::text[]) as i (video_id, claim_id)
), held as (
    select v.id, i.claim_id, v.claim_id is not distinct from i.claim_id as again,
        (select a.n from attempts a where a.video_id = v.id and a.finished_at is null) as live_n
    from input i join videos v on v.id = i.video_id
    where v.state in ('released', 'running')
), claimed as (
    update videos v set state = 'running', lease_epoch = v.lease_epoch + 1, claim_id = h.claim_id,
        -- a video that is still running lost its worker
        deaths = v.deaths + (v.state = 'running')::integer,
        attempts_made = v.attempts_made + (h.live_n is null)::integer
    from held h
    where v.id = h.id and not h.again and v.state in ('released', 'running')
    returning v.id, v.lease_epoch, v.claim_id, v.deaths, v.attempts_made, v.provider, v.upstream_model, h.live_n
), started as (
    insert into attempts (video_id, n, id, lease_epoch, provider, upstream_model, worker)
    select id, attempts_made, claim_id, lease_epoch, provider, upstream_model, $3 from claimed where live_n is null
), resumed as (
    update attempts a set lease_epoch = c.lease_epoch, worker = $3
    from claimed c where a.video_id = c.id and a.n = c.live_n
)
select v.id as "id: VideoId", v.batch_id as "batch: BatchId", v.tenant_id as "tenant: TenantId", v.model, v.prompt, v.seconds, v.size,
    v.attempts_spent, v.waits,
    coalesce(c.lease_epoch, v.lease_epoch) as "epoch!", coalesce(c.deaths, v.deaths) as "deaths!",
    coalesce(c.attempts_made, v.attempts_made) as "attempts_made!",
    v.provider as "provider!", v.upstream_model as "upstream_model!",
    a.n as "live_n?", a.id as "live_id?: AttemptId", a.state as "live_state?: AttemptState", a.handle as "live_handle?", a.sent_at as "live_sent_at?",
    a.provider as "live_provider?", a.upstream_model as "live_upstream_model?",
    (extract(epoch from now() - coalesce(a.sent_at, now())) * 1000)::bigint as "age_ms!", now() as "now!"
from held h
    join videos v on v.id = h.id
    left join claimed c on c.id = h.id
    left join attempts a on a.video_id = h.id and a.n = h.live_n
where h.again or c.id is not null
