-- Sets the price of a batch aside: draws the grants in their order, records what each pays, all or nothing.
-- $1 tenant, $2 batch, $3 amount, $4 videos, $5 actor, $6 reason, $7 request id. Answers one row, frozen or not.
-- The wallets were locked by a statement before this one. If this one waited for them itself, it would be evaluated anew for
-- each row that had changed, without those that it had changed already, and could find too little.
with purse as (
    select source, available from wallets where tenant_id = $1
), line as (
    select source, available,
        coalesce(sum(available) over (order by source rows between unbounded preceding and 1 preceding), 0) as starts_at
    from purse
), drawn as (
    select source, starts_at::bigint as starts_at, least(available, $3::bigint - starts_at)::bigint as amount
    from line
    where available > 0 and starts_at < $3::bigint and (select coalesce(sum(available), 0) from purse) >= $3::bigint
), debited as (
    update wallets w set available = w.available - d.amount
    from drawn d
    where w.tenant_id = $1 and w.source = d.source and w.available >= d.amount
    returning w.source, d.starts_at, d.amount, w.available as after
), holds as (
    insert into batch_holds (batch_id, source, tenant_id, starts_at, frozen)
    select $2, source, $1, starts_at, amount from debited
), entries as (
    insert into credit_ledger (act, tenant_id, source, batch_id, from_account, to_account, amount,
        balance_of, balance_before, balance_after, video_count, actor, reason, request_id)
    select 'freeze', $1, source, $2, 'available', 'held', amount,
        'available', after + amount, after, $4::integer, $5::text, $6::text, $7::text
    from debited order by source
)
select
    (select coalesce(sum(amount), 0) from debited)::bigint as "frozen!",
    (select coalesce(sum(available), 0) from purse)::bigint as "available_before!"
