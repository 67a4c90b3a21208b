-- The last wall between tenants. Requests act as `freezeframe_api`, which may do what admission, uploads and reading need
-- and no more, and sees only rows of the tenant that its transaction names in `freezeframe.tenant`: a query that forgets
-- its filter finds nothing. The engine and operators go on as `freezeframe_app`, across tenants.
--
-- `force row level security` stays off: the owner only migrates, and a later migration that must touch every tenant's rows
-- would silently touch none.

do $$
begin
    if not exists (select from pg_roles where rolname = 'freezeframe_api') then
        begin
            create role freezeframe_api nologin;
        exception when duplicate_object or unique_violation then
            null;
        end;
    end if;
    begin
        -- so that a session of the owner can act as it where requests have no login of their own
        execute format('grant freezeframe_api to %I', current_user);
    exception when insufficient_privilege then
        raise warning '% may not act as freezeframe_api: give requests a login of their own (database_api_url)', current_user;
    end;
end
$$;

-- Nobody puts a table or a function of his own where a query of ours would find it first.
revoke create on schema public from public;
grant usage on schema public to freezeframe_api;

-- What requests may do. Columns that follow from the life of a row (states, counters, times) are not theirs to write.
grant select (id, name, videos_per_minute, max_in_flight, retention_days, created_at) on tenants to freezeframe_api;
grant select, insert (tenant_id, key, request_hash, answer) on idempotency_keys to freezeframe_api;
grant select, insert (id, tenant_id, total, frozen_credits, request_id, webhook_url, metadata) on batches to freezeframe_api;
grant select, insert (batch_id, tenant_id, model, total, waiting) on batch_lanes to freezeframe_api;
grant select, insert (batch_id, tenant_id, id, position, model, prompt, seconds, size, custom_id, metadata, price_credits,
    price_offset, reference_image) on videos to freezeframe_api;
-- not at whom, under which handle, by which worker
grant select (video_id, n, state, unsent, sent_at, accepted_at, unknown_at, finished_at, failure_class) on attempts
    to freezeframe_api;
grant select on late_looks to freezeframe_api;
grant select, update (available) on wallets to freezeframe_api;
grant select, insert (batch_id, source, tenant_id, starts_at, frozen) on batch_holds to freezeframe_api;
grant select, insert (act, tenant_id, source, batch_id, from_account, to_account, amount, balance_of, balance_before,
    balance_after, video_count, actor, reason, request_id) on credit_ledger to freezeframe_api;
grant select, insert (tenant_id, sha256, media_type, width, height, bytes), update (uploaded_at, stored_at)
    on reference_images to freezeframe_api;
grant insert (tenant_id, sha256, batch_id) on reference_image_uses to freezeframe_api;
-- of no tenant: a callback is about an attempt, and the door that takes it verified a provider's signature
grant select, insert (account, subject, job, ended), update (job, ended, noted_at) on provider_callbacks to freezeframe_api;

-- Whose rows are seen and written. A table with a `tenant_id` must be among these; a test asks the catalogue.
do $$
declare
    one regclass;
begin
    for one in
        select c.oid::regclass from pg_class c join pg_attribute a on a.attrelid = c.oid
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and a.attname = 'tenant_id' and not a.attisdropped
    loop
        execute format('alter table %s enable row level security', one);
        execute format('create policy across_tenants on %s to freezeframe_app using (true) with check (true)', one);
        -- empty is what a transaction leaves behind on its session
        execute format($policy$create policy own_tenant on %s to freezeframe_api
            using (tenant_id = nullif(current_setting('freezeframe.tenant', true), ''))
            with check (tenant_id = nullif(current_setting('freezeframe.tenant', true), ''))$policy$, one);
    end loop;
end
$$;

alter table tenants enable row level security;
create policy across_tenants on tenants to freezeframe_app using (true) with check (true);
create policy own_tenant on tenants to freezeframe_api
    using (id = nullif(current_setting('freezeframe.tenant', true), ''));

-- an attempt is its video's, and what is seen of videos has its own policy
alter table attempts enable row level security;
create policy across_tenants on attempts to freezeframe_app using (true) with check (true);
create policy own_tenant on attempts for select to freezeframe_api
    using (exists (select from videos v where v.id = video_id));

alter table settlements enable row level security;
create policy across_tenants on settlements to freezeframe_app using (true) with check (true);
alter table delivery_attempts enable row level security;
create policy across_tenants on delivery_attempts to freezeframe_app using (true) with check (true);
alter table lane_routes enable row level security;
create policy across_tenants on lane_routes to freezeframe_app using (true) with check (true);

-- Of money, requests only freeze: no grant, charge or refund can be theirs, and nothing comes into a wallet by them.
create policy requests_only_freeze on credit_ledger as restrictive for insert to freezeframe_api with check (act = 'freeze');

create function refuse_to_fill_wallet() returns trigger language plpgsql as $$
begin
    raise exception 'a request only draws on a wallet' using errcode = 'insufficient_privilege';
end
$$;
create trigger wallets_only_drawn_by_requests before update on wallets for each row
    when (new.available > old.available and not pg_has_role(current_user, 'freezeframe_app', 'member'))
    execute function refuse_to_fill_wallet();

-- The two places where a request cannot name its tenant yet: what it shows is its permission.
create function tenant_of_key(key_hash bytea)
    returns table (id text, name text, videos_per_minute integer, max_in_flight integer)
    language sql stable security definer
as $$
    select t.id, t.name, t.videos_per_minute, t.max_in_flight
    from public.api_keys k join public.tenants t on t.id = k.tenant_id
    where k.hash = key_hash and k.revoked_at is null
$$;
comment on function tenant_of_key(bytea) is 'The tenant of an API key that is in force, by the hash of the key.';

create function stored_file(video_id text)
    returns table (output_key text, output_bytes bigint, output_sha256 bytea, thumbnail_kind text, thumbnail_bytes integer,
        thumbnail_sha256 bytea, finished_at timestamptz, retention_days integer, purging_at timestamptz, purged_at timestamptz)
    language sql stable security definer
as $$
    select v.output_key, v.output_bytes, v.output_sha256, v.thumbnail_kind, v.thumbnail_bytes, v.thumbnail_sha256,
        v.finished_at, t.retention_days, v.purging_at, v.purged_at
    from public.videos v join public.tenants t on t.id = v.tenant_id where v.id = video_id
$$;
comment on function stored_file(text) is 'The file of a video, for a link whose signature was checked.';

revoke execute on function tenant_of_key(bytea), stored_file(text) from public;
grant execute on function tenant_of_key(bytea), stored_file(text) to freezeframe_api;

-- Every function of ours finds our tables, whatever its caller's path: a temporary table of the same name comes last.
do $$
declare
    one regprocedure;
begin
    for one in
        select p.oid::regprocedure from pg_proc p
        where p.pronamespace = 'public'::regnamespace
            and not exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
    loop
        execute format('alter function %s set search_path = pg_catalog, public, pg_temp', one);
    end loop;
end
$$;
