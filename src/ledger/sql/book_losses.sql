-- Books what attempts may have cost us: one ledger row per batch and reason. A loss that is booked already is passed over.
-- $1 video, $2 attempt, $3 batch, $4 credits, $5 reason (arrays of one length). The batches are locked by the caller.
-- Answers the sum of what was booked now.
with input as (
    select * from unnest($1::text[], $2::int[], $3::text[], $4::bigint[], $5::text[])
        as i (video_id, n, batch_id, credits, reason)
), booked as (
    insert into provider_losses (video_id, n, tenant_id, batch_id, reason, credits)
    select i.video_id, i.n, b.tenant_id, i.batch_id, i.reason, i.credits
    from input i join batches b on b.id = i.batch_id
    order by i.video_id, i.n
    on conflict (video_id, n) do nothing
    returning video_id, n, batch_id, reason, credits
), acts as (
    select batch_id, reason, sum(credits)::bigint as amount, count(*)::integer as video_count,
        array_agg(video_id order by video_id, n) as video_ids
    from booked where credits > 0 group by batch_id, reason
), entries as (
    insert into credit_ledger (act, tenant_id, batch_id, from_account, to_account, amount,
        balance_of, balance_before, balance_after, video_count, video_ids, actor, reason, request_id)
    select 'loss', b.tenant_id, a.batch_id, 'provider_payable', 'provider_loss', a.amount, 'provider_loss',
        so_far.amount + (sum(a.amount) over batch)::bigint - a.amount, so_far.amount + (sum(a.amount) over batch)::bigint,
        a.video_count, a.video_ids, 'system', a.reason, b.request_id
    from acts a join batches b on b.id = a.batch_id
        cross join lateral (select coalesce(sum(l.amount), 0)::bigint as amount
            from credit_ledger l where l.batch_id = a.batch_id and l.act = 'loss') so_far
    window batch as (partition by a.batch_id order by a.reason)
    order by a.batch_id, a.reason
    returning amount
)
select coalesce(sum(amount), 0)::bigint as "booked!" from entries
