-- What every comparison of the books found, and on which incarnation of the database. Never changed: it is evidence, and
-- the last row tells the whole cluster when the next comparison is due.

create table reconciliations (
    id bigint generated always as identity primary key,
    -- when it had finished
    at timestamptz not null default clock_timestamp(),
    duration_ms integer not null check (duration_ms >= 0),
    -- the process that compared
    who text not null check (who <> ''),
    -- `start`: before the first worker of this incarnation; `regular`: when it was due; `command`: a person asked
    occasion text not null check (occasion in ('start', 'regular', 'command')),
    incarnation text collate "C" not null check (incarnation <> ''),
    clean boolean not null,
    -- workers may start on this incarnation: its money was right, or an operator said so, or workers were at it already
    admits boolean not null,
    -- the balance of each kind of account
    books jsonb not null,
    -- how many differences of each kind
    kinds jsonb not null,
    -- the first of them, each with its kind, id, stored and expected amount
    differences jsonb not null check (jsonb_array_length(differences) <= 200),
    -- the last video whose file was looked at, from where the next regular comparison goes on
    files_after text collate "C" not null,
    -- what files and provider accounts were compared, and what could not be
    compared jsonb not null,
    -- when the provider accounts were compared last
    providers_at timestamptz,
    check (clean = (kinds = '{}'::jsonb and (books ->> 'sum')::bigint = 0))
);
create index reconciliations_of_incarnation on reconciliations (incarnation, at);

create trigger reconciliations_append_only before update or delete or truncate on reconciliations
    for each statement execute function refuse_to_rewrite_history();

grant select, insert on reconciliations to freezeframe_app;

-- Another value after every restore from a backup and every promotion of a standby: which cluster, which timeline of its
-- log, which database. Where a managed server keeps the cluster's identity to itself, the other two have to do.
create function database_incarnation() returns text language plpgsql stable security definer set search_path = pg_catalog, public, pg_temp
as $$
declare
    cluster text;
begin
    begin
        select system_identifier::text into cluster from pg_control_system();
    exception when insufficient_privilege then
        cluster := 'unknown';
    end;
    return cluster || '/' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)
        || '/' || (select oid from pg_database where datname = current_database());
end
$$;
revoke execute on function database_incarnation() from public;
grant execute on function database_incarnation() to freezeframe_app;
