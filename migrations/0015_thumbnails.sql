-- The small picture that a provider makes of a finished video, stored beside it. Its key follows from the video's, so what is
-- kept is what a link has to know: the kind (which is the ending of its file name), the length and the hash. All null when
-- there is none. Written by the end of the video alone, and in no index, so that claims and endings still stay in place.
alter table videos
    add column thumbnail_kind text,
    add column thumbnail_bytes integer,
    add column thumbnail_sha256 bytea,
    add constraint videos_thumbnail_check check (
        num_nulls(thumbnail_kind, thumbnail_bytes, thumbnail_sha256) = 3
        or num_nulls(thumbnail_kind, thumbnail_bytes, thumbnail_sha256, output_key) = 0
            and thumbnail_kind in ('jpg', 'png', 'webp') and thumbnail_bytes > 0 and length(thumbnail_sha256) = 32);
