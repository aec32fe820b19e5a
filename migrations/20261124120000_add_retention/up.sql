-- An expand step. What was pruned is remembered, so that whoever asks for it is told so instead of being given less.
CREATE TABLE IF NOT EXISTS retention (
    only_row          boolean PRIMARY KEY DEFAULT true CONSTRAINT retention_only_row CHECK (only_row),
    journal_pruned    bigint  NOT NULL DEFAULT 0 CONSTRAINT retention_journal_counts_up CHECK (journal_pruned >= 0),
    tombstones_pruned bigint  NOT NULL DEFAULT 0 CONSTRAINT retention_tombstones_count_up CHECK (tombstones_pruned >= 0)
) WITH (fillfactor = 50);
COMMENT ON TABLE retention IS 'Up to which change_seq the journal and the tombstones have gaps. Only a leader''s task moves it.';
INSERT INTO retention DEFAULT VALUES ON CONFLICT DO NOTHING;
CREATE INDEX IF NOT EXISTS computes_tombstones ON computes (deleted_at) WHERE deleted_at IS NOT NULL;
