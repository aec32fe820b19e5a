-- An expand step: the build before this one goes on reading and writing beside it.
ALTER TABLE computes ADD COLUMN IF NOT EXISTS note text;
COMMENT ON COLUMN computes.note IS 'A line for people; only in the builds that tests make.';
