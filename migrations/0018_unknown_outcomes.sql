-- Outcomes that nobody knows when an attempt has to end: since when, and what is learned of them afterwards.
--
-- A value that an enum gets is of no use in the transaction that adds it: the law of the ledger that names these words is a
-- file of its own, 0021.

alter type ledger_act add value 'loss';
alter type ledger_account add value 'provider_payable';
alter type ledger_account add value 'provider_loss';
create type late_finding as enum ('succeeded', 'failed');

-- since when nobody knows whether the submission was accepted; stays when that is found out
alter table attempts add column unknown_at timestamptz;
update attempts set unknown_at = sent_at where state in ('unknown', 'unresolved');

-- Attempts that ended although their job may still succeed: looked at again with growing pauses, for a day. One narrow row
-- for each of them and none for any other.
create table late_looks (
    video_id text collate "C" not null,
    n integer not null,
    tenant_id text collate "C" not null,
    ended_at timestamptz not null default now(),
    looks integer not null default 0 check (looks >= 0),
    -- null when nobody looks any more
    next_look_at timestamptz default now() + interval '1 minute',
    -- what became of the job in the end; never anybody's money but ours
    finding late_finding,
    found_at timestamptz,
    primary key (video_id, n),
    check ((finding is null) = (found_at is null)),
    check (finding is null or next_look_at is null)
);
create index late_looks_due on late_looks (next_look_at) where next_look_at is not null;

grant select, insert, update on late_looks to freezeframe_app;
