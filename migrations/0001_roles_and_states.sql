-- The words of every state, and the role that the service acts as.
--
-- The service connects as the owner only to migrate. Everything else runs as `freezeframe_app`, which owns nothing: it can
-- neither drop a trigger nor rewrite a ledger row. Each enum has a Rust enum of the same words; a test compares them.

create type batch_status as enum ('queued', 'processing', 'completed', 'partial', 'failed');
create type video_state as enum ('waiting', 'released', 'running', 'succeeded', 'failed');
create type attempt_state as enum ('sent', 'accepted', 'unknown', 'rejected', 'succeeded', 'failed', 'unresolved');
create type delivery_state as enum ('pending', 'delivered', 'given_up');
create type grant_source as enum ('promotional', 'paid', 'credit_line');
create type ledger_act as enum ('grant', 'freeze', 'charge', 'refund', 'adjustment');
create type ledger_account as enum ('issued', 'available', 'held', 'revenue');
create type settlement_outcome as enum ('charged', 'refunded');
create type failure_class as enum (
    'invalid_input', 'moderation', 'auth', 'no_credit', 'rate_limited', 'capacity', 'provider_fault', 'network',
    'timeout', 'expired', 'model_retired', 'storage_fault', 'outcome_unknown', 'poison'
);

-- A role belongs to the whole cluster, so another database may have made it already, or be making it right now.
do $$
begin
    if not exists (select from pg_roles where rolname = 'freezeframe_app') then
        begin
            create role freezeframe_app nologin;
        exception when duplicate_object or unique_violation then
            null;
        end;
    end if;
    if not pg_has_role(current_user, 'freezeframe_app', 'member') then
        execute format('grant freezeframe_app to %I', current_user);
    end if;
end
$$;

grant usage on schema public to freezeframe_app;
grant usage on schema apalis to freezeframe_app;
grant select, insert, update, delete on all tables in schema apalis to freezeframe_app;
grant execute on all functions in schema apalis to freezeframe_app;
