-- Releases waiting videos lane by lane: those whose back-off is over first, then the never tried ones in the order of their
-- positions, of which everything before the lane's `next_position` has been released. Arrays of one length, one entry for
-- each way that videos of a lane take: $1 batch, $2 model, $3 videos at the most, $4 provider account, $5 upstream model,
-- $6 whether the lane is split by the account that its videos avoid, $7 the account that this part avoids (null: the part
-- that avoids none), $8 videos of the same part that earlier entries take, $9 how long a worker may begin them (ms). The lanes
-- are locked by the caller.
-- What videos cost, by $10 model, $11 account, $12 upstream model, $13 seconds and $14 size: $15 credits; others cost their
-- price. What is left to spend, by $16 account: $17 credits.
-- Answers a row for each released video, and one without a video for each account that has too little left for its next one.
with share as (
    select s.*, l.next_position
    from unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::bool[], $7::text[], $8::bigint[], $9::float8[])
        with ordinality as s (batch_id, model, videos, provider, upstream_model, split, avoid, skip, valid_ms, nth)
    join batch_lanes l on l.batch_id = s.batch_id and l.model = s.model
), chosen as (
    select v.*, s.nth, s.batch_id, s.model, s.provider, s.upstream_model, s.valid_ms
    from share s cross join lateral (
        -- not locked: only the leader releases, and its lease is locked
        with due as materialized (
            select id, eligible_at, position, seconds, size, price_credits from videos
            where batch_id = s.batch_id and model = s.model and eligible_at is not null and eligible_at <= now()
                and (not s.split or avoid is not distinct from s.avoid)
            order by eligible_at, position limit s.skip + s.videos
        )
        (select due.*, null::integer as first_position from due order by eligible_at, position offset s.skip)
        union all
        -- nothing is left to look for when the due ones are all that the lane may release
        (select id, null, position, seconds, size, price_credits, position from videos
        where batch_id = s.batch_id and position >= s.next_position and model = s.model
            and state = 'waiting' and eligible_at is null and s.avoid is null
        order by position limit s.skip + s.videos - (select greatest(count(*), s.skip) from due)
        offset (select greatest(s.skip - count(*), 0) from due))
    ) v
), cost as (
    select * from unnest($10::text[], $11::text[], $12::text[], $13::int[], $14::text[], $15::bigint[])
        as k (model, provider, upstream_model, seconds, size, credits)
), purse as (
    select * from unnest($16::text[], $17::bigint[]) as p (provider, credits)
), priced as (
    select c.*, coalesce(k.credits, c.price_credits) as credits
    from chosen c left join cost k on k.model = c.model and k.provider = c.provider
        and k.upstream_model = c.upstream_model and k.seconds = c.seconds and k.size = c.size
), judged as (
    select p.*, true as affordable from priced p where p.provider not in (select provider from purse)
    union all
    select p.*, sum(p.credits) over (partition by p.provider order by p.nth, p.eligible_at nulls last, p.position)
        <= purse.credits
    from priced p join purse on purse.provider = p.provider
), released as (
    update videos v set state = 'released', eligible_at = null, avoid = null,
        provider = c.provider, upstream_model = c.upstream_model, turn_until = now() + c.valid_ms * interval '1 ms',
        turn_credits = c.credits
    from judged c where c.affordable and v.id = c.id and v.state = 'waiting'
    returning v.id, v.batch_id, v.model, v.provider, v.turn_until, v.turn_credits, c.first_position
), counted as (
    -- videos that another account took may stand behind one that this one could not afford
    update batch_lanes l set waiting = l.waiting - r.videos,
        next_position = greatest(l.next_position, least(r.last_first + 1, d.first)),
        released_below = greatest(l.released_below, r.last_first + 1)
    from (select batch_id, model, count(*)::integer as videos, max(first_position) as last_first
        from released group by batch_id, model) r
    left join (select batch_id, model, min(first_position) as first from judged where not affordable
        group by batch_id, model) d on d.batch_id = r.batch_id and d.model = r.model
    where l.batch_id = r.batch_id and l.model = r.model
), led as (
    insert into lane_routes as f (batch_id, model, provider, in_flight)
    select batch_id, model, provider, count(*)::integer from released group by batch_id, model, provider
    on conflict (batch_id, model, provider) do update set in_flight = f.in_flight + excluded.in_flight
), spent as (
    insert into account_spend (account, slot, credits)
    select provider, spend_slot(turn_until), sum(turn_credits) from released group by provider, turn_until
), started as (
    update batches b set status = 'processing', started_at = now()
    where b.id in (select batch_id from released) and b.status = 'queued'
)
select id as "id?: VideoId", batch_id as "batch?: BatchId", model as "model?", provider as "provider!", turn_credits as "credits?"
from released
union all
select distinct null::text, null::text, null::text, provider, null::bigint from judged where not affordable
