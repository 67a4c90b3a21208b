-- Every place where the books and the work disagree, beyond the ledger's own sums. No row: all is told once and the same.
-- The names are stable: runbooks and alarms refer to them.

-- Videos and who got their money.
select 'succeeded_video_not_charged' as "what!", v.id as "id!",
    coalesce(s.amount, 0) as "stored!", v.price_credits as "expected!"
from videos v left join settlements s on s.video_id = v.id and s.outcome = 'charged'
where v.state = 'succeeded' and s.amount is distinct from v.price_credits
union all
select 'failed_video_not_refunded', v.id, coalesce(s.amount, 0), v.price_credits
from videos v left join settlements s on s.video_id = v.id and s.outcome = 'refunded'
where v.state = 'failed' and s.amount is distinct from v.price_credits
union all
select 'open_video_settled', v.id, s.amount, 0
from videos v join settlements s on s.video_id = v.id
where v.state not in ('succeeded', 'failed')
union all
select 'settlement_without_video', s.video_id, s.amount, 0
from settlements s left join videos v on v.id = s.video_id
where v.batch_id is distinct from s.batch_id
union all
-- a refund that no ledger row names cannot be explained to the customer
select 'refund_not_in_ledger', s.video_id, 0, s.amount
from settlements s left join (
    select distinct unnest(video_ids) as video_id from credit_ledger where act = 'refund') l on l.video_id = s.video_id
where s.outcome = 'refunded' and s.amount > 0 and l.video_id is null
union all

-- Batches and their videos.
select 'batch_videos', b.id, b.total::bigint, coalesce(v.total, 0)
from batches b left join (select batch_id, count(*) as total from videos group by batch_id) v on v.batch_id = b.id
where b.total <> coalesce(v.total, 0)
union all
select 'batch_succeeded', b.id, b.succeeded::bigint, coalesce(v.succeeded, 0)
from batches b left join (
    select batch_id, count(*) as succeeded from videos where state = 'succeeded' group by batch_id) v on v.batch_id = b.id
where b.succeeded <> coalesce(v.succeeded, 0)
union all
select 'batch_failed', b.id, b.failed::bigint, coalesce(v.failed, 0)
from batches b left join (
    select batch_id, count(*) as failed from videos where state = 'failed' group by batch_id) v on v.batch_id = b.id
where b.failed <> coalesce(v.failed, 0)
union all
select 'batch_price', b.id, b.frozen_credits, coalesce(v.price, 0)
from batches b left join (
    select batch_id, sum(price_credits)::bigint as price from videos group by batch_id) v on v.batch_id = b.id
where b.frozen_credits <> coalesce(v.price, 0)
union all
select 'batch_frozen', b.id, b.frozen_credits, coalesce(h.frozen, 0)
from batches b left join (
    select batch_id, sum(frozen)::bigint as frozen from batch_holds group by batch_id) h on h.batch_id = b.id
where b.frozen_credits <> coalesce(h.frozen, 0)
union all
-- the place of a video's price decides which grant gets its refund
select 'video_price_offset', v.id, v.price_offset, v.expected
from (select id, price_offset, coalesce(sum(price_credits) over (
        partition by batch_id order by position rows between unbounded preceding and 1 preceding), 0)::bigint as expected
    from videos) v
where v.price_offset <> v.expected
union all
select 'finished_batch_events', b.id, count(e.id), 1
from batches b left join events e on e.batch_id = b.id and e.kind = 'batch.' || b.status
where b.finished_at is not null
group by b.id having count(e.id) <> 1
union all

-- Lanes, which the scheduler counts by: `batch/model`.
select 'lane_' || n.name, n.id, n.stored, n.expected
from (
    select coalesce(l.batch_id, v.batch_id) || '/' || coalesce(l.model, v.model) as id,
        l.total as lane_total, l.waiting as lane_waiting, l.settled as lane_settled, v.total, v.waiting, v.settled
    from batch_lanes l full join (
        select batch_id, model, count(*) as total, count(*) filter (where state = 'waiting') as waiting,
            count(*) filter (where state in ('succeeded', 'failed')) as settled
        from videos group by batch_id, model
    ) v on v.batch_id = l.batch_id and v.model = l.model
) lane cross join lateral (values
    ('total', lane.id, coalesce(lane.lane_total, 0)::bigint, coalesce(lane.total, 0)),
    ('waiting', lane.id, coalesce(lane.lane_waiting, 0)::bigint, coalesce(lane.waiting, 0)),
    ('settled', lane.id, coalesce(lane.lane_settled, 0)::bigint, coalesce(lane.settled, 0))
) n (name, id, stored, expected)
where n.stored <> n.expected
union all

-- Attempts at providers.
select 'video_attempts_made', v.id, v.attempts_made::bigint, count(a.n)
from videos v left join attempts a on a.video_id = v.id
group by v.id having v.attempts_made <> count(a.n)
union all
select 'video_delivered_attempts', v.id, count(a.n), (v.state = 'succeeded')::integer::bigint
from videos v left join attempts a on a.video_id = v.id and a.state = 'succeeded'
group by v.id having count(a.n) <> (v.state = 'succeeded')::integer
union all
select 'idle_video_live_attempt', v.id, count(*), 0
from videos v join attempts a on a.video_id = v.id and a.finished_at is null
where v.state in ('waiting', 'succeeded', 'failed')
group by v.id
union all
select 'attempt_without_video', a.video_id, count(*), 0
from attempts a where not exists (select from videos v where v.id = a.video_id)
group by a.video_id
union all

-- What attempts may have cost us.
select 'unresolved_attempt_without_loss', a.video_id, 0, v.price_credits
from attempts a join videos v on v.id = a.video_id
    left join provider_losses l on l.video_id = a.video_id and l.n = a.n
where a.state = 'unresolved' and l.video_id is null
union all
select 'late_success_without_loss', a.video_id, 0, v.price_credits
from late_looks a join videos v on v.id = a.video_id
    left join provider_losses l on l.video_id = a.video_id and l.n = a.n
where a.finding = 'succeeded' and l.video_id is null
union all
select 'loss_without_unresolved_attempt', l.video_id, l.credits, 0
from provider_losses l left join attempts a on a.video_id = l.video_id and a.n = l.n
    left join late_looks f on f.video_id = l.video_id and f.n = l.n
where a.state is distinct from 'unresolved' and f.finding is distinct from 'succeeded'
union all
select 'loss_not_in_ledger', l.video_id, 0, l.credits
from provider_losses l left join (
    select distinct unnest(video_ids) as video_id from credit_ledger where act = 'loss') e on e.video_id = l.video_id
where l.credits > 0 and e.video_id is null
order by 1, 2
