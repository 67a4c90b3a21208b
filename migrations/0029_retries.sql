-- Batches that retry the failed videos of another one.

-- the batch whose failed videos it holds
alter table batches add column retry_of text collate "C" check (retry_of <> id);
create index batches_retrying on batches (retry_of) where retry_of is not null;

-- The failed video that it stands for. Each is retried once: what fails again is retried from the batch that retried it, so
-- that no repeated request buys a video twice. Written once, so the videos' updates stay on their page.
alter table videos add column retry_of text collate "C";
create unique index videos_retried_once on videos (retry_of) where retry_of is not null;

-- A URL may hold a signature and is forgotten when its video ends; this says of a failed one that it had an image which is not
-- known any more, so that nobody orders another video in its place. The name of an upload is no secret and stays.
alter table videos add column image_forgotten boolean
    check (image_forgotten is null or image_forgotten and state = 'failed' and reference_image is null);
-- of those that failed before, all that may have had one, as far as their lanes or uses tell
update videos v set image_forgotten = true
from batch_lanes l
where l.batch_id = v.batch_id and l.model = v.model and v.state = 'failed' and v.reference_image is null
    and (l.with_images or exists (select from reference_image_uses u where u.batch_id = v.batch_id));
-- a worker that does not know of this yet forgets the image of what fails, and says nothing
create function note_forgotten_image() returns trigger language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
    new.image_forgotten := true;
    return new;
end
$$;
create trigger videos_note_forgotten_image before update on videos for each row
    when (old.reference_image is not null and new.reference_image is null and new.state = 'failed')
    execute function note_forgotten_image();

grant insert (retry_of) on batches, videos to freezeframe_api;

create function refuse_wrong_retry() returns trigger language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
    if not exists (select from batches b
        where b.id = new.retry_of and b.tenant_id = new.tenant_id and b.finished_at is not null)
    then
        raise exception 'batch % retries %, which is no batch of its tenant that has ended', new.id, new.retry_of
            using errcode = 'check_violation';
    end if;
    return new;
end
$$;
create trigger batches_retry_what_has_ended before insert on batches for each row
    when (new.retry_of is not null) execute function refuse_wrong_retry();

create function refuse_wrong_video_retry() returns trigger language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
    if not exists (select from videos v join batches b on b.retry_of = v.batch_id
        where v.id = new.retry_of and v.tenant_id = new.tenant_id and v.state = 'failed' and b.id = new.batch_id)
    then
        raise exception 'video % retries %, which is no failed video of the batch that its own one retries', new.id, new.retry_of
            using errcode = 'check_violation';
    end if;
    return new;
end
$$;
create trigger videos_retry_what_has_failed before insert on videos for each row
    when (new.retry_of is not null) execute function refuse_wrong_video_retry();
