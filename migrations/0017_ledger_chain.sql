-- Tamper evidence of the ledger: a row for each entry, in the order in which the chainer came upon them after their commit
-- (ids commit out of order), whose hash covers the row before it, the whole entry and everything that stands here. Whoever
-- changes, removes or slips in an entry must write anew every hash from there on, and the checkpoints that are kept outside
-- of the database tell of that.

create table ledger_chain (
    -- counts from 1 without a gap; the key is what keeps two chainers from making two chains
    seq bigint primary key check (seq > 0),
    -- no foreign key: the check would write to the entry's row, and whoever may delete entries may switch it off
    entry_id bigint not null unique,
    -- no entry with this id or a lower one follows: the chainer knew that all of them were finished and chained
    settled_to bigint not null,
    hash bytea not null check (octet_length(hash) = 32),
    chained_at timestamptz not null
);
create trigger ledger_chain_append_only before update or delete or truncate on ledger_chain
    for each statement execute function refuse_to_rewrite_history();
grant select, insert on ledger_chain to freezeframe_app;
