-- Takes videos under a new lease epoch. $1 videos, $2 claim ids (also the id of a new attempt), $3 worker.
-- A claim that was written before (same claim id) changes nothing and answers the same.
-- CTEs of equal size are not joined: the planner takes each for one row and would loop over all pairs.
with input as (
    select * from unnest($1::text[], $2::text[]) as i (video_id, claim_id)
), claimed as (
    update videos v set state = 'running', lease_epoch = v.lease_epoch + 1, claim_id = i.claim_id,
        -- a video that is still running lost its worker
        deaths = v.deaths + (v.state = 'running')::integer,
        -- one live attempt at the most: a video without an attempt so far needs no look
        attempts_made = v.attempts_made + (v.attempts_made = 0
            or not exists (select from attempts a where a.video_id = v.id and a.finished_at is null))::integer
    from input i
    where v.id = i.video_id and v.state in ('released', 'running') and v.claim_id is distinct from i.claim_id
    returning v.*
), started as (
    insert into attempts (video_id, n, id, lease_epoch, provider, upstream_model, worker, unsent)
    select id, attempts_made, claim_id, lease_epoch, provider, upstream_model, $3,
        -- an image is got before anything is sent
        case when reference_image is not null then true end
    from claimed
    where not exists (select from attempts a where a.video_id = claimed.id and a.n = claimed.attempts_made)
), resumed as (
    update attempts a set lease_epoch = c.lease_epoch, worker = $3,
        -- sent, and whoever sent it is gone: from now on nobody knows whether it was accepted
        unknown_at = coalesce(a.unknown_at, case when a.handle is null and a.unsent is not true then now() end)
    from claimed c where a.video_id = c.id and a.n = c.attempts_made and a.finished_at is null
    -- what the row says now: the snapshot may be older than the handle that its last holder has just written
    returning a.video_id, a.id, a.state, a.handle, a.sent_at, a.provider, a.upstream_model, a.unsent
), again as (
    select v.* from input i join videos v on v.id = i.video_id
    where v.state = 'running' and v.claim_id = i.claim_id
), taken as (
    select c.*, r.id as live_id, r.state as live_state, r.handle as live_handle, r.sent_at as live_sent_at,
        r.provider as live_provider, r.upstream_model as live_upstream_model, r.unsent as live_unsent
    -- empty but after a crash, when a few hundred meet a few hundred
    from claimed c left join resumed r on r.video_id = c.id
    union all
    select v.*, a.id, a.state, a.handle, a.sent_at, a.provider, a.upstream_model, a.unsent
    from again v left join attempts a on a.video_id = v.id and a.n = v.attempts_made
)
select t.id as "id!: VideoId", t.batch_id as "batch!: BatchId", t.tenant_id as "tenant!: TenantId", t.model as "model!",
    t.prompt as "prompt!", t.seconds as "seconds!", t.size as "size!", t.price_credits as "price!: Credits", t.attempts_spent as "attempts_spent!", t.waits as "waits!",
    t.lease_epoch as "epoch!", t.deaths as "deaths!", t.attempts_made as "attempt!",
    t.provider as "provider!", t.upstream_model as "upstream_model!",
    t.live_id as "live_id?: AttemptId", t.live_state as "live_state?: AttemptState", t.live_handle as "live_handle?",
    t.live_sent_at as "live_sent_at?", t.live_provider as "live_provider?", t.live_upstream_model as "live_upstream_model?",
    t.live_unsent as "live_unsent?", t.reference_image as "reference_image?",
    (extract(epoch from now() - coalesce(t.live_sent_at, now())) * 1000)::bigint as "age_ms!", now() as "now!",
    (extract(epoch from t.turn_until - clock_timestamp()) * 1000)::float8 as "turn_left_ms?"
from taken t
