-- What apalis' job table does for every row, and we need only once for many, or not at all.
--
-- The insert trigger notifies row by row; our push notifies once for all the rows of its statement. Two indexes repeat
-- others to the letter (`unique_job_id` the primary key, `lidx` the one on `lock_by`), one serves idempotency keys that we
-- never give, and the foreign key asks for every fetched job whether its worker is registered, which each worker does
-- before it fetches. Every video's job would pay for them at its insert, its fetch and its end.

alter table apalis.jobs disable trigger notify_workers;
drop index if exists apalis.unique_job_id;
drop index if exists apalis.lidx;
drop index if exists apalis.idx_jobs_idempotency_key;
alter table apalis.jobs drop constraint if exists fk_worker_lock_by;
