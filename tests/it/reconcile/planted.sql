-- Every kind of difference that the database can show, planted one by one into a copy of a database with one finished batch
-- (two made, one failed) and one that waits. A part begins with its kind, the kinds that cannot but come with it, and the
-- question whose answer is the id that has to be named.

--- wallet = select tenant_id || '/paid' from tenants_one
update wallets set available = available + 1 where source = 'paid' and tenant_id = (select tenant_id from tenants_one);

--- batch_hold, hold_of_unfinished_batch = select batch_id || '/' || source from batch_holds where batch_id = (select id from waiting) limit 1
update batch_holds set refunded = 1 where batch_id = (select id from waiting);

--- hold_of_unfinished_batch, batch_price, batch_frozen = select id from waiting
update batches set frozen_credits = frozen_credits + 1 where id = (select id from waiting);

--- hold_of_finished_batch, batch_hold, batch_frozen = select id from finished
update batch_holds set frozen = frozen + 1 where batch_id = (select id from finished);

--- hold_without_batch, batch_hold = select 'nowhere'
insert into batch_holds (batch_id, source, tenant_id, starts_at, frozen) select 'nowhere', 'paid', tenant_id, 0, 5 from tenants_one;

--- charge_of_finished_batch = select id from finished
update batch_holds set charged = charged - 1, refunded = refunded + 1 where batch_id = (select id from finished);

--- settled_videos, batch_succeeded = select id from waiting
update batches set succeeded = 1 where id = (select id from waiting);

--- entry_without_wallet = select 'nobody/paid'
insert into credit_ledger (act, tenant_id, source, from_account, to_account, amount, balance_of, balance_before, balance_after, video_count, actor, reason, request_id)
values ('grant', 'nobody', 'paid', 'issued', 'available', 7, 'available', 0, 7, 0, 'x', 'x', 'x');

--- balance_continuity = select min(id)::text from credit_ledger where balance_of = 'available'
update credit_ledger set balance_before = balance_before + 1, balance_after = balance_after + 1
where id = (select min(id) from credit_ledger where balance_of = 'available');

--- held_continuity = select id::text from credit_ledger where act = 'charge'
update credit_ledger set balance_before = balance_before + 1, balance_after = balance_after + 1 where act = 'charge';

--- succeeded_video_not_charged, charge_of_finished_batch = select id from made
update settlements set amount = amount + 1 where video_id = (select id from made);

--- failed_video_not_refunded, video_refunds = select id from failed
update settlements set amount = amount + 1 where video_id = (select id from failed);

--- open_video_settled, settled_videos = select id from idle
insert into settlements (video_id, batch_id, outcome, amount) select id, batch_id, 'charged', price_credits from idle;

--- settlement_without_video = select 'no such video'
insert into settlements (video_id, batch_id, outcome, amount) values ('no such video', 'nowhere', 'refunded', 0);

--- refund_not_in_ledger, video_refunds = select id from failed
update credit_ledger set video_ids = '{}', video_count = 0 where act = 'refund';

--- refund_amount, wallet, batch_hold, balance_continuity, held_continuity = select id::text from credit_ledger where act = 'refund'
update credit_ledger set amount = amount + 1, balance_after = balance_after + 1 where act = 'refund';

--- video_refunds, refund_amount = select id from made
update credit_ledger set video_ids = video_ids || (select id from made), video_count = 2 where act = 'refund';

--- batch_price = select id from waiting
update videos set price_credits = price_credits + 1 where id = (select id from idle);

--- batch_frozen = select id from finished
update batch_holds set frozen = frozen + 1, refunded = refunded + 1 where batch_id = (select id from finished);

--- video_price_offset = select id from idle
update videos set price_offset = price_offset + 1 where id = (select id from idle);

--- batch_videos = select id from waiting
update batches set total = total + 1 where id = (select id from waiting);

--- batch_succeeded, settled_videos = select id from waiting
update batches set succeeded = 1 where id = (select id from waiting);

--- batch_failed, settled_videos = select id from waiting
update batches set failed = 1 where id = (select id from waiting);

--- finished_batch_events = select id from finished
delete from events where batch_id = (select id from finished);

--- key_without_batch = select tenant_id || '/lost order' from tenants_one
insert into idempotency_keys (tenant_id, key, request_hash, answer)
select tenant_id, 'lost order', sha256('x'), '{"batch_id": "bat_nowhere"}' from tenants_one;

--- lane_total = select id || '/sora-2' from waiting
update batch_lanes set total = total + 1 where batch_id = (select id from waiting);

--- lane_waiting = select id || '/sora-2' from waiting
update batch_lanes set waiting = waiting - 1 where batch_id = (select id from waiting);

--- lane_settled, lane_waiting = select id || '/sora-2' from waiting
update batch_lanes set waiting = waiting - 1, settled = settled + 1 where batch_id = (select id from waiting);

--- lane_in_flight = select id || '/sora-2/sora' from finished
update lane_routes set in_flight = 1 where batch_id = (select id from finished);

--- video_attempts_made = select id from idle
update videos set attempts_made = 1 where id = (select id from idle);

--- video_delivered_attempts = select id from made
update attempts set state = 'failed' where state = 'succeeded' and video_id = (select id from made);

--- idle_video_live_attempt, video_attempts_made = select id from idle
insert into attempts (video_id, n, id, lease_epoch, provider, upstream_model, worker) select id, 1, 'a', 1, 'sora', 'sora-2', 'w' from idle;

--- attempt_without_video = select 'no such video'
insert into attempts (video_id, n, id, state, lease_epoch, provider, upstream_model, worker, finished_at)
values ('no such video', 1, 'a', 'rejected', 1, 'sora', 'sora-2', 'w', now());

--- attempt_without_handle = select video_id || '/' || n from attempts where state = 'succeeded' and video_id = (select id from made)
do $$
declare rule text;
begin
    for rule in select conname from pg_constraint where conrelid = 'attempts'::regclass and contype = 'c' loop
        execute format('alter table attempts drop constraint %I', rule);
    end loop;
end
$$;
update attempts set handle = null where state = 'succeeded' and video_id = (select id from made);

--- provider_loss_of_batch, loss_without_unresolved_attempt = select id from finished
insert into provider_losses (video_id, n, tenant_id, batch_id, reason, credits)
select id, 1, (select tenant_id from tenants_one), (select id from finished), 'outcome_unknown', 0 from made;
insert into credit_ledger (act, tenant_id, batch_id, from_account, to_account, amount, balance_of, balance_before,
    balance_after, video_count, video_ids, actor, reason, request_id)
select 'loss', (select tenant_id from tenants_one), (select id from finished), 'provider_payable', 'provider_loss', 7,
    'provider_loss', 0, 7, 1, array[id], 'x', 'x', 'x' from made;

--- unresolved_attempt_without_loss, video_delivered_attempts = select id from made
update attempts set state = 'unresolved' where state = 'succeeded' and video_id = (select id from made);

--- late_success_without_loss = select id from failed
insert into late_looks (video_id, n, tenant_id, next_look_at, finding, found_at)
select id, 1, (select tenant_id from tenants_one), null, 'succeeded', now() from failed;

--- loss_without_unresolved_attempt, loss_not_in_ledger, provider_loss_of_batch = select id from made
insert into provider_losses (video_id, n, tenant_id, batch_id, reason, credits)
select id, 1, (select tenant_id from tenants_one), (select id from finished), 'outcome_unknown', 7 from made;

--- loss_not_in_ledger, loss_without_unresolved_attempt = select id from made
insert into provider_losses (video_id, n, tenant_id, batch_id, reason, credits)
select id, 1, (select tenant_id from tenants_one), (select id from finished), 'outcome_unknown', 7 from made;
insert into credit_ledger (act, tenant_id, batch_id, from_account, to_account, amount, balance_of, balance_before,
    balance_after, video_count, video_ids, actor, reason, request_id)
select 'loss', (select tenant_id from tenants_one), (select id from finished), 'provider_payable', 'provider_loss', 7,
    'provider_loss', 0, 7, 1, array['another'], 'x', 'x', 'x';
