-- What waits for its first attempt needs no index: within its batch and model it is released in the order of positions, and
-- the lane remembers how far that has come. Only a video that has been in a worker's hands before is found by its time. So
-- a release changes no indexed column of a wide row, and stays on its page like every other step of a video.
--
-- A scheduler of an earlier version finds no first attempts any more: stop those processes before this runs.

-- in the order in which the ends of videos take them
lock table videos, batch_lanes in access exclusive mode;

-- what lies before it has been released at least once
alter table batch_lanes add column next_position integer not null default 0 check (next_position >= 0);

drop index videos_waiting;
alter table videos drop constraint videos_check;
alter table videos alter column eligible_at drop default;
update videos set eligible_at = null where lease_epoch = 0 and eligible_at is not null;
-- a video that comes back without a time would lie before its lane's position and wait for ever
alter table videos add constraint videos_eligible_at_check
    check (case when state <> 'waiting' then eligible_at is null else eligible_at is not null or lease_epoch = 0 end);
create index videos_in_back_off on videos (batch_id, model, eligible_at, position) where eligible_at is not null;
