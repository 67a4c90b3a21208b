-- Refunds video by video, and records beyond the money that stand in two places. No row: they agree.

-- An entry speaks for several videos in one sum, of which each has the share that the entry's grant had paid.
with named as (
    select l.id, l.amount, l.video_count, n.video_id,
        least(v.price_offset + v.price_credits, h.starts_at + h.frozen) - greatest(v.price_offset, h.starts_at) as share
    from credit_ledger l cross join lateral unnest(l.video_ids) as n (video_id)
        left join videos v on v.id = n.video_id
        left join batch_holds h on h.batch_id = l.batch_id and h.source = l.source
            and h.starts_at < v.price_offset + v.price_credits and v.price_offset < h.starts_at + h.frozen
    where l.act = 'refund'
)
select 'refund_amount' as "what!", id::text as "id!", amount as "stored!", coalesce(sum(share), 0)::bigint as "expected!"
from named
group by id, amount having amount <> coalesce(sum(share), 0)
union all
-- each grant that paid for a video gives its share back once: together the price of a failed video, nothing of another
select 'video_refunds', s.video_id, coalesce(r.refunded, 0)::bigint,
    case s.outcome when 'refunded' then s.amount else 0 end
from settlements s
    left join (select video_id, sum(share) as refunded from named group by video_id) r on r.video_id = s.video_id
where coalesce(r.refunded, 0) <> case s.outcome when 'refunded' then s.amount else 0 end
union all
select 'key_without_batch', k.tenant_id || '/' || k.key, 0, 1
from idempotency_keys k
where not exists (select from batches b where b.id = substr(k.answer ->> 'batch_id', 5) and b.tenant_id = k.tenant_id)
union all
-- what the scheduler counts against an account's limit: `batch/model/account`
select 'lane_in_flight', coalesce(r.batch_id || '/' || r.model || '/' || r.provider,
        v.batch_id || '/' || v.model || '/' || v.provider), coalesce(r.in_flight, 0)::bigint, coalesce(v.videos, 0)
from lane_routes r full join (
    select batch_id, model, provider, count(*) as videos from videos
    where state in ('released', 'running') and provider is not null
    group by batch_id, model, provider
) v on v.batch_id = r.batch_id and v.model = r.model and v.provider = r.provider
where coalesce(r.in_flight, 0) <> coalesce(v.videos, 0)
union all
-- a job that was taken and that nobody could find again
select 'attempt_without_handle', a.video_id || '/' || a.n, 0, 1
from attempts a
where a.state in ('accepted', 'succeeded') and a.handle is null
order by 1, 2
