-- Circuits of provider accounts: creates that fail one after the other by the account's fault shut it, for pauses that become
-- longer, until a create is taken again.

alter type waiting_reason add value 'circuit_open' after 'out_of_quota';

alter table provider_accounts
    -- while it is closed: the attempts whose creates failed since the last one that is known to have been taken, each once,
    -- and when the last of them was recorded
    add column circuit_faults text[] not null default '{}',
    add column circuit_fault_at timestamptz,
    -- while it is open: since when, and the pause before the next probe, without its jitter
    add column circuit_opened_at timestamptz,
    add column circuit_pause_ms bigint check (circuit_pause_ms > 0),
    add check ((circuit_opened_at is null) = (circuit_pause_ms is null)),
    add check ((circuit_fault_at is null) = (circuit_faults = '{}')),
    add check (circuit_opened_at is null or circuit_faults = '{}');

-- the laws that are to know of circuits, whatever they are called
do $$
declare
    law record;
begin
    for law in
        select conrelid::regclass as law_of, conname from pg_constraint
        where contype = 'c' and (
            conrelid = 'provider_accounts'::regclass and pg_get_constraintdef(oid) like '%probe_at%quota_exhausted_at%'
            or conrelid = 'provider_account_changes'::regclass and pg_get_constraintdef(oid) like '%answered_again%')
    loop
        execute format('alter table %s drop constraint %I', law.law_of, law.conname);
    end loop;
end
$$;
alter table provider_accounts add constraint provider_accounts_probe_check check (
    (probe_at is not null) = (quota_exhausted_at is not null or refused_at is not null or circuit_opened_at is not null));
alter table provider_account_changes add constraint provider_account_changes_act_check check (act in
    ('stop', 'start', 'quota_exhausted', 'refused', 'answered_again', 'circuit_opened', 'circuit_closed'));
