-- Images that are being deleted, those whose last try is longest ago first: what the store refuses to delete waits behind
-- the others.
create index reference_images_purging on reference_images (purging_at) where purging_at is not null;

comment on column attempts.unsent is
    'null for an attempt without an image, and for one with a handle; true while its image is being got; false once it was sent';
