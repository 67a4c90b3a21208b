-- Batches that are cancelled, or that have to be complete by some time: what has not begun then is ended and refunded.

-- what the provider threw away before we had it
alter type failure_class rename value 'expired' to 'output_expired';
alter type failure_class add value 'cancelled';
alter type failure_class add value 'expired';

alter table batches add column cancelled_at timestamptz;
alter table batches add column complete_by timestamptz;
-- of the failed ones
alter table batches add column cancelled integer not null default 0 check (cancelled >= 0);
alter table batches add column expired integer not null default 0 check (expired >= 0);
alter table batches add constraint batches_withdrawn_check check (cancelled + expired <= failed);
create index batches_to_withdraw on batches (id)
    where finished_at is null and (cancelled_at is not null or complete_by is not null);

grant insert (complete_by), update (cancelled_at) on batches to freezeframe_api;

create function refuse_second_thoughts() returns trigger language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
    raise exception 'batch % was cancelled and stays so', old.id using errcode = 'check_violation';
end
$$;
create trigger batches_stay_cancelled before update of cancelled_at on batches for each row
    when (old.cancelled_at is not null and new.cancelled_at is distinct from old.cancelled_at)
    execute function refuse_second_thoughts();
