-- Intent, observation and journal of the computes, and the cursor that orders every committed change.

CREATE TABLE IF NOT EXISTS schema_compat (
    only_row      boolean PRIMARY KEY DEFAULT true CONSTRAINT schema_compat_only_row CHECK (only_row),
    lowest_reader integer NOT NULL,
    lowest_writer integer NOT NULL,
    CONSTRAINT schema_compat_order CHECK (lowest_reader > 0 AND lowest_reader <= lowest_writer)
);
COMMENT ON TABLE schema_compat IS 'Lowest schema numbers of programs that may read, and that may lead.';
INSERT INTO schema_compat (lowest_reader, lowest_writer) VALUES (1, 1) ON CONFLICT DO NOTHING;

CREATE TABLE IF NOT EXISTS change_cursor (
    only_row    boolean PRIMARY KEY DEFAULT true CONSTRAINT change_cursor_only_row CHECK (only_row),
    last_change bigint  NOT NULL CONSTRAINT change_cursor_counts_up CHECK (last_change >= 0)
) WITH (fillfactor = 50);
COMMENT ON TABLE change_cursor IS 'The last change_seq drawn. Only the writer of the leader moves it, once per transaction.';
INSERT INTO change_cursor (last_change) VALUES (0) ON CONFLICT DO NOTHING;

CREATE TABLE IF NOT EXISTS computes (
    compute_id text        PRIMARY KEY CONSTRAINT computes_id_form CHECK (compute_id ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$'),
    agent_url  text        NOT NULL,
    labels     jsonb       NOT NULL DEFAULT '{}' CONSTRAINT computes_labels_object CHECK (jsonb_typeof(labels) = 'object'),
    generation bigint      NOT NULL CONSTRAINT computes_generation_counts_up CHECK (generation >= 0),
    spec       jsonb       CONSTRAINT computes_spec_object CHECK (jsonb_typeof(spec) = 'object'),
    spec_hash  text        CONSTRAINT computes_hash_form CHECK (spec_hash ~ '^[0-9a-f]{64}$'),
    change_seq bigint      NOT NULL CONSTRAINT computes_change_seq_positive CHECK (change_seq > 0),
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deleted_at timestamptz,
    CONSTRAINT computes_spec_has_hash CHECK ((spec IS NULL) = (spec_hash IS NULL)),
    CONSTRAINT computes_spec_has_generation CHECK (spec IS NULL OR generation > 0),
    CONSTRAINT computes_tombstone_is_bare CHECK (deleted_at IS NULL OR spec IS NULL)
);
CREATE UNIQUE INDEX IF NOT EXISTS computes_change_seq_key ON computes (change_seq);
COMMENT ON TABLE computes IS 'What was asked for every compute. A deleted one stays as a tombstone, so that its generation never restarts.';
COMMENT ON COLUMN computes.change_seq IS 'Grows over the whole fleet in commit order; followers read by it.';
COMMENT ON COLUMN computes.spec_hash IS 'Made once from the JSON with sorted keys, compared as a value.';
COMMENT ON COLUMN computes.deleted_at IS 'Set on a tombstone.';

CREATE TABLE IF NOT EXISTS observed (
    compute_id text        PRIMARY KEY REFERENCES computes (compute_id),
    state      text        NOT NULL CONSTRAINT observed_state_named CHECK (state <> ''),
    observed   jsonb       NOT NULL CONSTRAINT observed_object CHECK (jsonb_typeof(observed) = 'object'),
    change_seq bigint      NOT NULL CONSTRAINT observed_change_seq_positive CHECK (change_seq > 0),
    updated_at timestamptz NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS observed_change_seq_key ON observed (change_seq);
COMMENT ON TABLE observed IS 'What each agent last reported; written only when it changes.';

CREATE TABLE IF NOT EXISTS journal (
    at         timestamptz NOT NULL,
    change_seq bigint      NOT NULL CONSTRAINT journal_change_seq_positive CHECK (change_seq > 0),
    compute_id text,
    term       bigint      NOT NULL CONSTRAINT journal_term_positive CHECK (term > 0),
    kind       text        NOT NULL CONSTRAINT journal_kind_known CHECK (kind IN ('transition', 'action')),
    actor      text        NOT NULL,
    reason     text,
    detail     jsonb       NOT NULL CONSTRAINT journal_detail_object CHECK (jsonb_typeof(detail) = 'object'),
    PRIMARY KEY (at, change_seq)
) PARTITION BY RANGE (at);
CREATE TABLE IF NOT EXISTS journal_default PARTITION OF journal DEFAULT;
CREATE INDEX IF NOT EXISTS journal_by_compute ON journal (compute_id, change_seq);
COMMENT ON TABLE journal IS 'Append-only record of observed transitions and operator actions: who, why, what.';
