DROP INDEX IF EXISTS computes_tombstones;
DROP TABLE IF EXISTS retention;
