-- The settlement of a batch: charges successes x price, gives back whatever is left, proves that nothing stays held and
-- gives the batch its final status. Running it again changes nothing and answers the same.
--
-- Raises 'batch_not_complete' (P0002) while a video is unsettled, and 'batch_out_of_balance' (P0003) when less is held than
-- the successes cost: then nothing is changed and a human must look.

create function finalize_batch_credits(p_batch text)
    returns table (status batch_status, charged bigint, refunded bigint, first_time boolean)
    language plpgsql
as $$
declare
    b batches;
    settled integer;
    owed bigint;
    held_now bigint;
    left_over bigint;
begin
    select * into b from batches where id = p_batch for update;
    if not found then
        raise exception 'batch % does not exist', p_batch using errcode = 'no_data_found';
    end if;

    if b.finished_at is null then
        -- a look-up for each video: a join could be planned as a walk over every settlement there is
        select count((x.s).video_id), coalesce(sum((x.s).amount) filter (where (x.s).outcome = 'charged'), 0)
            into settled, owed
            from (select (select s from settlements s where s.video_id = v.id) as s
                from videos v where v.batch_id = p_batch) x;
        if settled <> b.total or b.succeeded + b.failed <> b.total then
            raise exception 'batch_not_complete: batch % has % videos, % settled, % counted',
                p_batch, b.total, settled, b.succeeded + b.failed using errcode = 'P0002';
        end if;

        select coalesce(sum(h.held), 0) into held_now from batch_holds h where h.batch_id = p_batch;
        left_over := held_now - owed;
        if left_over < 0 then
            raise exception 'batch_out_of_balance: batch % holds % credits but its successes cost %', p_batch, held_now, owed
                using errcode = 'P0003';
        end if;

        -- wallets are shared by all of a tenant's batches: locked only where something goes back
        if left_over > 0 then
            perform from wallets w join batch_holds h on h.tenant_id = w.tenant_id and h.source = w.source
                where h.batch_id = p_batch order by w.tenant_id, w.source for update of w;
        end if;
        perform from batch_holds h where h.batch_id = p_batch order by h.source for update;

        -- what no settlement accounts for goes back, to the grants that were drawn last
        with shares as (
            select h.batch_id, h.source, h.tenant_id,
                least(h.held, greatest(0, left_over - coalesce(sum(h.held) over later, 0)))::bigint as amount
            from batch_holds h
            where h.batch_id = p_batch
            window later as (order by h.source desc rows between unbounded preceding and 1 preceding)
        ), returned as (
            update batch_holds h set refunded = h.refunded + s.amount
            from shares s where h.batch_id = s.batch_id and h.source = s.source and s.amount > 0
        ), credited as (
            update wallets w set available = w.available + s.amount
            from shares s where w.tenant_id = s.tenant_id and w.source = s.source and s.amount > 0
            returning w.tenant_id, w.source, s.amount, w.available
        )
        insert into credit_ledger (act, tenant_id, source, batch_id, from_account, to_account, amount,
            balance_of, balance_before, balance_after, video_count, actor, reason, request_id)
        select 'refund', c.tenant_id, c.source, p_batch, 'held', 'available', c.amount,
            'available', c.available - c.amount, c.available, 0, 'system', 'unsettled_remainder', b.request_id
        from credited c;

        with paid as (
            update batch_holds h set charged = h.held
            where h.batch_id = p_batch and h.held > 0
            returning h.tenant_id, h.source, h.charged
        )
        insert into credit_ledger (act, tenant_id, source, batch_id, from_account, to_account, amount,
            balance_of, balance_before, balance_after, video_count, actor, reason, request_id)
        select 'charge', p.tenant_id, p.source, p_batch, 'held', 'revenue', p.charged,
            'held', p.charged, 0, b.succeeded, 'system', 'videos_delivered', b.request_id
        from paid p;

        select coalesce(sum(h.held), 0) into held_now from batch_holds h where h.batch_id = p_batch;
        if held_now <> 0 then
            raise exception 'batch_out_of_balance: batch % still holds % credits', p_batch, held_now using errcode = 'P0003';
        end if;

        update batches set finished_at = now(), status = case
                when b.failed = 0 then 'completed' when b.succeeded = 0 then 'failed' else 'partial'
            end::batch_status
            where id = p_batch;
        first_time := true;
    else
        first_time := false;
    end if;

    select x.status into status from batches x where x.id = p_batch;
    select coalesce(sum(h.charged), 0), coalesce(sum(h.refunded), 0) into charged, refunded
        from batch_holds h where h.batch_id = p_batch;
    return next;
end
$$;
comment on function finalize_batch_credits(text) is
    'Settles a batch once: charge = successes x price, remainder refunded, held = 0, final status. Idempotent.';

revoke execute on function finalize_batch_credits(text) from public;
grant execute on function finalize_batch_credits(text) to freezeframe_app;
