-- What providers called back about. Hints only: they wake whoever waits for a job, and name the job of a submission whose
-- answer was lost. No state of a video or of money follows from a row here, and polling works without any.
--
-- Logged, and so on every standby: a provider does not repeat a callback that we have taken, and the name of an orphan is
-- worth the video that was paid for. One narrow row per video, written in groups.

create table provider_callbacks (
    account text collate "C" not null,
    -- 'att_...': the attempt that the callback's own address names; 'job:...': the job that a signed body names, at an address
    -- that all jobs of the account share
    subject text collate "C" not null,
    -- the job as the provider calls it; the first name stands
    job text,
    -- whether the provider said that it has ended
    ended boolean not null,
    -- when the row last learned something, before its commit
    noted_at timestamptz not null default clock_timestamp(),
    primary key (account, subject)
);
-- workers read what is new, the sweep deletes what is old
create index provider_callbacks_noted_at on provider_callbacks (noted_at);

grant select, insert, update, delete on provider_callbacks to freezeframe_app;
