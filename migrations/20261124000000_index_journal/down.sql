DROP INDEX IF EXISTS journal_by_change;
