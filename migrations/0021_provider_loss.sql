-- What providers may have charged us for nothing. Customers' money and providers' money are separate books: a loss moves
-- from `provider_payable`, what we may owe a provider, to `provider_loss`, and touches no wallet and no hold. It belongs to
-- no source of credits; the balance that its row shows is the sum of its batch's losses.

-- One loss of an attempt, whoever books it and however often.
create table provider_losses (
    video_id text collate "C" not null,
    n integer not null,
    tenant_id text collate "C" not null,
    batch_id text collate "C" not null,
    reason text not null check (reason in ('outcome_unknown', 'late_success')),
    credits bigint not null check (credits >= 0),
    booked_at timestamptz not null default now(),
    primary key (video_id, n)
);
create trigger provider_losses_append_only before update or delete or truncate on provider_losses
    for each statement execute function refuse_to_rewrite_history();
grant select, insert on provider_losses to freezeframe_app;
-- no customer's to see, though it names the tenant whose video it was about
alter table provider_losses enable row level security;
create policy across_tenants on provider_losses to freezeframe_app using (true) with check (true);
create policy losses_are_ours on credit_ledger as restrictive for select to freezeframe_api using (act <> 'loss');

-- The checks that name acts are replaced by ones that know of the new act; an act without a rule is refused.
do $$
declare
    law record;
begin
    for law in select conname from pg_constraint
        where conrelid = 'credit_ledger'::regclass and contype = 'c' and pg_get_constraintdef(oid) like '%''refund''%'
    loop
        execute format('alter table credit_ledger drop constraint %I', law.conname);
    end loop;
end
$$;
alter table credit_ledger
    alter column source drop not null,
    add constraint credit_ledger_source_check check ((source is null) = (act = 'loss')),
    add constraint credit_ledger_batch_check
        check ((batch_id is not null) = (act in ('freeze', 'charge', 'refund', 'loss'))),
    add constraint credit_ledger_accounts_check check (case act
        when 'grant' then from_account = 'issued' and to_account = 'available' and balance_of = 'available'
        when 'freeze' then from_account = 'available' and to_account = 'held' and balance_of = 'available'
        when 'charge' then from_account = 'held' and to_account = 'revenue' and balance_of = 'held'
        when 'refund' then from_account = 'held' and to_account = 'available' and balance_of = 'available'
        when 'adjustment' then balance_of = 'available'
            and ((from_account = 'issued' and to_account = 'available') or (from_account = 'available' and to_account = 'issued'))
        when 'loss' then from_account = 'provider_payable' and to_account = 'provider_loss' and balance_of = 'provider_loss'
        else false
    end),
    add constraint credit_ledger_videos_check
        check (act not in ('refund', 'loss') or cardinality(video_ids) = video_count);
-- the balance before a loss
create index credit_ledger_losses on credit_ledger (batch_id, id) where act = 'loss';

-- Attempts that had ended without a known outcome before there was this book.
insert into provider_losses (video_id, n, tenant_id, batch_id, reason, credits)
select a.video_id, a.n, v.tenant_id, v.batch_id, 'outcome_unknown', v.price_credits
from attempts a join videos v on v.id = a.video_id
where a.state = 'unresolved';
insert into credit_ledger (act, tenant_id, batch_id, from_account, to_account, amount,
    balance_of, balance_before, balance_after, video_count, video_ids, actor, reason, request_id)
select 'loss', b.tenant_id, b.id, 'provider_payable', 'provider_loss', sum(l.credits),
    'provider_loss', 0, sum(l.credits), count(*), array_agg(l.video_id order by l.video_id), 'system', 'outcome_unknown', b.request_id
from provider_losses l join batches b on b.id = l.batch_id
where l.credits > 0
group by b.id order by b.id;
