-- Takes ended attempts whose next look is due, $1 at the most, and says when the one after it is: the pause is as long as
-- has passed since the end, at least a minute, up to a day after it; then there is one more after ten minutes and another. What
-- has had those is over, and the sweep forgets it.
with due as (
    select video_id, n from late_looks
    where next_look_at <= now() and next_look_at < ended_at + interval '1 day 20 minutes'
    order by next_look_at limit $1 for update skip locked
), taken as (
    update late_looks l set looks = l.looks + 1,
        next_look_at = case when now() < l.ended_at + interval '1 day' then greatest(now() + interval '1 minute',
            least(now() + (now() - l.ended_at), l.ended_at + interval '1 day')) else now() + interval '10 minutes' end
    from due where l.video_id = due.video_id and l.n = due.n
    returning l.video_id, l.n, l.ended_at
)
select a.video_id as "video!: VideoId", v.batch_id as "batch!: BatchId", a.n as "n!", a.id as "id!: AttemptId",
    a.provider as "provider!", a.upstream_model as "upstream_model!", a.handle, a.sent_at as "sent_at!",
    t.ended_at as "ended_at!", a.unsent is not null as "with_image!", a.state = 'rejected' as "not_bought!",
    v.model as "model!", v.prompt as "prompt!", v.seconds as "seconds!", v.size as "size!", v.price_credits as "price!: Credits"
from taken t join attempts a on a.video_id = t.video_id and a.n = t.n join videos v on v.id = t.video_id
