-- Batches of a tenant with counts and money of one moment.
-- $1 tenant, $2 and $3 the range of ids, $4 status or null, $5 rows at the most. $3 itself is left out unless it is $2 too:
-- then one batch is asked for. A range and no "or null", which a plan for every value would read all batches of the tenant for.
select b.id as "id: BatchId", b.status as "status: BatchStatus", b.total,
    coalesce((select sum(l.waiting) from batch_lanes l where l.batch_id = b.id), 0)::integer as "waiting!",
    b.succeeded, b.failed, b.cancelled, b.expired, b.frozen_credits as "frozen: Credits",
    coalesce(h.charged, 0)::bigint as "charged!: Credits", coalesce(h.refunded, 0)::bigint as "refunded!: Credits",
    coalesce(h.held, 0)::bigint as "held!: Credits",
    (select l.waiting_for from batch_lanes l where l.batch_id = b.id and l.waiting > 0
        order by l.waiting desc, l.model limit 1) as "waiting_for?: WaitingReason",
    b.request_id, b.webhook_url, b.metadata, b.videos_per_minute,
    b.priority, b.complete_by,
    case when b.finished_at is null and b.cancelled_at is null then b.paused_at end as paused_at, b.cancelled_at, b.created_at, b.started_at, b.finished_at,
    b.retry_of as "retry_of: BatchId",
    (select array_agg(r.id order by r.id) from batches r where r.retry_of = b.id and r.tenant_id = b.tenant_id)
        as "retried_by?: Vec<BatchId>",
    o.ahead as "ahead?", o.starts_at as "starts_at?", o.finishes_at as "finishes_at?"
from batches b
    left join lateral (
        select sum(charged) as charged, sum(refunded) as refunded, sum(held) as held
        from batch_holds where batch_id = b.id
    ) h on true
    left join batch_outlooks o on o.batch_id = b.id and b.finished_at is null and b.cancelled_at is null
where b.tenant_id = $1 and b.id >= $2 and b.id <= $3 and (b.id < $3 or b.id = $2)
    and ($4::batch_status is null or b.status = $4)
order by b.id desc
limit $5
