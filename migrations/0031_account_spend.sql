-- What a provider account may cost in a while: a limit of spend per window, and what counts for it.

alter table limits drop constraint limits_rule_check;
alter table limits add constraint limits_rule_check check (rule in ('videos_per_minute', 'requests_per_minute',
        'max_in_flight', 'weight', 'paused', 'spend_credits', 'spend_window_secs')),
    add constraint limits_spend_check check (rule not in ('spend_credits', 'spend_window_secs') or scope = 'account'),
    add constraint limits_window_check check (rule <> 'spend_window_secs' or value between 60 and 86400);

-- What the video's present turn was counted for at its account; it counts no more when the turn was not used or nothing was
-- bought.
alter table videos add column turn_credits bigint;
alter table videos add constraint videos_turn_credits_check check (turn_credits >= 0) not valid;

-- What is spent counts from the release on and for a window after the slot of ten seconds in which the turn ends.
create function spend_slot(turn_until timestamptz) returns timestamptz
    language sql stable parallel safe set search_path = pg_catalog, public, pg_temp
    return date_bin(interval '10 seconds', turn_until, timestamptz '2000-01-01 00:00:00+00') + interval '10 seconds';

-- Nobody updates a row, so nobody waits for one: a row for each wave of releases and account, and one less than nothing for
-- what is given back. The leader folds the rows of a slot that is over into one and deletes what is older than a day.
create table account_spend (
    id bigint generated always as identity primary key,
    account text collate "C" not null check (account <> ''),
    slot timestamptz not null,
    credits bigint not null
);
create index account_spend_of on account_spend (account, slot) include (credits);

grant select, insert, delete on account_spend to freezeframe_app;
