-- Ends attempts, and videos where that is the verdict. Arrays of one length:
-- $1 video, $2 epoch, $3 attempt, $4 attempt state, $5 handle, $6 attempt's failure class, $7 its message,
-- $8 video state, $9 output key, $10 output bytes, $11 output SHA-256, $12 delay in ms, $13 whether an attempt is spent,
-- $14 whether the account is to blame, so that the next attempt prefers another one, $15 thumbnail's kind, $16 its bytes,
-- $17 its SHA-256, $18 claim, $19 whether provably nothing was bought.
-- Answers a row for each that took effect; `again` marks those that had taken effect before.
with input as (
    select * from unnest($1::text[], $2::int[], $3::int[], $4::text[], $5::text[], $6::text[], $7::text[],
        $8::text[], $9::text[], $10::bigint[], $11::bytea[], $12::bigint[], $13::bool[], $14::bool[],
        $15::text[], $16::int[], $17::bytea[], $18::text[], $19::bool[])
        as i (video_id, epoch, n, attempt_state, handle, class, message,
            video_state, output_key, output_bytes, output_sha256, delay_ms, spends, accounts_fault,
            thumbnail_kind, thumbnail_bytes, thumbnail_sha256, claim_id, unbought)
), refused as materialized (
    -- what the turn was counted for counts no more
    select v.id, v.turn_until, v.turn_credits from input i join videos v on v.id = i.video_id
    where i.unbought and v.turn_credits > 0 and v.lease_epoch = i.epoch and v.claim_id = i.claim_id and v.state = 'running'
), closed as (
    update videos v set
        state = i.video_state::video_state,
        eligible_at = case when i.video_state = 'waiting' then now() + i.delay_ms * interval '1 ms' end,
        finished_at = case when i.video_state <> 'waiting' then now() end,
        failure_class = case when i.video_state = 'failed' then i.class::failure_class end,
        failure_message = case when i.video_state = 'failed' then i.message end,
        avoid = case when i.video_state = 'waiting' and i.accounts_fault then v.provider end,
        -- what failed may be retried, and an upload's name is no secret; a URL may hold a signature, so that it had one is all
        -- that is kept
        reference_image = case when i.video_state = 'waiting' or i.video_state = 'failed' and v.reference_image like 'sha256:%'
            then v.reference_image end,
        image_forgotten = case when i.video_state = 'failed' and v.reference_image not like 'sha256:%' then true end,
        output_key = i.output_key, output_bytes = i.output_bytes, output_sha256 = i.output_sha256,
        thumbnail_kind = i.thumbnail_kind, thumbnail_bytes = i.thumbnail_bytes, thumbnail_sha256 = i.thumbnail_sha256,
        attempts_spent = v.attempts_spent + i.spends::integer,
        turn_until = null, turn_credits = null,
        waits = case when i.video_state = 'waiting' and not i.spends then v.waits + 1 else 0 end
    from input i
    where v.id = i.video_id and v.lease_epoch = i.epoch and v.claim_id = i.claim_id and v.state = 'running'
    returning v.id, v.batch_id, v.model, v.provider, v.price_credits, v.price_offset, v.state,
        i.n, i.attempt_state, i.handle, i.class, i.message
), unspent as (
    insert into account_spend (account, slot, credits)
    select c.provider, spend_slot(r.turn_until), -sum(r.turn_credits) from refused r join closed c on c.id = r.id
    where c.provider is not null and r.turn_until is not null group by c.provider, r.turn_until
), ended as (
    update attempts a set
        state = c.attempt_state::attempt_state, finished_at = now(),
        handle = coalesce(a.handle, c.handle),
        unsent = case when coalesce(a.handle, c.handle) is null then a.unsent end,
        accepted_at = coalesce(a.accepted_at, case when c.handle is not null then now() end),
        failure_class = c.class::failure_class, failure_message = c.message
    from closed c
    where a.video_id = c.id and a.n = c.n and a.finished_at is null
)
select id as "video!: VideoId", batch_id as "batch!: BatchId", model as "model!", provider, price_credits as "price!: Credits",
    price_offset as "price_offset!: Credits", state as "state!: VideoState", false as "again!"
from closed
union all
select v.id, v.batch_id, v.model, v.provider, v.price_credits, v.price_offset, v.state, true
from input i join videos v on v.id = i.video_id
where v.lease_epoch = i.epoch and v.claim_id = i.claim_id and v.state = i.video_state::video_state
