-- How long files are kept, and how far their deletion is.
--
-- A file is deleted in three steps, each of which may be the last one before a crash: its row is marked (from then on no link
-- opens it), the object is deleted, the row says so. The video itself stays as it is: made, charged and accounted for.

-- days of 24 hours after a video was stored; null means what the installation is set to
alter table tenants add column retention_days integer check (retention_days between 1 and 36500);

alter table videos
    add column purging_at timestamptz,
    add column purged_at timestamptz,
    add constraint videos_purging_at_check check (purging_at is null or state = 'succeeded'),
    add constraint videos_purged_at_check check (purged_at is null or purging_at is not null);
-- what a crash left half done; none of its columns changes while a video is being made, so that claims and endings still
-- stay in place
create index videos_purging on videos (id) where purging_at is not null and purged_at is null;

-- when the last file of a finished batch was gone, so that nobody looks there again
alter table batches
    add column purged_at timestamptz,
    add constraint batches_purged_at_check check (purged_at is null or finished_at is not null);
create index batches_unpurged on batches (tenant_id, created_at) where purged_at is null;

-- when it was made sure that a failed attempt left no object behind
alter table attempts
    add column cleared_at timestamptz,
    add constraint attempts_cleared_at_check check (cleared_at is null or finished_at is not null);
create index attempts_uncleared on attempts (finished_at)
    where state = 'failed' and handle is not null and cleared_at is null;
