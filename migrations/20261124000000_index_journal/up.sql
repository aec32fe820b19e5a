-- Whoever watches the fleet reads the journal by change_seq, whatever compute it is about.
CREATE INDEX IF NOT EXISTS journal_by_change ON journal (change_seq);
