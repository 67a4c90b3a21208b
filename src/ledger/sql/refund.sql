-- Gives failed videos' prices back, each to the grants that paid for it: one ledger row per batch, grant and failure type.
-- $1 video, $2 batch, $3 price offset, $4 price, $5 reason (arrays of one length). Answers the sum of what was given back.
with failed as (
    select * from unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::text[])
        as f (video_id, batch_id, starts_at, price, reason)
    -- what cost nothing gives nothing back, and the ledger has no entry of nothing
    where price > 0
), shares as (
    select h.batch_id, h.source, h.tenant_id, f.reason, f.video_id,
        least(f.starts_at + f.price, h.starts_at + h.frozen) - greatest(f.starts_at, h.starts_at) as amount
    from failed f join batch_holds h
        on h.batch_id = f.batch_id and h.starts_at < f.starts_at + f.price and f.starts_at < h.starts_at + h.frozen
), acts as (
    select batch_id, source, tenant_id, reason, sum(amount)::bigint as amount,
        count(*)::integer as video_count, array_agg(video_id order by video_id) as video_ids
    from shares group by batch_id, source, tenant_id, reason
), locked as (
    select w.tenant_id, w.source from wallets w
    where (w.tenant_id, w.source) in (select tenant_id, source from acts)
    order by w.tenant_id, w.source for update
), credited as (
    update wallets w set available = w.available + a.amount
    from (select tenant_id, source, sum(amount)::bigint as amount from acts
        -- counted, so that every wallet is locked, in order, before any is credited
        where (select count(*) from locked) > 0 group by tenant_id, source) a
    where w.tenant_id = a.tenant_id and w.source = a.source
    returning w.tenant_id, w.source, w.available - a.amount as before
), returned as (
    update batch_holds h set refunded = h.refunded + a.amount
    from (select batch_id, source, sum(amount)::bigint as amount from acts group by batch_id, source) a
    where h.batch_id = a.batch_id and h.source = a.source
    returning h.batch_id, h.source
), entries as (
    insert into credit_ledger (act, tenant_id, source, batch_id, from_account, to_account, amount,
        balance_of, balance_before, balance_after, video_count, video_ids, actor, reason, request_id)
    select 'refund', a.tenant_id, a.source, a.batch_id, 'held', 'available', a.amount, 'available',
        c.before + (sum(a.amount) over wallet)::bigint - a.amount, c.before + (sum(a.amount) over wallet)::bigint,
        a.video_count, a.video_ids, 'system', a.reason, b.request_id
    from acts a
        join credited c on c.tenant_id = a.tenant_id and c.source = a.source
        join returned r on r.batch_id = a.batch_id and r.source = a.source
        join batches b on b.id = a.batch_id
    window wallet as (partition by a.tenant_id, a.source order by a.batch_id, a.reason)
    order by a.tenant_id, a.source, a.batch_id, a.reason
    returning amount
)
select coalesce(sum(amount), 0)::bigint as "refunded!" from entries
