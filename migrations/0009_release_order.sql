-- What waits for its first attempt needs no index: within its batch and model it is released in the order of positions, and
-- the lane remembers how far that has come. Only a video in back-off is found by its time. So a release changes no indexed
-- column of a wide row, and stays on its page like every other step of a video.

alter table batch_lanes add column next_position integer not null default 0 check (next_position >= 0);

drop index videos_waiting;
alter table videos drop constraint videos_check;
alter table videos alter column eligible_at drop default;
update videos set eligible_at = null where attempts_made = 0;
alter table videos add constraint videos_eligible_at_check
    check ((eligible_at is not null) = (state = 'waiting' and attempts_made > 0));
create index videos_in_back_off on videos (batch_id, model, eligible_at, position) where eligible_at is not null;
