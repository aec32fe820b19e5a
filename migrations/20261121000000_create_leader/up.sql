-- The tables of leadership. Their shape is a contract between versions: a newer binary reads and claims the
-- leader row before its own migrations run. A first boot runs this very file under an advisory lock
-- (pgfleet-persistence, bootstrap.rs) before anybody leads, so it must stay harmless when it is run again.

CREATE TABLE IF NOT EXISTS cluster (
    only_row   boolean     PRIMARY KEY DEFAULT true CONSTRAINT cluster_only_row CHECK (only_row),
    cluster_id uuid        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE cluster IS 'The identity of this fleet, minted by the first boot and carried by every fence.';

CREATE TABLE IF NOT EXISTS leader (
    only_row    boolean     PRIMARY KEY DEFAULT true CONSTRAINT leader_only_row CHECK (only_row),
    term        bigint      NOT NULL CONSTRAINT leader_term_positive CHECK (term > 0),
    instance_id uuid        NOT NULL,
    address     text        NOT NULL,
    renewals    bigint      NOT NULL DEFAULT 0,
    lease_ms    bigint      NOT NULL CONSTRAINT leader_lease_positive CHECK (lease_ms > 0),
    started_at  timestamptz NOT NULL DEFAULT now(),
    renewed_at  timestamptz NOT NULL DEFAULT now(),
    released_at timestamptz,
    -- Fencing rests on this constraint. Every fenced transaction holds FOR KEY SHARE on the row, and an UPDATE
    -- has to wait for that only if it changes a column of a plain unique index. Without it a claim would overtake
    -- writers that are still open. Renewals change no such column and therefore never wait for a writer.
    CONSTRAINT leader_term_key UNIQUE (term)
) WITH (fillfactor = 50);
COMMENT ON TABLE leader IS 'Who leads: at most one row, claimed by compare-and-set on (term, instance_id).';
COMMENT ON COLUMN leader.term IS 'The fencing token; grows with every claim.';
COMMENT ON COLUMN leader.instance_id IS 'The process that claimed; new for every process.';
COMMENT ON COLUMN leader.renewals IS 'Grows with every renewal; members judge the lease by whether it moved, on their own clock.';
COMMENT ON COLUMN leader.renewed_at IS 'For people; no decision is made from it.';
COMMENT ON COLUMN leader.released_at IS 'Set when the leader gave the row up; fences fail from then on.';
COMMENT ON CONSTRAINT leader_term_key ON leader IS 'Makes a claim wait for open fenced transactions. Never drop it.';

CREATE TABLE IF NOT EXISTS leader_history (
    term          bigint      PRIMARY KEY,
    instance_id   uuid        NOT NULL,
    address       text        NOT NULL,
    began         text        NOT NULL CONSTRAINT leader_history_began_known
                              CHECK (began IN ('first', 'step_down', 'released', 'crash', 'lease', 'revert')),
    started_at    timestamptz NOT NULL DEFAULT now(),
    ended         text        CONSTRAINT leader_history_ended_named CHECK (ended <> ''),
    ended_at      timestamptz,
    note          text,
    target_schema text        NOT NULL
);
COMMENT ON TABLE leader_history IS 'Every term for ever: who led, how it began, how it ended.';
COMMENT ON COLUMN leader_history.target_schema IS 'Newest migration that the leader of this term carried.';
