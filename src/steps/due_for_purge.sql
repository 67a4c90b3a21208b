-- Marks files whose time is over, and answers them together with those that were marked before and are still there.
-- $1 days for tenants without a retention of their own, $2 rows at most. What was marked before goes first.
with due as (
    (select v.id from videos v where v.purging_at is not null and v.purged_at is null limit $2)
    union all
    (select v.id
     from tenants t
         cross join lateral (select now() - coalesce(t.retention_days, $1) * interval '24 hours' as stored_until) r
         cross join lateral (
             select b.id from batches b
             where b.tenant_id = t.id and b.purged_at is null and b.created_at <= r.stored_until
             order by b.created_at limit 200) b
         join videos v on v.batch_id = b.id
     where v.state = 'succeeded' and v.purging_at is null and v.finished_at <= r.stored_until
     limit $2)
    limit $2
)
update videos v set purging_at = coalesce(v.purging_at, now())
from due where v.id = due.id
returning v.id as "video: VideoId", v.batch_id as "batch: BatchId", v.tenant_id as "tenant: TenantId", v.output_key as "key!"
