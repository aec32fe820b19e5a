-- An expand step: a build that does not know these tables leaves them alone.

CREATE TABLE IF NOT EXISTS rollouts (
    rollout_id text        PRIMARY KEY CONSTRAINT rollouts_id_form CHECK (rollout_id ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$'),
    request    jsonb       NOT NULL CONSTRAINT rollouts_request_object CHECK (jsonb_typeof(request) = 'object'),
    plan       jsonb       NOT NULL CONSTRAINT rollouts_plan_object CHECK (jsonb_typeof(plan) = 'object'),
    phase      text        NOT NULL CONSTRAINT rollouts_phase_named CHECK (phase <> ''),
    resumes    text,
    halted     text,
    wave       integer     NOT NULL CONSTRAINT rollouts_wave_counts_up CHECK (wave >= 0),
    started_by text        NOT NULL,
    reason     text,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    ended_at   timestamptz
);
CREATE INDEX IF NOT EXISTS rollouts_under_way ON rollouts (rollout_id) WHERE ended_at IS NULL;
COMMENT ON TABLE rollouts IS 'Every roll-out: what was asked for and its phase. The leader alone moves it.';
COMMENT ON COLUMN rollouts.plan IS 'The numbers that the strategy came to when it was started.';
COMMENT ON COLUMN rollouts.resumes IS 'While it is paused or halted: the phase that goes on.';

CREATE TABLE IF NOT EXISTS rollout_computes (
    rollout_id          text        NOT NULL CONSTRAINT rollout_computes_of REFERENCES rollouts (rollout_id) ON DELETE CASCADE,
    ordinal             integer     NOT NULL CONSTRAINT rollout_computes_ordinal_counts_up CHECK (ordinal >= 0),
    compute_id          text        NOT NULL,
    phase               text        NOT NULL CONSTRAINT rollout_computes_phase_named CHECK (phase <> ''),
    previous_generation bigint,
    previous_spec       jsonb,
    previous_hash       text,
    generation          bigint,
    spec_hash           text,
    restored_generation bigint,
    error               text,
    updated_at          timestamptz NOT NULL,
    PRIMARY KEY (rollout_id, ordinal),
    CONSTRAINT rollout_computes_once UNIQUE (rollout_id, compute_id)
);
COMMENT ON TABLE rollout_computes IS 'The computes of every roll-out in their order. A row is changed in the same commit as the compute''s spec.';
COMMENT ON COLUMN rollout_computes.previous_spec IS 'What the compute had before this roll-out touched it; a roll-back puts it back.';
