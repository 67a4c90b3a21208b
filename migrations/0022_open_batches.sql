-- What is still open is little, however many batches there were: a wallet's held credits and the sweep read only that.
-- `finished_at` is written once, so the counts of a batch that is worked on are still updated on their page.
create index batches_open on batches (tenant_id, id) where finished_at is null;
