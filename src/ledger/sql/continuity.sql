-- Whether the entries make one unbroken story: each belongs to a wallet, and each balance begins where the one before ended.
-- Entries of one balance have ascending ids: every writer locks the balance before it takes the id. No row: unbroken.
select 'entry_without_wallet' as "what!", l.tenant_id || '/' || l.source as "id!", count(*) as "stored!", 0::bigint as "expected!"
from credit_ledger l
-- a loss is no wallet's
where l.source is not null and not exists (select from wallets w where w.tenant_id = l.tenant_id and w.source = l.source)
group by l.tenant_id, l.source
union all
select 'balance_continuity', l.id::text, l.balance_before, l.previous
from (select id, balance_before,
        coalesce(lag(balance_after) over (partition by tenant_id, source order by id), 0)::bigint as previous
    from credit_ledger where balance_of = 'available') l
where l.balance_before <> l.previous
union all
-- a charge takes whatever the freeze left held after every refund before it
select 'held_continuity', l.id::text, l.balance_before, l.previous
from (select id, balance_of, balance_before,
        coalesce(sum(case when to_account = 'held' then amount when from_account = 'held' then -amount end)
            over (partition by batch_id, source order by id rows between unbounded preceding and 1 preceding), 0)::bigint
            as previous
    from credit_ledger where batch_id is not null) l
where l.balance_of = 'held' and l.balance_before <> l.previous
order by 1, 2
