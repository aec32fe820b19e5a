-- A contract step: whoever does not write the note may still follow, and may not lead.
UPDATE schema_compat SET lowest_writer = greatest(lowest_writer, 3);
