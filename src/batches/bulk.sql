-- Batches that an operator's action would change, oldest first, each with its videos that wait.
-- Where anything will do, null: $1 tenant, $2 model, $3 status, $4 ordered before, $5 ordered since, $6 ids.
-- $7 the action, $8 until when it is to pause (null: until somebody resumes), $9 and $10 the scope and rule of a pause.
select b.id as "id: BatchId",
    coalesce((select sum(l.waiting) from batch_lanes l where l.batch_id = b.id), 0)::bigint as "waiting!"
from batches b
where b.finished_at is null
    and ($1::text is null or b.tenant_id = $1)
    and ($2::text is null or exists (select from batch_lanes l where l.batch_id = b.id and l.model = $2))
    and ($3::batch_status is null or b.status = $3)
    and ($4::timestamptz is null or b.created_at < $4)
    and ($5::timestamptz is null or b.created_at >= $5)
    and ($6::text[] is null or b.id = any($6))
    and case $7::text
        when 'cancel' then b.cancelled_at is null
        -- not if it is paused for as long already
        when 'pause' then b.cancelled_at is null and not exists (
            select from limits l where l.scope = $9 and l.rule = $10 and l.subject = b.id
                and (l.expires_at is null or l.expires_at >= $8::timestamptz))
        when 'resume' then exists (
            select from limits l where l.scope = $9 and l.rule = $10 and l.subject = b.id
                and (l.expires_at is null or l.expires_at > now()))
        else false
    end
order by b.id
