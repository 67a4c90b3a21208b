-- Money. One credit is one US cent at list price; every amount is a whole, positive number.
--
-- `wallets` and `batch_holds` are the balances that a check must read at once; `credit_ledger` is what happened. A ledger
-- row moves one amount from one account to another, so the sum over all accounts is zero by construction; `issued` and
-- `revenue` have no stored balance, they are the sums of their rows.

create table wallets (
    tenant_id text collate "C" not null references tenants,
    source grant_source not null,
    available bigint not null default 0 check (available >= 0),
    primary key (tenant_id, source)
) with (fillfactor = 50);

-- What a batch holds of each grant. The batch's price is laid out as a line of credits in item order; a grant pays the
-- stretch [starts_at, starts_at + frozen) of it, and a video's refund goes to whichever grants pay its stretch.
create table batch_holds (
    batch_id text collate "C" not null,
    source grant_source not null,
    tenant_id text collate "C" not null,
    starts_at bigint not null check (starts_at >= 0),
    frozen bigint not null check (frozen > 0),
    refunded bigint not null default 0 check (refunded >= 0),
    charged bigint not null default 0 check (charged >= 0),
    held bigint not null generated always as (frozen - refunded - charged) stored check (held >= 0),
    primary key (batch_id, source)
) with (fillfactor = 50);

-- Who got a video's money. The primary key is the promise that it happens once.
create table settlements (
    video_id text collate "C" primary key,
    batch_id text collate "C" not null,
    outcome settlement_outcome not null,
    amount bigint not null check (amount >= 0),
    settled_at timestamptz not null default now()
);

create table credit_ledger (
    id bigint generated always as identity primary key,
    at timestamptz not null default now(),
    act ledger_act not null,
    tenant_id text collate "C" not null,
    source grant_source not null,
    batch_id text collate "C",
    from_account ledger_account not null,
    to_account ledger_account not null,
    amount bigint not null check (amount > 0),
    -- whose balance the two next columns show: the tenant's available credits of this source, or the batch's held ones
    balance_of ledger_account not null,
    balance_before bigint not null check (balance_before >= 0),
    balance_after bigint not null check (balance_after >= 0),
    -- how many videos the row speaks for, and which; no ids stands for all of the batch (freeze) or all its successes (charge)
    video_count integer not null check (video_count >= 0),
    video_ids text[] not null default '{}',
    actor text not null check (actor <> ''),
    reason text not null check (reason <> ''),
    request_id text not null check (request_id <> ''),
    check (from_account <> to_account),
    check ((batch_id is not null) = (act in ('freeze', 'charge', 'refund'))),
    check (balance_after - balance_before = case when from_account = balance_of then -amount else amount end),
    check (balance_of in (from_account, to_account)),
    check (case act
        when 'grant' then from_account = 'issued' and to_account = 'available' and balance_of = 'available'
        when 'freeze' then from_account = 'available' and to_account = 'held' and balance_of = 'available'
        when 'charge' then from_account = 'held' and to_account = 'revenue' and balance_of = 'held'
        when 'refund' then from_account = 'held' and to_account = 'available' and balance_of = 'available'
        when 'adjustment' then balance_of = 'available'
            and ((from_account = 'issued' and to_account = 'available') or (from_account = 'available' and to_account = 'issued'))
    end),
    check (act <> 'refund' or cardinality(video_ids) = video_count)
);
create index credit_ledger_of_tenant on credit_ledger (tenant_id, id);
create index credit_ledger_of_batch on credit_ledger (batch_id, id) where batch_id is not null;
-- one freeze and one charge of a batch for each grant
create unique index credit_ledger_one_freeze on credit_ledger (batch_id, source) where act = 'freeze';
create unique index credit_ledger_one_charge on credit_ledger (batch_id, source) where act = 'charge';

create function refuse_to_rewrite_history() returns trigger language plpgsql as $$
begin
    raise exception '% of % is refused: entries are only ever added; book an adjustment instead', tg_op, tg_table_name
        using errcode = 'insufficient_privilege';
end
$$;
create trigger credit_ledger_append_only before update or delete or truncate on credit_ledger
    for each statement execute function refuse_to_rewrite_history();
create trigger settlements_append_only before update or delete or truncate on settlements
    for each statement execute function refuse_to_rewrite_history();

grant select, insert, update on wallets to freezeframe_app;
grant select, insert on batch_holds to freezeframe_app;
grant update (refunded, charged) on batch_holds to freezeframe_app;
grant select, insert on credit_ledger, settlements to freezeframe_app;
