-- Every place where a stored balance and the entries behind it disagree. No row: the books are right.
select 'wallet' as "what!", w.tenant_id || '/' || w.source as "id!", w.available as "stored!",
    coalesce(sum(case when l.to_account = 'available' then l.amount when l.from_account = 'available' then -l.amount end), 0)::bigint as "expected!"
from wallets w left join credit_ledger l on l.tenant_id = w.tenant_id and l.source = w.source
group by w.tenant_id, w.source, w.available
having w.available <> coalesce(sum(case when l.to_account = 'available' then l.amount when l.from_account = 'available' then -l.amount end), 0)
union all
select 'batch_hold', h.batch_id || '/' || h.source, h.held,
    coalesce(sum(case when l.to_account = 'held' then l.amount when l.from_account = 'held' then -l.amount end), 0)::bigint
from batch_holds h left join credit_ledger l on l.batch_id = h.batch_id and l.source = h.source
group by h.batch_id, h.source, h.held
having h.held <> coalesce(sum(case when l.to_account = 'held' then l.amount when l.from_account = 'held' then -l.amount end), 0)
union all
select 'hold_of_unfinished_batch', b.id, coalesce((select sum(held) from batch_holds h where h.batch_id = b.id), 0)::bigint,
    (b.frozen_credits - coalesce(sum(s.amount) filter (where s.outcome = 'refunded'), 0))::bigint
from batches b left join settlements s on s.batch_id = b.id
where b.finished_at is null
group by b.id
having coalesce((select sum(held) from batch_holds h where h.batch_id = b.id), 0)
    <> b.frozen_credits - coalesce(sum(s.amount) filter (where s.outcome = 'refunded'), 0)
union all
select 'hold_of_finished_batch', b.id, sum(h.held)::bigint, 0
from batches b join batch_holds h on h.batch_id = b.id
where b.finished_at is not null
group by b.id having sum(h.held) <> 0
union all
select 'hold_without_batch', h.batch_id, h.held, 0
from batch_holds h where not exists (select from batches b where b.id = h.batch_id)
union all
select 'charge_of_finished_batch', b.id, coalesce((select sum(h.charged) from batch_holds h where h.batch_id = b.id), 0)::bigint,
    coalesce(sum(s.amount) filter (where s.outcome = 'charged'), 0)::bigint
from batches b left join settlements s on s.batch_id = b.id
where b.finished_at is not null
group by b.id
having coalesce((select sum(h.charged) from batch_holds h where h.batch_id = b.id), 0)
    <> coalesce(sum(s.amount) filter (where s.outcome = 'charged'), 0)
union all
select 'settled_videos', b.id, count(s.video_id), (b.succeeded + b.failed)::bigint
from batches b left join settlements s on s.batch_id = b.id
group by b.id having count(s.video_id) <> b.succeeded + b.failed
union all
-- what is booked of attempts and what the ledger says of their batch
select 'provider_loss_of_batch', coalesce(p.batch_id, l.batch_id), coalesce(p.credits, 0)::bigint, coalesce(l.amount, 0)::bigint
from (select batch_id, sum(credits) as credits from provider_losses group by batch_id) p
    full join (select batch_id, sum(amount) as amount from credit_ledger where act = 'loss' group by batch_id) l
        on l.batch_id = p.batch_id
where coalesce(p.credits, 0) <> coalesce(l.amount, 0)
order by 1, 2
