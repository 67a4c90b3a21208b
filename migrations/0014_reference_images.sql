-- Reference images: what a video starts from. An item names a URL, or an image that its tenant has uploaded before.
--
-- A video without one pays for a null. Nothing of this is indexed on videos or changes while a video is made, so that claims
-- and endings still stay in place.

-- `https://...`, or `sha256:` and 64 hexadecimal digits for an uploaded one
alter table videos add column reference_image text;

-- true while nothing of the attempt has been sent because its image is being got; null for every other attempt. Whoever
-- takes over an attempt that is still unsent need not look it up: it is submitted.
alter table attempts
    add column unsent boolean,
    add constraint attempts_unsent_check check (unsent is null or handle is null);
-- whose job at the provider may still turn up without an owner
create index attempts_unresolved on attempts (provider, finished_at) where state = 'unresolved';

-- Uploaded images, by the hash of their bytes. The object's key follows from tenant and hash.
create table reference_images (
    tenant_id text collate "C" not null,
    sha256 bytea not null check (octet_length(sha256) = 32),
    media_type text not null check (media_type in ('image/jpeg', 'image/png', 'image/webp')),
    width integer not null check (width > 0),
    height integer not null check (height > 0),
    bytes bigint not null check (bytes > 0),
    created_at timestamptz not null default now(),
    -- for the last time
    uploaded_at timestamptz not null default now(),
    -- when its object was in the store for the first time; null while that is not sure
    stored_at timestamptz,
    -- it is being deleted: nobody may order with it any more
    purging_at timestamptz,
    primary key (tenant_id, sha256)
);
create index reference_images_by_age on reference_images (uploaded_at);

-- Which batches use an image: it is kept until the last of them has ended, and some days more.
create table reference_image_uses (
    tenant_id text collate "C" not null,
    sha256 bytea not null,
    batch_id text collate "C" not null,
    primary key (tenant_id, sha256, batch_id)
);

grant select, insert, update, delete on reference_images, reference_image_uses to freezeframe_app;
