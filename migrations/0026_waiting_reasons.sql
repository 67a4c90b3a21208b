-- Why videos wait, by batch and model, as the leader saw it last. Written when it changes.
create type waiting_reason as enum ('queued', 'back_off', 'tenant_limit', 'model_limit', 'provider_limit', 'batch_pace',
    'cooldown', 'out_of_quota', 'refused', 'paused', 'no_route', 'no_worker');
alter table batch_lanes add column waiting_for waiting_reason;
